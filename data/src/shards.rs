//! Packed shards: any data set as a few large files that are read where they lie.
//!
//! A shard is, in order:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SELFSHRD` |
//! | 4 | format version, little-endian |
//! | 8 | length of the pixels |
//! | 8 | length of the index |
//! | 8 | XXH3-64 of the pixels and the index |
//! | | pixels: each image's interleaved bytes, one after the other |
//! | | index: an `Index` in bincode 2, standard configuration |
//!
//! The index follows the pixels so that packing streams. Files are named `SPLIT-00000-of-00004.shard`, written beside
//! their final name and renamed when complete. Offsets are sums of image sizes, never read from the file.

use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use crate::image::{Bitmap, check_shape};
use crate::mapped::MappedFile;
use bincode::error::DecodeError;
use bincode::{Decode, Encode, decode_from_slice};
use selfsame_engine::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 8] = *b"SELFSHRD";
const VERSION: u32 = 1;
const PRELUDE: usize = 36;

/// More than a byte of an encoded index can stand for in memory: an empty class name is one byte, and a `String` 24.
const INDEX_DENSITY: usize = 32;

/// What a shard says about its images.
#[derive(Debug, PartialEq, Encode, Decode)]
struct Index {
    /// This shard's number and how many there are.
    shard: u32,
    shards: u32,
    /// Specification and checksum of the data set that was packed.
    source: String,
    source_checksum: u64,
    classes: Vec<String>,
    images: Vec<Entry>,
}

/// One image of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
struct Entry {
    height: u32,
    width: u32,
    channels: u8,
    label: Option<u32>,
}

impl Entry {
    fn shape(self) -> (usize, usize, usize) {
        (self.height as usize, self.width as usize, usize::from(self.channels))
    }

    fn bytes(self) -> usize {
        let (height, width, channels) = self.shape();
        height * width * channels
    }
}

