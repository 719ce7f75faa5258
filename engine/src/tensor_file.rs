//! Files of named arrays in the safetensors format, with text metadata.
//!
//! The same content gives the same bytes: metadata and names are sorted. (The header is written here because the
//! `safetensors` crate keeps metadata in a hash map, whose order changes from run to run.) Files are replaced
//! atomically: a reader sees the old content or the new, never a mixture.

use crate::bytes::{for_each_piece, from_bytes};
use crate::{Array, DType, Device, Error, ErrorKind, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The key under which the format keeps metadata; no array can have it as its name.
const METADATA: &str = "__metadata__";

/// Named arrays and text metadata.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    /// The arrays by name.
    pub tensors: BTreeMap<String, Array>,
    /// Text by key.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Reads a file; the arrays come to `device`.
    ///
    /// # Errors
    /// `Io` when it cannot be read, else as for [`TensorFile::from_bytes`], naming the path.
    pub fn read(path: impl AsRef<Path>, device: &Device) -> Result<TensorFile> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|e| Error::io(path, &e))?;
        TensorFile::from_bytes(&bytes, &path.display().to_string(), device)
    }

    /// Writes the file: into a temporary one beside it first, which takes its place when it is safely on the disk.
    ///
    /// # Errors
    /// `Io` when it cannot be written; then the old file, if any, is unchanged.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes()?;
        replace_file(path, &bytes).map_err(|e| Error::io(path, &e))
    }

    /// The content of a file that holds these arrays.
    ///
    /// # Errors
    /// When an array has the reserved name `__metadata__`, or `OutOfMemory`.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.tensors.contains_key(METADATA) {
            return Err(Error::new(ErrorKind::Config, "tensor file", format!("an array named {METADATA}"))
                .expected("another name: the format reserves this one"));
        }
        // Wide types first, so that every array is aligned to its element size.
        let mut tensors: Vec<(&String, &Array)> = self.tensors.iter().collect();
        tensors.sort_by_key(|(_, x)| std::cmp::Reverse(x.dtype().size()));

        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert(METADATA.into(), json!(self.metadata));
        }
        let mut end = 0;
        for (name, x) in &tensors {
            let start = end;
            end += x.numel() * x.dtype().size();
            let entry = json!({ "dtype": format_name(x.dtype()), "shape": x.shape(), "data_offsets": [start, end] });
            header.insert((*name).clone(), entry);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');

        let mut bytes = Vec::with_capacity(8 + header.len() + end);
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header);
        for (_, x) in tensors {
            for_each_piece(x, false, |piece| bytes.extend_from_slice(piece))?;
        }
        Ok(bytes)
    }

    /// The arrays in the content of a file; `what` names it in errors.
    ///
    /// # Errors
    /// `Corrupt` when the content is damaged or cut short; `DType` when it holds element types that arrays lack.
    pub fn from_bytes(bytes: &[u8], what: &str, device: &Device) -> Result<TensorFile> {
        let corrupt = |got: String| {
            Error::new(ErrorKind::Corrupt, what, got).expected("a complete safetensors file").hint("is it cut short?")
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| corrupt(format!("{e:?}")))?;
        let views = SafeTensors::deserialize(bytes).map_err(|e| corrupt(format!("{e:?}")))?;
        let mut file = TensorFile::default();
        for (name, view) in views.tensors() {
            let dtype = dtype_of(view.dtype()).ok_or_else(|| {
                Error::new(ErrorKind::DType, what, format!("'{name}' of type {:?}", view.dtype()))
                    .expected("F64, F32, BF16, F16, I64, I32, U8 or BOOL")
            })?;
            let array = from_bytes(view.data(), dtype, view.shape(), device).map_err(|e| {
                if e.kind() == ErrorKind::Corrupt { corrupt(format!("'{name}': {}", e.sentence())) } else { e }
            })?;
            file.tensors.insert(name, array);
        }
        file.metadata.extend(header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        Ok(file)
    }
}

