//! Read-only files mapped into memory.
#![allow(unsafe_code)]

use memmap2::Mmap;
use selfsame_engine::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A file whose bytes are read where they lie in the page cache.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps `path`, or an error that names it.
    pub(crate) fn open(path: &Path) -> Result<MappedFile> {
        let file = File::open(path).map_err(|error| Error::io(path, &error))?;
        let metadata = file.metadata().map_err(|error| Error::io(path, &error))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Io, path.display().to_string(), "not a file"));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the mapping is private and read-only. As with every memory map, the process relies on nobody
            // truncating the file meanwhile; data sets are not edited while they are read, and the documentation of
            // `open` says so.
            let map = unsafe { Mmap::map(&file) };
            Some(map.map_err(|error| Error::io(path, &error))?)
        };
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    /// The content.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// An error of this file's content.
    #[track_caller]
    pub(crate) fn corrupt(&self, got: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, self.path.display().to_string(), got)
    }
}
