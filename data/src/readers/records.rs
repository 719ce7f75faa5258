//! Files that are a row of fixed-size records: what CIFAR, STL-10 and IDX share.

use crate::mapped::MappedFile;
use selfsame_engine::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// A mapped file of `len` records of `record` bytes after `skip` bytes of header.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) file: MappedFile,
    skip: usize,
    record: usize,
    len: usize,
}

impl Records {
    /// Maps a file without header that must hold a whole number of records, at least one.
    pub(crate) fn open(path: &Path, record: usize) -> Result<Records> {
        let file = MappedFile::open(path)?;
        let bytes = file.bytes().len();
        let len = bytes / record;
        if len == 0 || bytes % record != 0 {
            return Err(file
                .corrupt(format!("{bytes} bytes, {} after the last whole image", bytes % record))
                .expected(format!("a multiple of {record} bytes: {} or {}", len.max(1) * record, (len + 1) * record))
                .hint("the file is truncated or of another data set; download it again"));
        }
        Ok(Records { file, skip: 0, record, len })
    }

    /// Maps a file whose header of `skip` bytes promises `len` records.
    pub(crate) fn with_header(file: MappedFile, skip: usize, record: usize, len: usize) -> Result<Records> {
        let bytes = file.bytes().len();
        let expected = record.checked_mul(len).and_then(|body| body.checked_add(skip));
        if expected != Some(bytes) {
            let expected = expected.map_or("more than can be addressed".to_string(), |bytes| bytes.to_string());
            return Err(file
                .corrupt(format!("{bytes} bytes"))
                .expected(format!("{expected} bytes: {skip} of header and {len} records of {record}"))
                .hint("the file is truncated or its header is damaged; download it again"));
        }
        Ok(Records { file, skip, record, len })
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Record `index`, which must be below [`Records::len`].
    pub(crate) fn get(&self, index: usize) -> &[u8] {
        &self.file.bytes()[self.skip + index * self.record..][..self.record]
    }
}

/// 64 bits over the contents of `files`, in order.
pub(crate) fn checksum<'a>(files: impl IntoIterator<Item = &'a MappedFile>) -> u64 {
    let mut hash = Xxh3::new();
    for file in files {
        hash.update(&(file.bytes().len() as u64).to_le_bytes());
        hash.update(file.bytes());
    }
    hash.digest()
}

/// The first of `dir` and its sub-folder `nested` (the name inside the published archive) that holds `file`.
pub(crate) fn locate(dir: &Path, nested: &str, file: &str) -> Result<PathBuf> {
    if !dir.is_dir() {
        return Err(Error::new(ErrorKind::Io, dir.display().to_string(), "no such folder"));
    }
    let inner = dir.join(nested);
    if dir.join(file).is_file() {
        Ok(dir.to_path_buf())
    } else if inner.join(file).is_file() {
        Ok(inner)
    } else {
        Err(Error::new(ErrorKind::Io, dir.display().to_string(), format!("no file {file}"))
            .expected(format!("{file} here or in {nested}/"))
            .hint("unpack the data set's archive here"))
    }
}

/// The lines of a file of class names; `None` when there is no such file.
pub(crate) fn class_names(path: &Path, count: usize) -> Result<Option<Vec<String>>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, &error)),
    };
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() != count {
        return Err(Error::new(ErrorKind::Corrupt, path.display().to_string(), format!("{} class names", names.len()))
            .expected(format!("{count} lines")));
    }
    Ok(Some(names))
}

/// Three planes of `height` rows, one after the other, as interleaved pixels.
pub(crate) fn interleave(planes: &[u8]) -> Vec<u8> {
    let plane = planes.len() / 3;
    let (red, rest) = planes.split_at(plane);
    let (green, blue) = rest.split_at(plane);
    red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]).collect()
}