/// Writes `dataset` into `dir` (made if need be) as shards of `shard_size` images, the last one smaller. Returns the
/// files.
///
/// An error when `dir` already holds shards of this split, when an image cannot be read, or when a file cannot be
/// written; shards written so far are then removed, so that no partial set remains.
pub fn pack(dataset: &dyn Dataset, dir: &Path, shard_size: usize) -> Result<Vec<PathBuf>> {
    if shard_size == 0 || dataset.is_empty() {
        return Err(Error::new(
            ErrorKind::Config,
            "data pack",
            format!("{} images in shards of {shard_size}", dataset.len()),
        )
        .expected("at least one image, at least one a shard"));
    }
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, &error))?;
    let info = dataset.describe();
    if let Some(existing) = list(dir, info.split)?.first() {
        return Err(Error::new(ErrorKind::Io, existing.display().to_string(), "a shard of this split exists already")
            .hint("remove the old shards or pack into another folder"));
    }
    let shards = dataset.len().div_ceil(shard_size);
    let mut written = Vec::with_capacity(shards);
    for shard in 0..shards {
        let path = dir.join(format!("{}-{shard:05}-of-{shards:05}.shard", info.split.name()));
        let images = shard * shard_size..dataset.len().min((shard + 1) * shard_size);
        let temporary = path.with_extension("shard.partial");
        let result = write_shard(dataset, &info, images, (shard as u32, shards as u32), &temporary)
            .and_then(|()| std::fs::rename(&temporary, &path).map_err(|error| Error::io(&path, &error)));
        if let Err(error) = result {
            for path in written.iter().chain([&temporary]) {
                // The first error is the one to report; a file that cannot be removed is found by the next `pack`.
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
        written.push(path);
    }
    Ok(written)
}

fn write_shard(
    dataset: &dyn Dataset,
    info: &DatasetInfo,
    range: std::ops::Range<usize>,
    (shard, shards): (u32, u32),
    path: &Path,
) -> Result<()> {
    let failed = |error: std::io::Error| Error::io(path, &error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(&[0; PRELUDE]).map_err(failed)?;
    let mut hash = Xxh3::new();
    let mut pixel_bytes = 0u64;
    let mut images = Vec::with_capacity(range.len());
    for index in range {
        let Sample { image, label } = dataset.get(index)?;
        file.write_all(&image.bytes).map_err(failed)?;
        hash.update(&image.bytes);
        pixel_bytes += image.bytes.len() as u64;
        // Sides are below 2^14 and channels 1 or 3 for every Bitmap that a reader builds.
        let Bitmap { height, width, channels, .. } = image;
        images.push(Entry { height: height as u32, width: width as u32, channels: channels as u8, label });
    }
    let (source, classes) = (info.spec.clone(), info.classes.clone());
    let index = Index { shard, shards, source, source_checksum: info.checksum, classes, images };
    let index = bincode::encode_to_vec(&index, bincode::config::standard())
        .map_err(|error| Error::new(ErrorKind::Io, path.display().to_string(), error.to_string()))?;
    hash.update(&index);
    file.write_all(&index).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let lengths = [pixel_bytes, index.len() as u64, hash.digest()];
    file.write_all(&MAGIC).map_err(failed)?;
    file.write_all(&VERSION.to_le_bytes()).map_err(failed)?;
    for length in lengths {
        file.write_all(&length.to_le_bytes()).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    file.get_ref().sync_all().map_err(failed)
}

/// The shard files of `split` in `dir`, sorted.
fn list(dir: &Path, split: Split) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| Error::io(dir, &error);
    let prefix = format!("{}-", split.name());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".shard")) {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// One verified shard.
#[derive(Debug)]
struct Shard {
    file: MappedFile,
    index: Index,
    /// Where each image begins in the file, and where the last one ends.
    offsets: Vec<usize>,
    checksum: u64,
}

impl Shard {
    fn open(path: &Path) -> Result<Shard> {
        let file = MappedFile::open(path)?;
        let (index, offsets, checksum) = parse(file.bytes()).map_err(|got| {
            file.corrupt(got)
                .expected("a complete shard written by `data pack`")
                .hint("the file is truncated or damaged: copy it again or pack again")
        })?;
        Ok(Shard { file, index, offsets, checksum })
    }
}

/// Index, image offsets and checksum of a shard's bytes, or what is wrong with them.
fn parse(bytes: &[u8]) -> std::result::Result<(Index, Vec<usize>, u64), String> {
    let Some((prelude, body)) = bytes.split_first_chunk::<PRELUDE>() else {
        return Err(format!("{} bytes, fewer than the {PRELUDE} of a header", bytes.len()));
    };
    if prelude[..8] != MAGIC {
        return Err("a file that does not begin with SELFSHRD".to_string());
    }
    let version = u32::from_le_bytes([prelude[8], prelude[9], prelude[10], prelude[11]]);
    if version != VERSION {
        return Err(format!("format version {version}, not {VERSION}"));
    }
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|k| prelude[at + k]));
    let (pixel_bytes, index_bytes, checksum) = (number(12), number(20), number(28));
    if pixel_bytes.checked_add(index_bytes) != Some(body.len() as u64) {
        return Err(format!(
            "{} bytes, with a header that promises {PRELUDE} + {pixel_bytes} + {index_bytes}",
            bytes.len()
        ));
    }
    let found = xxhash_rust::xxh3::xxh3_64(body);
    if found != checksum {
        return Err(format!("checksum {found:016x}, recorded as {checksum:016x}"));
    }
    let encoded = &body[pixel_bytes as usize..];
    let (index, used) = decode_index(encoded).map_err(|error| format!("an index that does not decode: {error}"))?;
    if used != encoded.len() {
        return Err(format!("{} bytes after the index", encoded.len() - used));
    }
    let mut offsets = vec![PRELUDE];
    let mut end = PRELUDE;
    for (number, entry) in index.images.iter().enumerate() {
        let (height, width, channels) = entry.shape();
        check_shape(height, width, channels).map_err(|error| format!("image {number}: {}", error.sentence()))?;
        if entry.label.is_some_and(|label| label as usize >= index.classes.len()) {
            return Err(format!("image {number}: label {:?} of {} classes", entry.label, index.classes.len()));
        }
        end += entry.bytes();
        offsets.push(end);
    }
    if (end - PRELUDE) as u64 != pixel_bytes || index.images.is_empty() {
        return Err(format!("{} images of {} bytes in {pixel_bytes} bytes", index.images.len(), end - PRELUDE));
    }
    Ok((index, offsets, checksum))
}