fn format_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let written = write_through(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // The new name itself must reach the disk. Only Unix lets a folder be opened for that.
    #[cfg(unix)]
    File::open(folder_of(path))?.sync_all()?;
    Ok(())
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name in the same folder, hence on the same file system, that no other writer has.
fn temporary_beside(path: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    folder_of(path).join(format!(".{name}.{}.{write}.partial", std::process::id()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cast;

    fn device() -> Device {
        Device::cpu_with(1).unwrap()
    }

    fn sample() -> TensorFile {
        let device = device();
        let x = Array::from_slice(&[1.5f32, -2.0, 0.0, 7.0, 100.0, 1.0], &[2, 3], &device).unwrap();
        let types = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U8, DType::Bool];
        let mut file = TensorFile::default();
        for dtype in types {
            let view = cast(&x, dtype).unwrap().transpose(0, 1).unwrap();
            file.tensors.insert(format!("layer.\"{dtype}\""), view);
        }
        file.tensors.insert("empty".into(), Array::zeros(&[0, 4], DType::F32, &device).unwrap());
        file.tensors.insert("scalar".into(), Array::scalar(f64::NEG_INFINITY, &device).unwrap());
        for key in ["method", "version", "seed", "a \"quoted\" key"] {
            file.metadata.insert(key.into(), format!("value of {key}\n"));
        }
        file
    }

    #[test]
    fn what_is_written_is_read_and_the_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let file = sample();
        file.write(&path).unwrap();
        let read = TensorFile::read(&path, &device()).unwrap();
        assert_eq!(read.metadata, file.metadata);
        assert!(read.tensors.keys().eq(file.tensors.keys()));
        for (name, x) in &file.tensors {
            assert_eq!(format!("{:?}", read.tensors[name]), format!("{x:?}"), "{name}");
        }
        assert_eq!(read.to_bytes().unwrap(), fs::read(&path).unwrap());
        // No temporary file stays behind.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn arrays_lie_at_multiples_of_their_element_size() {
        let bytes = sample().to_bytes().unwrap();
        let views = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in views.tensors() {
            let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let size = dtype_of(view.dtype()).unwrap().size();
            assert_eq!(offset % size, 0, "{name}");
        }
    }

    #[test]
    fn every_cut_and_damaged_header_is_corrupt() {
        let bytes = sample().to_bytes().unwrap();
        for cut in 0..bytes.len() {
            let error = TensorFile::from_bytes(&bytes[..cut], "weights", &device()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{cut}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.safetensors");
        fs::write(&path, &bytes[..100]).unwrap();
        assert!(TensorFile::read(&path, &device()).unwrap_err().to_string().contains("broken.safetensors"));
        let mut damaged = bytes.clone();
        damaged[8] = b'[';
        assert_eq!(TensorFile::from_bytes(&damaged, "w", &device()).unwrap_err().kind(), ErrorKind::Corrupt);
        // 2 is no truth value.
        let mut damaged = bytes;
        let flags = SafeTensors::deserialize(&damaged).unwrap().tensor("layer.\"bool\"").unwrap().data().as_ptr();
        let offset = flags as usize - damaged.as_ptr() as usize;
        damaged[offset] = 2;
        let error = TensorFile::from_bytes(&damaged, "w", &device()).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.sentence().contains("truth value"), "{error}");
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let mut file = TensorFile::default();
        file.tensors.insert(METADATA.into(), Array::scalar(1f32, &device()).unwrap());
        assert_eq!(file.to_bytes().unwrap_err().kind(), ErrorKind::Config);
        let header = br#"{"x":{"dtype":"I16","shape":[1],"data_offsets":[0,2]}} "#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([0, 0]);
        assert_eq!(TensorFile::from_bytes(&bytes, "w", &device()).unwrap_err().kind(), ErrorKind::DType);
        let missing = TensorFile::read("no/such/folder/w.safetensors", &device()).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Io);
        assert_eq!(TensorFile::default().write("no/such/folder/w.safetensors").unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        // A folder stands where the file should go, so the rename fails.
        let path = folder.path().join("weights");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "kept").unwrap();
        assert_eq!(sample().write(&path).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
