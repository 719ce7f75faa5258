//! TensorBoard event files: scalars, images and histograms, without protocol-buffer or TensorFlow libraries.
//!
//! A file is a row of TFRecords (`length u64 | masked CRC32C of it | Event | masked CRC32C of it`); an `Event` is a
//! protocol-buffer message of `tensorflow/core/util/event.proto`, whose field numbers stand beside each write here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use selfsame_engine::{Error, ErrorKind, Result};

use super::atomic;
use super::report::RgbImage;

/// Writes one event file. Each process that works on a run writes a file of its own, numbered.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    clock: fn() -> f64,
}

impl EventWriter {
    /// Starts the next event file in `folder`. `resumed` is the number of steps done before this process began;
    /// TensorBoard then forgets what an earlier, interrupted process wrote beyond it. `None` for a new run.
    ///
    /// Errors: `Io`.
    pub fn create(folder: &Path, resumed: Option<u64>) -> Result<EventWriter> {
        EventWriter::with_clock(folder, resumed, seconds_since_epoch)
    }

    fn with_clock(folder: &Path, resumed: Option<u64>, clock: fn() -> f64) -> Result<EventWriter> {
        // TensorBoard reads the files of a folder in the order of their names.
        let number = fs::read_dir(folder)
            .map_err(|error| Error::io(folder, &error))?
            .filter_map(|entry| Some(event_file_number(entry.ok()?.file_name().to_str()?)? + 1))
            .max()
            .unwrap_or(0);
        let path = folder.join(format!("{PREFIX}{number:010}.selfsame"));
        let file = File::create_new(&path).map_err(|error| atomic::write_error(&path, &error))?;
        let mut writer = EventWriter { path, file, clock };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2"); // Event.file_version
        writer.write_event(0, version)?;
        if let Some(steps) = resumed {
            let mut session = Message::default();
            session.varint(1, 1); // SessionLog.status = START: forget earlier events of this step and later
            let mut start = Message::default();
            start.bytes(7, &session.0); // Event.session_log
            writer.write_event(steps + 1, start)?;
        }
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One number of `step` under `tag` (a path such as `loss` or `eval/knn`).
    ///
    /// Errors: `Io`.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> Result<()> {
        let mut entry = Message::default();
        entry.float(2, value); // Summary.Value.simple_value
        self.write_summary(step, tag, entry)
    }

    /// One picture of `step` under `tag`.
    ///
    /// Errors: `Io`.
    pub fn image(&mut self, step: u64, tag: &str, image: &RgbImage) -> Result<()> {
        let mut body = Message::default();
        body.varint(1, u64::from(image.height())); // Summary.Image.height
        body.varint(2, u64::from(image.width())); // Summary.Image.width
        body.varint(3, 3); // Summary.Image.colorspace = RGB
        body.bytes(4, &image.to_png()?); // Summary.Image.encoded_image_string
        let mut entry = Message::default();
        entry.bytes(4, &body.0); // Summary.Value.image
        self.write_summary(step, tag, entry)
    }

    /// The distribution of `values` at `step` under `tag`, in [`HISTOGRAM_BINS`] bins of equal width between the
    /// smallest and the largest value.
    ///
    /// Errors: `Io`, `NonFinite` when a value is NaN or infinite (a bin cannot hold it).
    pub fn histogram(&mut self, step: u64, tag: &str, values: &[f32]) -> Result<()> {
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::new(ErrorKind::NonFinite, format!("histogram {tag}"), format!("a value {bad}")));
        }
        let mut entry = Message::default();
        entry.bytes(5, &histogram_message(values).0); // Summary.Value.histo
        self.write_summary(step, tag, entry)
    }

    /// Makes all events durable.
    ///
    /// Errors: `Io`.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|error| atomic::write_error(&self.path, &error))
    }

    fn write_summary(&mut self, step: u64, tag: &str, entry: Message) -> Result<()> {
        let mut value = Message::default();
        value.bytes(1, tag.as_bytes()); // Summary.Value.tag
        value.0.extend(entry.0);
        let mut summary = Message::default();
        summary.bytes(1, &value.0); // Summary.value
        let mut event = Message::default();
        event.bytes(5, &summary.0); // Event.summary
        self.write_event(step, event)
    }

    fn write_event(&mut self, step: u64, content: Message) -> Result<()> {
        let mut event = Message::default();
        event.double(1, (self.clock)()); // Event.wall_time
        event.varint(2, step); // Event.step
        event.0.extend(content.0);
        self.file.write_all(&record(&event.0)).map_err(|error| atomic::write_error(&self.path, &error))
    }
}

/// Number of bins of [`EventWriter::histogram`].
pub const HISTOGRAM_BINS: usize = 64;

const PREFIX: &str = "events.out.tfevents.";

/// The number in the name of an event file of ours.
pub(super) fn event_file_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(".selfsame")?.parse().ok()
}

fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// `HistogramProto`: every bin holds the values up to and including its limit.
fn histogram_message(values: &[f32]) -> Message {
    let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut sum, mut squares) = (0.0, 0.0);
    for value in values.iter().map(|&value| f64::from(value)) {
        min = if value < min { value } else { min };
        max = if value > max { value } else { max };
        sum += value;
        squares += value * value;
    }
    if values.is_empty() {
        (min, max) = (0.0, 0.0);
    }
    let width = (max - min) / HISTOGRAM_BINS as f64;
    let limits: Vec<f64> = (1..HISTOGRAM_BINS).map(|bin| min + width * bin as f64).chain([max]).collect();
    let mut counts = vec![0.0; HISTOGRAM_BINS];
    for &value in values {
        let bin = limits.partition_point(|&limit| limit < f64::from(value));
        counts[bin] += 1.0;
    }
    let mut histogram = Message::default();
    for (field, value) in [(1, min), (2, max), (3, values.len() as f64), (4, sum), (5, squares)] {
        histogram.double(field, value);
    }
    histogram.packed_doubles(6, &limits); // bucket_limit
    histogram.packed_doubles(7, &counts); // bucket
    histogram
}

