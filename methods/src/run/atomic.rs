//! Whole-file writes that a crash cannot tear: temporary file in the same folder, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, Result};

/// Ending of a file that is still being written; one that is found later was left by a crash.
pub(super) const PARTIAL: &str = "partial";

/// Replaces `path` by what `fill` writes. Readers see the old content or the new, never a mixture; on any
/// error the old content stays and the temporary file is removed.
pub(super) fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_through(path, fill, |partial| File::create(partial))
}

/// A file being written, as far as a crash-safe write needs one.
trait Sink: Write {
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

impl Sink for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// [`write_with`] on a temporary file that `open` gives.
fn write_through<S: Sink>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    open: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<()> {
    let partial = partial_path(path);
    let written = open(&partial).and_then(|sink| fill_and_sync(sink, fill)).and_then(|()| fs::rename(&partial, path));
    if let Err(error) = written {
        // The first error is the one to report; a temporary file that cannot be removed either is ignored later.
        let _ = fs::remove_file(&partial);
        return Err(write_error(path, &error));
    }
    sync_folder(path).map_err(|error| write_error(path, &error))
}

/// [`write_with`] for content that is already in memory.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(content))
}

/// An input or output error on `path`, with advice where the cause is a common one.
#[track_caller]
pub(super) fn write_error(path: &Path, error: &io::Error) -> Error {
    let wrapped = Error::io(path, error);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            wrapped.hint("free some space and resume; what was there before this write is intact")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            wrapped.hint("choose a directory that you may write to")
        }
        _ => wrapped,
    }
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(PARTIAL);
    path.with_file_name(name)
}

fn fill_and_sync(sink: impl Sink, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, sink);
    fill(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync()
}

/// A rename is durable only once the folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Elsewhere a folder cannot be opened for syncing; the file system orders renames itself.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::ErrorKind;

    #[test]
    fn write_replaces_the_whole_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note.txt");
        write(&path, b"a longer first text").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file may stay");
    }

    /// A disk that takes few bytes at a time, has room for so many, and may refuse to make them durable.
    struct Disk {
        file: File,
        room: usize,
        most: usize,
        syncs: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.most).min(self.room);
            if len == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= len;
            self.file.write(&bytes[..len])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }

    impl Sink for Disk {
        fn sync(&self) -> io::Result<()> {
            if self.syncs { self.file.sync_all() } else { Err(io::Error::other("the device is gone")) }
        }
    }

    #[test]
    fn short_writes_are_completed_and_a_full_disk_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.bin");
        let content: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
        let write_to = |room: usize, most: usize, syncs: bool| {
            let open = |partial: &Path| Ok(Disk { file: File::create(partial)?, room, most, syncs });
            write_through(&path, |out| content.chunks(97).try_for_each(|piece| out.write_all(piece)), open)
        };
        write(&path, b"good").unwrap();
        for room in [0, 1, 96, 1500, 2999] {
            let error = write_to(room, 13, true).unwrap_err();
            assert!(error.sentence().contains("free some space"), "{}", error.sentence());
            assert_eq!(fs::read(&path).unwrap(), b"good", "{room} bytes of room");
        }
        assert_eq!(write_to(3000, 13, false).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(fs::read(&path).unwrap(), b"good", "what is not durable must not take its place");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file may stay");
        write_to(3000, 1, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
    }

    #[test]
    fn write_that_fails_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note.txt");
        write(&path, b"good").unwrap();
        let error = write_with(&path, |out| {
            out.write_all(b"half a")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.sentence().contains("note.txt") && error.sentence().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"good");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
