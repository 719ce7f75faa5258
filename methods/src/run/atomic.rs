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
    let partial = partial_path(path);
    let written = fill_and_sync(&partial, fill).and_then(|()| fs::rename(&partial, path));
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

fn fill_and_sync(partial: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(partial)?);
    fill(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
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
