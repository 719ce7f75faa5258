//! Checkpoint files: atomic, checksummed, the last good ones kept.
//!
//! A file is `magic (7 bytes), format (1 digit) | step u64 | payload | payload length u64 | XXH3 u64`, little endian. The checksum
//! covers everything before it. What the payload means is the trainer's business.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::Xxh3;

use super::atomic;

const MAGIC: [u8; 8] = *b"SELFCKP1";
const HEADER: u64 = 16;
const FOOTER: u64 = 16;
const ENDING: &str = "ckpt";

/// The folder of one run's checkpoints. One process writes to it at a time (see [`super::RunDir`]'s lock).
#[derive(Debug)]
pub struct CheckpointStore {
    folder: PathBuf,
    keep: usize,
    /// Steps whose files this store has read back and found good.
    verified: BTreeSet<u64>,
}

/// A checkpoint that was read and whose checksum holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Training steps done when it was saved.
    pub step: u64,
    /// The bytes given to [`CheckpointStore::save`].
    pub payload: Vec<u8>,
    /// One sentence for every newer checkpoint that had to be passed over.
    pub warnings: Vec<String>,
}

impl CheckpointStore {
    /// Opens `folder`, creating it if missing. `keep` good checkpoints survive each save (at least one does).
    ///
    /// Errors: `Io`.
    pub fn open(folder: impl Into<PathBuf>, keep: usize) -> Result<CheckpointStore> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|error| atomic::write_error(&folder, &error))?;
        Ok(CheckpointStore { folder, keep: keep.max(1), verified: BTreeSet::new() })
    }

    /// The checkpoints in `folder`, to be read; without any when there is no such folder.
    pub fn at(folder: impl Into<PathBuf>) -> CheckpointStore {
        CheckpointStore { folder: folder.into(), keep: usize::MAX, verified: BTreeSet::new() }
    }

    /// Saves `payload` as the checkpoint of `step` and returns its path.
    ///
    /// Errors: `Io`, `Corrupt` when the file does not read back as written. Older checkpoints are deleted only
    /// after the new one has been read back and found good.
    pub fn save(&mut self, step: u64, payload: &[u8]) -> Result<PathBuf> {
        self.save_with(step, |out| out.write_all(payload))
    }

    /// [`save`](Self::save) for a payload that is written piece by piece.
    pub fn save_with(&mut self, step: u64, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<PathBuf> {
        let path = self.path_of(step);
        self.verified.remove(&step);
        atomic::write_with(&path, |out| {
            let mut out = Summed { inner: out, hash: Xxh3::new(), len: 0 };
            out.write_all(&MAGIC)?;
            out.write_all(&step.to_le_bytes())?;
            fill(&mut out)?;
            let payload_len = out.len - HEADER;
            out.write_all(&payload_len.to_le_bytes())?;
            let sum = out.hash.digest();
            out.inner.write_all(&sum.to_le_bytes())
        })?;
        verify(&path, step)?;
        self.verified.insert(step);
        self.prune()?;
        Ok(path)
    }

    /// Steps of all checkpoint files, ascending, good or not; files still being written are no part of it.
    ///
    /// Errors: `Io`.
    pub fn list(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> = self.entries()?.iter().filter_map(|path| step_of(path)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Reads the checkpoint of `step`.
    ///
    /// Errors: `Io` (also when there is none), `Corrupt` when the checksum or the structure does not hold, `Config` for
    /// another format.
    pub fn load(&self, step: u64) -> Result<Checkpoint> {
        let payload = read(&self.path_of(step), step)?;
        Ok(Checkpoint { step, payload, warnings: Vec::new() })
    }

    /// Reads the newest good checkpoint; `None` when there is no checkpoint at all. A newer one that is corrupt
    /// is passed over and named in the result's `warnings`.
    ///
    /// Errors: as [`newest_of`](Self::newest_of), and `Corrupt` when there are checkpoints and none is good.
    pub fn latest(&self) -> Result<Option<Checkpoint>> {
        let steps = self.list()?;
        if let Some(found) = self.newest_of(&steps)? {
            return Ok(Some(found));
        }
        if steps.is_empty() {
            return Ok(None);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            self.folder.display().to_string(),
            format!("{} checkpoints, none of which is intact", steps.len()),
        )
        .expected("at least one whose checksum holds")
        .hint("start the run again in a new directory; these files cannot be recovered"))
    }

    /// Reads the newest good checkpoint of those of `steps`, which ascend; `None` when none is good. A newer one that
    /// is corrupt is passed over and named in the result's `warnings`.
    ///
    /// Errors: those of a checkpoint that may be good and cannot be read: `Io`; `Config` for one of another format.
    pub fn newest_of(&self, steps: &[u64]) -> Result<Option<Checkpoint>> {
        let mut warnings = Vec::new();
        for &step in steps.iter().rev() {
            match self.load(step) {
                Ok(found) => return Ok(Some(Checkpoint { warnings, ..found })),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    warnings.push(format!("{}; falling back to an older checkpoint", error.sentence()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The file that holds, or would hold, the checkpoint of `step`.
    pub fn path_of(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:012}.{ENDING}"))
    }

    /// Deletes what is older than the `keep` newest good checkpoints, and files left half-written by a crash.
    fn prune(&mut self) -> Result<()> {
        let mut good = 0;
        for step in self.list()?.into_iter().rev() {
            let path = self.path_of(step);
            if good == self.keep {
                fs::remove_file(&path).map_err(|error| atomic::write_error(&path, &error))?;
                self.verified.remove(&step);
            } else if self.verified.contains(&step) || verify(&path, step).is_ok() {
                self.verified.insert(step);
                good += 1;
            }
        }
        for path in self.entries()? {
            if path.extension().is_some_and(|ending| ending == atomic::PARTIAL) {
                fs::remove_file(&path).map_err(|error| atomic::write_error(&path, &error))?;
            }
        }
        Ok(())
    }

    /// Everything in the folder, in the order of names.
    fn entries(&self) -> Result<Vec<PathBuf>> {
        let read = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let mut paths = read.map_err(|error| Error::io(&self.folder, &error))?;
        paths.sort_unstable();
        Ok(paths)
    }
}

/// A writer that counts and checksums what passes through.
struct Summed<'a> {
    inner: &'a mut dyn Write,
    hash: Xxh3,
    len: u64,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(ENDING)?.strip_suffix('.')?.parse().ok()
}

/// Reads `path` to its end without keeping it; fails as [`read`] does.
fn verify(path: &Path, step: u64) -> Result<()> {
    scan(path, step, &mut io::sink())
}

fn read(path: &Path, step: u64) -> Result<Vec<u8>> {
    let mut payload = Vec::new();
    scan(path, step, &mut payload)?;
    Ok(payload)
}

/// Copies the payload to `out` and checks everything around it.
fn scan(path: &Path, step: u64, out: &mut dyn Write) -> Result<()> {
    let io_error = |error: io::Error| Error::io(path, &error);
    let corrupt = |got: String| Error::new(ErrorKind::Corrupt, path.display().to_string(), got);
    let file = File::open(path).map_err(io_error)?;
    let file_len = file.metadata().map_err(io_error)?.len();
    let Some(payload_len) = file_len.checked_sub(HEADER + FOOTER) else {
        return Err(corrupt(format!("{file_len} bytes")).expected(format!("at least {}", HEADER + FOOTER)));
    };
    let mut source = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER as usize];
    source.read_exact(&mut header).map_err(io_error)?;
    let (magic, format) = (&header[..7], header[7]);
    if *magic != MAGIC[..7] {
        return Err(corrupt("a file that is no checkpoint".into()).expected("the checkpoint signature at its start"));
    }
    let mut out = Summed { inner: out, hash: Xxh3::new(), len: 0 };
    out.hash.update(&header);
    io::copy(&mut source.by_ref().take(payload_len), &mut out).map_err(io_error)?;
    let mut footer = [0; FOOTER as usize];
    source.read_exact(&mut footer).map_err(io_error)?;
    let (length, expected) = footer.split_at(8);
    out.hash.update(length);
    if out.hash.digest().to_le_bytes() != expected {
        return Err(corrupt("a wrong checksum: the file was cut off or changed".into()));
    }
    // Known only now that no bit is wrong: a damaged file is passed over, a newer one must not be.
    if format != MAGIC[7] {
        let format = char::from(format);
        return Err(Error::new(
            ErrorKind::Config,
            path.display().to_string(),
            format!("a checkpoint of format {format}"),
        )
        .expected(format!("format {}", char::from(MAGIC[7])))
        .hint("another version of selfsame wrote it: resume with that one"));
    }
    if length != payload_len.to_le_bytes() || header[8..] != step.to_le_bytes() {
        return Err(corrupt("a checkpoint of another step or length than its name and size say".into()));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes the good checkpoint at `path` one of the format after ours.
    pub(crate) fn make_newer(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        bytes[7] = MAGIC[7] + 1;
        let body = bytes.len() - 8;
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..body]);
        bytes[body..].copy_from_slice(&sum.to_le_bytes());
        fs::write(path, bytes).unwrap();
    }

    fn store(keep: usize) -> (tempfile::TempDir, CheckpointStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(folder.path().join("checkpoints"), keep).unwrap();
        (folder, store)
    }

    fn payload(step: u64) -> Vec<u8> {
        (0..5000u64).map(|i| (i * 31 + step * 7) as u8).collect()
    }

    #[test]
    fn save_reads_back_the_same_bytes() {
        let (_folder, mut store) = store(3);
        assert_eq!(store.latest().unwrap(), None);
        store.save(7, &payload(7)).unwrap();
        store.save(9, b"").unwrap();
        assert_eq!(store.load(7).unwrap().payload, payload(7));
        let latest = store.latest().unwrap().unwrap();
        assert_eq!((latest.step, latest.payload.len(), latest.warnings.len()), (9, 0, 0));
        assert_eq!(store.load(8).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn save_with_equals_save() {
        let (_folder, mut store) = store(3);
        let path = store.save(4, &payload(4)).unwrap();
        let whole = fs::read(&path).unwrap();
        store.save_with(4, |out| payload(4).chunks(613).try_for_each(|piece| out.write_all(piece))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn save_keeps_the_newest() {
        let (_folder, mut store) = store(2);
        for step in [100, 20, 300, 1000] {
            store.save(step, &payload(step)).unwrap();
        }
        assert_eq!(store.list().unwrap(), [300, 1000]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (_folder, mut store) = store(5);
        let small = b"state of step five";
        let path = store.save(5, small).unwrap();
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert_eq!(store.load(5).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert_eq!(store.load(5).unwrap_err().kind(), ErrorKind::Corrupt, "cut to {len} bytes");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert_eq!(store.load(5).unwrap_err().kind(), ErrorKind::Corrupt, "a byte too many");
    }

    #[test]
    fn renamed_checkpoint_is_refused() {
        let (_folder, mut store) = store(5);
        let path = store.save(5, &payload(5)).unwrap();
        fs::rename(path, store.path_of(6)).unwrap();
        assert_eq!(store.load(6).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn latest_falls_back_to_the_last_good_one_and_says_so() {
        let (_folder, mut store) = store(3);
        for step in [10, 20, 30] {
            store.save(step, &payload(step)).unwrap();
        }
        let newest = store.path_of(30);
        fs::write(&newest, &fs::read(&newest).unwrap()[..3000]).unwrap();
        let found = store.latest().unwrap().unwrap();
        assert_eq!((found.step, &found.payload), (20, &payload(20)));
        assert_eq!(found.warnings.len(), 1);
        assert!(found.warnings[0].contains("step-000000000030"), "{}", found.warnings[0]);
        for step in [10, 20] {
            fs::write(store.path_of(step), b"gone").unwrap();
        }
        assert_eq!(store.latest().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_newer_format_is_refused_and_not_passed_over() {
        let (_folder, mut store) = store(3);
        store.save(1, &payload(1)).unwrap();
        make_newer(&store.save(2, &payload(2)).unwrap());
        let error = store.latest().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.sentence().contains("format 2") && error.sentence().contains("format 1"), "{}", error.sentence());
    }

    #[cfg(unix)]
    #[test]
    fn one_that_cannot_be_read_is_not_passed_over() {
        let (_folder, mut store) = store(3);
        store.save(1, &payload(1)).unwrap();
        let path = store.path_of(2);
        // A link to itself: no user may open it, the superuser included.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = store.latest().unwrap_err();
        assert!(error.kind() == ErrorKind::Io && error.sentence().contains("step-000000000002"), "{error}");
        assert_eq!(store.newest_of(&[1]).unwrap().unwrap().step, 1);
    }

    #[test]
    fn prune_counts_good_checkpoints_only() {
        let (folder, mut store) = store(2);
        for step in [10, 20] {
            store.save(step, &payload(step)).unwrap();
        }
        fs::write(store.path_of(20), b"damaged").unwrap();
        // A fresh store, as after a restart, has to find the damage itself.
        let mut store = CheckpointStore::open(folder.path().join("checkpoints"), 2).unwrap();
        store.save(30, &payload(30)).unwrap();
        assert_eq!(store.list().unwrap(), [10, 20, 30], "10 is one of the two good ones");
        store.save(40, &payload(40)).unwrap();
        assert_eq!(store.list().unwrap(), [30, 40]);
    }

    #[test]
    fn leftover_of_a_crash_is_ignored_then_removed() {
        let (_folder, mut store) = store(2);
        store.save(10, &payload(10)).unwrap();
        let leftover = store.path_of(20).with_extension("ckpt.partial");
        fs::write(&leftover, b"half a checkpoint").unwrap();
        assert_eq!(store.list().unwrap(), [10]);
        assert_eq!(store.latest().unwrap().unwrap().step, 10);
        store.save(30, &payload(30)).unwrap();
        assert!(!leftover.exists());
        assert_eq!(store.list().unwrap(), [10, 30]);
    }

    #[test]
    fn failed_save_keeps_the_old_checkpoint_of_the_same_step() {
        let (_folder, mut store) = store(1);
        store.save(10, &payload(10)).unwrap();
        let full = |out: &mut dyn Write| {
            out.write_all(&[1; 100])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        assert_eq!(store.save_with(10, full).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(store.save_with(11, full).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(store.latest().unwrap().unwrap().payload, payload(10));
    }

    #[test]
    fn folder_that_cannot_be_made_is_an_io_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        fs::write(&file, b"a file").unwrap();
        let error = CheckpointStore::open(file.join("checkpoints"), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.sentence().contains("plain"));
    }
}