/// A protocol-buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn packed_doubles(&mut self, field: u64, values: &[f64]) {
        let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(field, &packed);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

/// One TFRecord.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(content.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked_crc32c(content).to_le_bytes());
    record
}

/// TFRecord's checksum: CRC32C, rotated and offset so that a checksum of checksums stays useful.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 with Castagnoli's polynomial (RFC 3720, section 12.1), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| CRC32C_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const CRC32C_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// One field of a decoded message: its number, and its bytes (varints as eight little-endian bytes).
    type Field = (u64, Vec<u8>);

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }

    fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (head, tail) = bytes.split_at(len);
        *bytes = tail;
        head
    }

    fn fields(mut bytes: &[u8]) -> Vec<Field> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let content = match key & 7 {
                0 => take_varint(&mut bytes).to_le_bytes().to_vec(),
                1 => take(&mut bytes, 8).to_vec(),
                2 => {
                    let len = take_varint(&mut bytes) as usize;
                    take(&mut bytes, len).to_vec()
                }
                5 => take(&mut bytes, 4).to_vec(),
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, content));
        }
        found
    }

    fn field(message: &[Field], number: u64) -> &[u8] {
        &message.iter().find(|(found, _)| *found == number).unwrap_or_else(|| panic!("no field {number}")).1
    }

    fn double(bytes: &[u8]) -> f64 {
        f64::from_le_bytes(bytes.try_into().unwrap())
    }

    /// All events of a file, checksums checked.
    fn events(path: &Path) -> Vec<Vec<Field>> {
        let file = fs::read(path).unwrap();
        let mut rest = &file[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = take(&mut rest, 8);
            assert_eq!(take(&mut rest, 4), masked_crc32c(length).to_le_bytes());
            let content = take(&mut rest, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(take(&mut rest, 4), masked_crc32c(content).to_le_bytes());
            found.push(fields(content));
        }
        found
    }

    fn only_value(event: &[Field]) -> Vec<Field> {
        fields(field(&fields(field(event, 5)), 1))
    }

    #[test]
    fn crc32c_matches_rfc_3720() {
        // Appendix B.4 of the RFC.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn events_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::with_clock(folder.path(), None, || 1234.5).unwrap();
        let image = RgbImage::new(3, 2, vec![90; 18]).unwrap();
        writer.scalar(300, "loss", 2.75).unwrap();
        writer.image(301, "views", &image).unwrap();
        writer.histogram(302, "weights", &[-1.0, 0.0, 0.0, 3.0]).unwrap();
        writer.sync().unwrap();

        let events = events(writer.path());
        assert_eq!(field(&events[0], 3), b"brain.Event:2");
        assert_eq!(double(field(&events[1], 1)), 1234.5);
        assert_eq!(field(&events[1], 2), 300u64.to_le_bytes());
        let scalar = only_value(&events[1]);
        assert_eq!((field(&scalar, 1), field(&scalar, 2)), (&b"loss"[..], &2.75f32.to_le_bytes()[..]));
        let picture = fields(field(&only_value(&events[2]), 4));
        assert_eq!((field(&picture, 1)[0], field(&picture, 2)[0]), (2, 3));
        assert_eq!(field(&picture, 4), image.to_png().unwrap());
        let histogram = fields(field(&only_value(&events[3]), 5));
        assert_eq!([1, 2, 3, 4, 5].map(|number| double(field(&histogram, number))), [-1.0, 3.0, 4.0, 2.0, 10.0]);
        let bins: Vec<f64> = field(&histogram, 7).chunks(8).map(double).collect();
        let limits: Vec<f64> = field(&histogram, 6).chunks(8).map(double).collect();
        assert_eq!((bins.len(), limits.len()), (HISTOGRAM_BINS, HISTOGRAM_BINS));
        let in_bin = |value: f64| bins[limits.iter().position(|&limit| value <= limit).unwrap()];
        assert_eq!((in_bin(-1.0), in_bin(0.0), in_bin(3.0), in_bin(1.0)), (1.0, 2.0, 1.0, 0.0));
    }

    #[test]
    fn histogram_of_nothing_and_of_one_value_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), None).unwrap();
        writer.histogram(1, "empty", &[]).unwrap();
        writer.histogram(1, "constant", &[2.0; 5]).unwrap();
        assert_eq!(writer.histogram(1, "bad", &[f32::NAN]).unwrap_err().kind(), ErrorKind::NonFinite);
    }

    #[test]
    fn resumed_process_starts_a_later_file_that_purges() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventWriter::create(folder.path(), None).unwrap().path().to_path_buf();
        let second = EventWriter::create(folder.path(), Some(40)).unwrap().path().to_path_buf();
        assert!(first < second);
        let start = &events(&second)[1];
        assert_eq!(field(start, 2), 41u64.to_le_bytes());
        assert_eq!(field(&fields(field(start, 7)), 1), 1u64.to_le_bytes());
    }
}