/// The index and the bytes it takes. No length in it makes the decoder take more memory than so many bytes justify.
fn decode_index(encoded: &[u8]) -> std::result::Result<(Index, usize), DecodeError> {
    let config = bincode::config::standard();
    // A limit is part of the configuration's type, so that a few stand for all.
    match encoded.len().saturating_mul(INDEX_DENSITY) {
        0..=0x4000 => decode_from_slice(encoded, config.with_limit::<0x4000>()),
        0x4001..=0x40_0000 => decode_from_slice(encoded, config.with_limit::<0x40_0000>()),
        0x40_0001..=0x4000_0000 => decode_from_slice(encoded, config.with_limit::<0x4000_0000>()),
        0x4000_0001..=0x8_0000_0000 => decode_from_slice(encoded, config.with_limit::<0x8_0000_0000>()),
        _ => Err(DecodeError::LimitExceeded),
    }
}

/// A packed data set.
#[derive(Debug)]
pub struct Shards {
    dir: PathBuf,
    split: Split,
    shards: Vec<Shard>,
    /// Number of images before each shard, and in all.
    starts: Vec<usize>,
}

impl Shards {
    /// The shards of `split` in `dir`. [`Split::Unlabelled`] falls back to the training shards when there are no others.
    ///
    /// Every shard is read once and checked against its checksum. An error names the shard that is missing, truncated
    /// or damaged, or of another pack than the first.
    pub fn open(dir: &Path, split: Split) -> Result<Shards> {
        let mut paths = list(dir, split)?;
        if paths.is_empty() && split == Split::Unlabelled {
            paths = list(dir, Split::Train)?;
        }
        if paths.is_empty() {
            return Err(Error::new(
                ErrorKind::Io,
                dir.display().to_string(),
                format!("no {}-*.shard files", split.name()),
            )
            .hint("`selfsame data pack SPEC` writes them"));
        }
        let shards: Result<Vec<Shard>> = paths.iter().map(|path| Shard::open(path)).collect();
        let shards = shards?;
        let first = &shards[0].index;
        for (number, Shard { file, index, .. }) in shards.iter().enumerate() {
            let same_pack = index.shards == first.shards
                && index.source == first.source
                && index.source_checksum == first.source_checksum
                && index.classes == first.classes;
            if !same_pack {
                return Err(file.corrupt("a shard of another pack").expected("shards of one pack in a folder"));
            }
            if index.shard as usize != number {
                return Err(file
                    .corrupt(format!("shard {} of {}", index.shard, index.shards))
                    .expected(format!("shard {number}: is a file missing?")));
            }
        }
        if first.shards as usize != shards.len() {
            return Err(Error::new(ErrorKind::Io, dir.display().to_string(), format!("{} shards", shards.len()))
                .expected(format!("{} shards", first.shards)));
        }
        let mut starts = vec![0];
        starts.extend(shards.iter().scan(0, |images, shard| {
            *images += shard.index.images.len();
            Some(*images)
        }));
        Ok(Shards { dir: dir.to_path_buf(), split, shards, starts })
    }
}

impl Dataset for Shards {
    fn len(&self) -> usize {
        *self.starts.last().expect("starts holds at least the 0 it is made with")
    }

    fn get(&self, index: usize) -> Result<Sample> {
        check_index("shards", index, self.len())?;
        let number = self.starts.partition_point(|&start| start <= index) - 1;
        let shard = &self.shards[number];
        let within = index - self.starts[number];
        let entry = shard.index.images[within];
        let (height, width, channels) = entry.shape();
        let bytes = shard.file.bytes()[shard.offsets[within]..shard.offsets[within + 1]].to_vec();
        Ok(Sample { image: Bitmap::new(height, width, channels, bytes)?, label: entry.label })
    }

