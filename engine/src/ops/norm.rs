//! Norms and inner products over whole parameters: chunks of 4096 elements by lanes, chunk results added in the tree.

use super::operand::same_kind;
use super::{cast, is_half, kernels_for, span, with_real};
use crate::gpu;
use crate::{Array, DType, Element, Error, ErrorKind, Result};
use selfsame_kernels::lanes;
use selfsame_kernels::math::Real;
use selfsame_kernels::order::NORM_CHUNK;
use selfsame_kernels::tree::fold_tree;

/// The sum of squares of all elements, in the element type (f32 for bf16 and f16).
///
/// # Errors
/// When the type is not a float.
pub fn norm_sq(x: &Array) -> Result<f64> {
    if is_half(x.dtype()) {
        return norm_sq(&cast(x, DType::F32)?);
    }
    let _span = span("norm_sq", &[x], |n| (0, 2 * n, 0));
    let x = x.contiguous()?;
    if let Some(gpu) = kernels_for(&x) {
        return Ok(f64::from(gpu::samples::dot(gpu, &x, None)?));
    }
    with_real!("norm_sq", x.dtype(), T, {
        let (values, cpu) = (x.as_slice::<T>()?, x.device().host());
        Ok(over_chunks(&x, |range| lanes::sum_sq(cpu.isa(), &values[range])).to_f64())
    })
}

/// The sum of products of all elements of two arrays of one shape, in the element type (f32 for bf16 and f16).
///
/// # Errors
/// When shapes or element types differ, or the type is not a float.
pub fn dot(a: &Array, b: &Array) -> Result<f64> {
    same_kind("dot", a, b)?;
    if a.shape() != b.shape() {
        return Err(Error::new(ErrorKind::Shape, "dot", format!("{:?} and {:?}", a.shape(), b.shape()))
            .expected("equal shapes"));
    }
    if is_half(a.dtype()) {
        return dot(&cast(a, DType::F32)?, &cast(b, DType::F32)?);
    }
    let _span = span("dot", &[a, b], |n| (0, 2 * n, 0));
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    if let Some(gpu) = kernels_for(&a) {
        return Ok(f64::from(gpu::samples::dot(gpu, &a, Some(&b))?));
    }
    with_real!("dot", a.dtype(), T, {
        let (x, y, cpu) = (a.as_slice::<T>()?, b.as_slice::<T>()?, a.device().host());
        Ok(over_chunks(&a, |range| lanes::dot(cpu.isa(), &x[range.clone()], &y[range])).to_f64())
    })
}

fn over_chunks<T: Element + Real>(x: &Array, chunk: impl Fn(std::ops::Range<usize>) -> T + Sync) -> T {
    let (n, cpu) = (x.numel(), x.device().host());
    let mut chunks = vec![T::ZERO; n.div_ceil(NORM_CHUNK)];
    // Four chunks are as much work as a task of an element-wise primitive.
    cpu.workers().run_chunks(&mut chunks, 4, |task, out| {
        for (i, out) in out.iter_mut().enumerate() {
            let start = (4 * task + i) * NORM_CHUNK;
            *out = chunk(start..n.min(start + NORM_CHUNK));
        }
    });
    fold_tree(chunks.len(), &mut |i| chunks[i], &mut |a, b| a + b).unwrap_or(T::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::testing::{devices, noise};
    use selfsame_kernels::reference;

    #[test]
    fn norm_and_dot_have_the_bits_of_the_reference() {
        for device in devices() {
            for n in [0, 1, 4096, 50_001] {
                let x = noise(&[n], 4, &device);
                let expected = f64::from(reference::norm_sq(&x.to_vec::<f32>().unwrap()));
                assert_eq!(norm_sq(&x).unwrap(), expected);
                assert_eq!(dot(&x, &x).unwrap(), expected);
            }
        }
    }

    #[test]
    fn dot_reads_views_in_row_major_order() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::from_slice(&[1f64, 2., 3., 4., 5., 6.], &[2, 3], &device).unwrap();
        let b = Array::from_slice(&[1f64, 10., 100., 1000., 0., 0.], &[3, 2], &device).unwrap();
        assert_eq!(dot(&a, &b.transpose(0, 1).unwrap()).unwrap(), 1. + 200. + 40. + 5000.);
        assert_eq!(dot(&a, &b).unwrap_err().kind(), ErrorKind::Shape);
    }
}
