//! Arrays as little-endian bytes.

use crate::ops::operand::Operand;
use crate::{Array, DType, Device, Element, Error, ErrorKind, Result, bf16, f16, with_dtype};
use selfsame_kernels::math::Real;
use std::ops::Range;

/// Elements converted at once.
const BLOCK: usize = 1 << 12;

/// Element types that have a byte form.
pub(crate) trait LittleEndian: Element {
    /// Appends the bytes of `values`.
    fn write(values: &[Self], bytes: &mut Vec<u8>);
    /// Reads as many elements as `out` has; `None` when the bytes are no value of the type.
    fn read(bytes: &[u8], out: &mut [Self]) -> Option<()>;
    /// Whether any value is NaN.
    fn has_nan(values: &[Self]) -> bool;
    /// The value with every NaN mapped to one.
    fn canonical(self) -> Self;
}

macro_rules! little_endian {
    ($($type:ty: |$x:ident| $nan:expr, $canonical:expr;)*) => {$(
        impl LittleEndian for $type {
            fn write(values: &[Self], bytes: &mut Vec<u8>) {
                let start = bytes.len();
                bytes.resize(start + size_of_val(values), 0);
                for (bytes, value) in bytes[start..].chunks_exact_mut(size_of::<Self>()).zip(values) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }

            fn read(bytes: &[u8], out: &mut [Self]) -> Option<()> {
                for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(size_of::<Self>())) {
                    *out = <$type>::from_le_bytes(bytes.try_into().expect("chunks of the size of an element"));
                }
                Some(())
            }

            fn has_nan(values: &[Self]) -> bool {
                // Without a branch, so that the loop is vectorised.
                values.iter().fold(false, |found, &$x| found | $nan)
            }

            fn canonical(self) -> Self {
                let $x = self;
                $canonical
            }
        }
    )*};
}
little_endian! {
    f32: |x| x.is_nan(), if x.is_nan() { <f32 as Real>::NAN } else { x };
    f64: |x| x.is_nan(), if x.is_nan() { <f64 as Real>::NAN } else { x };
    bf16: |x| x.is_nan(), if x.is_nan() { bf16::NAN } else { x };
    f16: |x| x.is_nan(), if x.is_nan() { f16::NAN } else { x };
    i32: |_x| false, _x;
    i64: |_x| false, _x;
    u8: |_x| false, _x;
}

impl LittleEndian for bool {
    fn write(values: &[Self], bytes: &mut Vec<u8>) {
        bytes.extend(values.iter().map(|&value| u8::from(value)));
    }

    fn read(bytes: &[u8], out: &mut [Self]) -> Option<()> {
        for (out, &byte) in out.iter_mut().zip(bytes) {
            *out = match byte {
                0 => false,
                1 => true,
                _ => return None,
            };
        }
        Some(())
    }

    fn has_nan(_: &[Self]) -> bool {
        false
    }

    fn canonical(self) -> Self {
        self
    }
}

/// Hands the bytes of `x`, elements in row-major order, to `sink` piece by piece; with `one_nan` every NaN has the
/// same bytes.
pub(crate) fn for_each_piece(x: &Array, one_nan: bool, sink: impl FnMut(&[u8])) -> Result<()> {
    for_each_piece_of(x, 0..x.numel(), one_nan, sink)
}

/// [`for_each_piece`] for the elements `range` alone.
pub(crate) fn for_each_piece_of(
    x: &Array,
    range: Range<usize>,
    one_nan: bool,
    mut sink: impl FnMut(&[u8]),
) -> Result<()> {
    with_dtype!(x.dtype(), T, {
        let operand = Operand::<T>::new(x, x.shape())?;
        let (mut scratch, mut canonical, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for start in range.clone().step_by(BLOCK) {
            let values = operand.read(start, BLOCK.min(range.end - start), &mut scratch);
            bytes.clear();
            if one_nan && T::has_nan(values) {
                canonical.clear();
                canonical.extend(values.iter().map(|value| value.canonical()));
                T::write(&canonical, &mut bytes);
            } else {
                T::write(values, &mut bytes);
            }
            sink(&bytes);
        }
        Ok(())
    })
}

/// The array of `shape` whose elements have these bytes.
///
/// # Errors
/// `Corrupt` when there are too few or too many bytes, or bytes of a bool other than 0 and 1.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType, shape: &[usize], device: &Device) -> Result<Array> {
    let corrupt = |got: String| Error::new(ErrorKind::Corrupt, "array bytes", got);
    with_dtype!(dtype, T, {
        Array::on_host::<T>(device, shape, "tensor file", |_, out| {
            if bytes.len() != size_of_val(out) {
                return Err(corrupt(format!("{} bytes", bytes.len())).expected(format!("{} bytes", size_of_val(out))));
            }
            T::read(bytes, out).ok_or_else(|| corrupt("a truth value other than 0 and 1".into()))
        })
    })
}