    fn classes(&self) -> &[String] {
        &self.shards[0].index.classes
    }

    fn describe(&self) -> DatasetInfo {
        let entries = || self.shards.iter().flat_map(|shard| &shard.index.images);
        let first = self.shards[0].index.images[0];
        let is_uniform = entries().all(|entry| (entry.height, entry.width) == (first.height, first.width));
        let mut hash = Xxh3::new();
        for shard in &self.shards {
            hash.update(&shard.checksum.to_le_bytes());
        }
        DatasetInfo {
            name: "shards".into(),
            spec: format!("shards:{}", self.dir.display()),
            split: self.split,
            images: self.len(),
            size: is_uniform.then_some((first.height as usize, first.width as usize)),
            channels: entries().map(|entry| usize::from(entry.channels)).max().unwrap_or(3),
            classes: self.classes().to_vec(),
            checksum: hash.digest(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A well-formed shard around any index bytes.
    fn wrap(pixels: &[u8], index: &[u8]) -> Vec<u8> {
        let body = [pixels, index].concat();
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        for number in [pixels.len() as u64, index.len() as u64, xxhash_rust::xxh3::xxh3_64(&body)] {
            bytes.extend(number.to_le_bytes());
        }
        [bytes, body].concat()
    }

    fn index(images: Vec<Entry>) -> Vec<u8> {
        let index =
            Index { shard: 0, shards: 1, source: "x".into(), source_checksum: 0, classes: vec!["a".into()], images };
        bincode::encode_to_vec(&index, bincode::config::standard()).unwrap()
    }

    #[test]
    fn an_index_that_contradicts_its_pixels_is_refused() {
        let entry = Entry { height: 2, width: 3, channels: 1, label: Some(0) };
        assert!(parse(&wrap(&[7; 12], &index(vec![entry; 2]))).is_ok());
        assert!(parse(&wrap(&[7; 11], &index(vec![entry; 2]))).is_err());
        assert!(parse(&wrap(&[], &index(vec![]))).is_err());
        assert!(parse(&wrap(&[7; 6], &index(vec![Entry { label: Some(1), ..entry }]))).is_err());
        assert!(parse(&wrap(&[7; 6], &index(vec![Entry { channels: 2, ..entry }]))).is_err());
        let huge = Entry { height: u32::MAX, width: u32::MAX, ..entry };
        assert!(parse(&wrap(&[7; 6], &index(vec![huge; 3]))).is_err());
        assert!(parse(&wrap(&[7; 12], &[index(vec![entry; 2]), vec![0]].concat())).is_err());
    }

    #[test]
    fn a_length_beyond_the_index_takes_no_memory() {
        // Shard 0 of 1, whose source announces 500,000,000 bytes.
        let announced = [&[0, 1, 0xfc][..], &500_000_000u32.to_le_bytes(), b"scenes"].concat();
        assert!(matches!(decode_index(&announced), Err(DecodeError::LimitExceeded)));
        // The densest index there is: empty names alone, and the smallest entries.
        let classes = vec![String::new(); 100_000];
        let images = vec![Entry { height: 1, width: 1, channels: 1, label: None }; 100_000];
        let index = Index { shard: 0, shards: 1, source: String::new(), source_checksum: 0, classes, images };
        let encoded = bincode::encode_to_vec(&index, bincode::config::standard()).unwrap();
        assert_eq!(decode_index(&encoded).unwrap(), (index, encoded.len()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn any_index_under_a_right_checksum_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((index, offsets, _)) = parse(&wrap(&[], &bytes)) {
                prop_assert_eq!(offsets.len(), index.images.len() + 1);
            }
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0usize..60, by in 1u8..) {
            let entry = Entry { height: 2, width: 3, channels: 1, label: Some(0) };
            let mut bytes = wrap(&[7; 12], &index(vec![entry; 2]));
            let at = at % bytes.len();
            bytes[at] = bytes[at].wrapping_add(by);
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
