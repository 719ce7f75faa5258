//! Named arrays in the safetensors format.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, bf16, f16};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Named arrays, in name order.
pub type Tensors = BTreeMap<String, Array>;

/// The one key of a file's metadata. A single key keeps the bytes of a file a function of its content.
const ABOUT: &str = "selfsame";

/// The bytes of a safetensors file of `tensors`, with a text (such as the model's configuration) in its metadata.
///
/// # Errors
/// `Config` when the format refuses a name.
pub fn encode(tensors: &Tensors, about: Option<&str>) -> Result<Vec<u8>> {
    let mut owned = Vec::with_capacity(tensors.len());
    for (name, array) in tensors {
        owned.push((name, file_type(array.dtype()), array.shape(), to_bytes(array)?));
    }
    let views = owned
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.to_vec(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
    let about = about.map(|text| HashMap::from([(ABOUT.to_string(), text.to_string())]));
    views
        .and_then(|views| safetensors::serialize(views, about))
        .map_err(|error| Error::new(ErrorKind::Config, "safetensors", error.to_string()))
}

/// The arrays of a safetensors file's `bytes`, and the text that [`encode`] put beside them. `name` is for errors.
///
/// # Errors
/// `Corrupt` when the bytes are not such a file; `DType` for an element type that arrays do not have.
pub fn decode(bytes: &[u8], name: &str, device: &Device) -> Result<(Tensors, Option<String>)> {
    let corrupt = |error: safetensors::SafeTensorError| {
        Error::new(ErrorKind::Corrupt, name, error.to_string()).expected("a whole safetensors file")
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(corrupt)?;
    let about = header.metadata().as_ref().and_then(|m| m.get(ABOUT)).cloned();
    let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
    let mut tensors = Tensors::new();
    for (tensor, view) in file.iter() {
        let array = from_bytes(&view, device).map_err(|dtype| {
            Error::new(ErrorKind::DType, format!("{name}: '{tensor}'"), dtype)
                .expected("one of f32, f64, bf16, f16, i32, i64, u8, bool")
        })??;
        tensors.insert(tensor.to_string(), array);
    }
    Ok((tensors, about))
}

/// Writes [`encode`]'s bytes to `path`: to a file beside it first, then renamed, so that `path` is never half written.
///
/// # Errors
/// `Io`, or as for [`encode`].
pub fn write(path: impl AsRef<Path>, tensors: &Tensors, about: Option<&str>) -> Result<()> {
    let path = path.as_ref();
    let bytes = encode(tensors, about)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|error| Error::io(path, &error))
}

/// Reads the file at `path`: see [`decode`].
///
/// # Errors
/// `Io`, or as for [`decode`].
pub fn read(path: impl AsRef<Path>, device: &Device) -> Result<(Tensors, Option<String>)> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, &error))?;
    decode(&bytes, &path.display().to_string(), device)
}

fn file_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

fn to_bytes(array: &Array) -> Result<Vec<u8>> {
    macro_rules! bytes {
        ($T:ty) => {
            array.to_vec::<$T>()?.into_iter().flat_map(|v| v.to_le_bytes()).collect()
        };
    }
    Ok(match array.dtype() {
        DType::F32 => bytes!(f32),
        DType::F64 => bytes!(f64),
        DType::BF16 => bytes!(bf16),
        DType::F16 => bytes!(f16),
        DType::I32 => bytes!(i32),
        DType::I64 => bytes!(i64),
        DType::U8 => array.to_vec::<u8>()?,
        DType::Bool => array.to_vec::<bool>()?.into_iter().map(u8::from).collect(),
    })
}

/// The array of a view, or the name of a type that arrays do not have.
fn from_bytes(view: &TensorView<'_>, device: &Device) -> std::result::Result<Result<Array>, String> {
    let (bytes, shape) = (view.data(), view.shape());
    macro_rules! array {
        ($T:ty) => {{
            let (elements, _) = bytes.as_chunks::<{ size_of::<$T>() }>();
            let values: Vec<$T> = elements.iter().map(|b| <$T>::from_le_bytes(*b)).collect();
            Array::from_slice(&values, shape, device)
        }};
    }
    Ok(match view.dtype() {
        Dtype::F32 => array!(f32),
        Dtype::F64 => array!(f64),
        Dtype::BF16 => array!(bf16),
        Dtype::F16 => array!(f16),
        Dtype::I32 => array!(i32),
        Dtype::I64 => array!(i64),
        Dtype::U8 => Array::from_slice(bytes, shape, device),
        Dtype::BOOL => Array::from_slice(&bytes.iter().map(|b| *b != 0).collect::<Vec<_>>(), shape, device),
        other => return Err(format!("{other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_round_trip() {
        let device = Device::cpu_with(1).unwrap();
        let mut tensors = Tensors::new();
        let values = [-1.5f32, 0.25, 3.0, f32::MIN_POSITIVE, -0.0, 7.0];
        let plain = Array::from_slice(&values, &[2, 3], &device).unwrap();
        tensors.insert("f32".into(), plain.transpose(0, 1).unwrap());
        tensors.insert("f64".into(), Array::from_slice(&[1e-300f64], &[], &device).unwrap());
        tensors.insert("bf16".into(), Array::from_slice(&[bf16::from_f32(1.5)], &[1], &device).unwrap());
        tensors.insert("f16".into(), Array::from_slice(&[f16::from_f32(0.5)], &[1], &device).unwrap());
        tensors.insert("i32".into(), Array::from_slice(&[-7i32], &[1], &device).unwrap());
        tensors.insert("i64".into(), Array::from_slice(&[i64::MIN], &[1], &device).unwrap());
        tensors.insert("u8".into(), Array::from_slice(&[255u8], &[1], &device).unwrap());
        tensors.insert("bool".into(), Array::from_slice(&[true, false], &[2], &device).unwrap());
        let bytes = encode(&tensors, Some("about")).unwrap();
        let (read, about) = decode(&bytes, "memory", &device).unwrap();
        assert_eq!(about.as_deref(), Some("about"));
        assert_eq!(read["f32"].shape(), [3, 2]);
        assert_eq!(format!("{read:?}"), format!("{tensors:?}"));
        assert_eq!(encode(&read, Some("about")).unwrap(), bytes);
    }

    #[test]
    fn truncated_and_missing_files_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        assert_eq!(read(&path, &device).unwrap_err().kind(), ErrorKind::Io);
        let tensors = Tensors::from([("a".to_string(), Array::zeros(&[100], DType::F32, &device).unwrap())]);
        write(&path, &tensors, None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = read(&path, &device).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.sentence().contains("x.safetensors"));
    }
}
