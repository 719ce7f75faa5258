//! One number for all weights of a model, to compare runs by.

use selfsame_autograd::ParamSet;
use selfsame_engine::{Array, DType, Result, ops};
use xxhash_rust::xxh3::Xxh3;

/// A hash (XXH3, 64 bits) of the paths, shapes, types and bits of all parameters and buffers in path order, as 16
/// hexadecimal digits. All NaNs count as one value.
///
/// # Errors
/// `OutOfMemory`.
pub fn weights_hash(params: &ParamSet) -> Result<String> {
    let mut hash = Xxh3::new();
    for (path, param) in params.iter() {
        let array = param.array();
        hash.update(format!("{path} {} {:?}\n", array.dtype(), array.shape()).as_bytes());
        update(&mut hash, &array)?;
    }
    Ok(format!("{:016x}", hash.digest()))
}

fn update(hash: &mut Xxh3, array: &Array) -> Result<()> {
    if array.dtype() == DType::F32 {
        for value in array.to_vec::<f32>()? {
            let value = if value.is_nan() { f32::NAN } else { value };
            hash.update(&value.to_bits().to_le_bytes());
        }
        return Ok(());
    }
    // Every other element type of a parameter is exact in f64.
    for value in ops::cast(array, DType::F64)?.to_vec::<f64>()? {
        let value = if value.is_nan() { f64::NAN } else { value };
        hash.update(&value.to_bits().to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_autograd::{Param, ParamVisitor, Role};
    use selfsame_engine::Device;

    fn hash(path: &str, shape: &[usize], values: &[f32]) -> String {
        let device = Device::cpu_with(1).unwrap();
        let param = Param::new(path, Role::Weight, Array::from_slice(values, shape, &device).unwrap());
        let params = ParamSet::collect(|visitor: &mut dyn ParamVisitor| visitor.param(path, &param)).unwrap();
        weights_hash(&params).unwrap()
    }

    #[test]
    fn path_shape_and_every_bit_count() {
        let first = hash("a", &[2], &[1.0, 0.0]);
        assert_eq!(first, hash("a", &[2], &[1.0, 0.0]));
        assert_ne!(first, hash("b", &[2], &[1.0, 0.0]));
        assert_ne!(first, hash("a", &[1, 2], &[1.0, 0.0]));
        assert_ne!(first, hash("a", &[2], &[1.0, -0.0]));
        let nan = |bits| hash("a", &[1], &[f32::from_bits(bits)]);
        assert_eq!(nan(0x7fc0_0000), nan(0xffc0_1234));
    }
}
