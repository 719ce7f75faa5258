//! Where two arrays differ: the first element, with both values in decimal and in bits.

use crate::bytes::LittleEndian;
use crate::ops::operand::Operand;
use crate::{Array, Result, with_dtype};

/// Elements compared at once.
const BLOCK: usize = 1 << 12;

/// The first element in which two arrays of one shape differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its place, an index per axis.
    pub index: Vec<usize>,
    /// Both values in decimal, with as many digits as tell them from their neighbours.
    pub values: [String; 2],
    /// Both values as bits, in hexadecimal, the highest digit first.
    pub bits: [String; 2],
    /// How many elements differ.
    pub count: usize,
}

/// The first element in which `a` and `b` differ in a bit; all NaNs are one value. `None` when there is none.
///
/// # Errors
/// `Shape` and `DType` when they cannot be compared; `OutOfMemory`.
pub fn first_difference(a: &Array, b: &Array) -> Result<Option<Difference>> {
    crate::ops::expect_same_shape("comparison of bits", a, b)?;
    with_dtype!(a.dtype(), T, compare::<T>(a, b))
}

fn compare<T: LittleEndian + std::fmt::Debug>(a: &Array, b: &Array) -> Result<Option<Difference>> {
    let (x, y) = (Operand::<T>::new(a, a.shape())?, Operand::<T>::new(b, b.shape())?);
    let (mut scratch_x, mut scratch_y) = (Vec::new(), Vec::new());
    let mut first: Option<Difference> = None;
    for start in (0..a.numel()).step_by(BLOCK) {
        let len = (a.numel() - start).min(BLOCK);
        let (x, y) = (x.read(start, len, &mut scratch_x), y.read(start, len, &mut scratch_y));
        let (bits_x, bits_y) = (canonical_bytes(x), canonical_bytes(y));
        if bits_x == bits_y {
            continue;
        }
        let size = size_of::<T>();
        for (i, (a_bits, b_bits)) in bits_x.chunks_exact(size).zip(bits_y.chunks_exact(size)).enumerate() {
            if a_bits == b_bits {
                continue;
            }
            let found = first.get_or_insert_with(|| Difference {
                index: unravel(start + i, a.shape()),
                values: [format!("{:?}", x[i]), format!("{:?}", y[i])],
                bits: [hex(a_bits), hex(b_bits)],
                count: 0,
            });
            found.count += 1;
        }
    }
    Ok(first)
}

fn canonical_bytes<T: LittleEndian>(values: &[T]) -> Vec<u8> {
    let (mut canonical, mut bytes) = (Vec::new(), Vec::new());
    canonical.extend(values.iter().map(|value| value.canonical()));
    T::write(&canonical, &mut bytes);
    bytes
}

/// Little-endian bytes in hexadecimal, the highest digit first.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
}

/// The index per axis of element `at` in row-major order.
fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = Vec::with_capacity(shape.len());
    for &len in shape.iter().rev() {
        index.push(at % len);
        at /= len;
    }
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device, ErrorKind, ops};

    #[test]
    fn the_first_element_is_named_with_its_bits() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::zeros(&[3, 4, 5], DType::F32, &device).unwrap();
        assert_eq!(first_difference(&a, &a.copy().unwrap()).unwrap(), None);
        let mut b = a.copy().unwrap();
        let values = b.make_mut::<f32>().unwrap();
        (values[2 * 20 + 3 * 5 + 1], values[59]) = (1.5, -0.0);
        let found = first_difference(&a, &b).unwrap().unwrap();
        assert_eq!((found.index, found.count), (vec![2, 3, 1], 2));
        assert_eq!(found.values, ["0.0", "1.5"]);
        assert_eq!(found.bits, ["00000000", "3fc00000"]);
        // The same places through strides, and in another type.
        let transposed = [&a, &b].map(|x| x.transpose(0, 2).unwrap());
        assert_eq!(first_difference(&transposed[0], &transposed[1]).unwrap().unwrap().index, [1, 3, 2]);
        let doubles = [&a, &b].map(|x| ops::cast(x, DType::F64).unwrap());
        let found = first_difference(&doubles[0], &doubles[1]).unwrap().unwrap();
        assert_eq!(found.bits, ["0000000000000000", "3ff8000000000000"]);
        assert_eq!(first_difference(&a, &doubles[0]).unwrap_err().kind(), ErrorKind::DType);
    }

    #[test]
    fn nans_are_one_value() {
        let device = Device::cpu_with(1).unwrap();
        let nan = |bits| Array::scalar(f32::from_bits(bits), &device).unwrap();
        assert_eq!(first_difference(&nan(0x7fc0_0000), &nan(0xff80_0001)).unwrap(), None);
    }
}
