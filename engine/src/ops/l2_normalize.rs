//! `l2_normalize` over the last axis and its gradient.

use super::by_row::{expect_shape, split_last, statistic, write_rows, write_rows_and_stats};
use super::operand::same_kind;
use super::{cast, is_half, kernels_for, span, with_real};
use crate::gpu;
use crate::{Array, DType, Error, ErrorKind, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::{lanes, stamp};

/// (x / norm, norm) with norm = max(sqrt(sum of squares by lanes), eps) over the last axis. The norm has the leading
/// axes of `x`, and is f32 for bf16 and f16.
///
/// # Errors
/// For rank 0, when the type is not a float, or when `eps` is not positive.
pub fn l2_normalize(x: &Array, eps: f64) -> Result<(Array, Array)> {
    if eps.is_nan() || eps <= 0.0 {
        return Err(Error::new(ErrorKind::Config, "l2_normalize", format!("eps {eps}")).expected("eps above 0"));
    }
    if is_half(x.dtype()) {
        let (y, norm) = l2_normalize(&cast(x, DType::F32)?, eps)?;
        return Ok((cast(&y, x.dtype())?, norm));
    }
    let _span = span("l2_normalize", &[x], |n| (n, 2 * n, n));
    let (lead, len) = split_last("l2_normalize", x)?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::rows::l2_normalize(gpu, x, eps as f32, lead);
    }
    let rows = x.contiguous()?;
    with_real!("l2_normalize", x.dtype(), T, {
        let (eps, rows) = (<T as Real>::from_f64(eps), rows.as_slice::<T>()?);
        let mut norms = vec![T::ZERO; lead.iter().product()];
        let y = Array::build::<T>(x.device(), x.shape(), "l2_normalize", |cpu, y| {
            write_rows_and_stats(cpu, (y, len), (&mut norms, 1), |_: &mut (), row, y, norm| {
                let x = &rows[row * len..(row + 1) * len];
                norm[0] = Real::max(Real::sqrt(lanes::sum_sq(cpu.isa(), x)), eps);
                divide(cpu.isa(), x, norm[0], y);
            });
            Ok(())
        })?;
        Ok((y, statistic(&norms, (0, 1), lead, x)?))
    })
}

/// dx of [`l2_normalize`] from its results: (dy - y dot(y, dy)) / norm, the product fused; dy / norm in rows whose norm
/// was raised to `eps`, since there the divisor is constant.
///
/// # Errors
/// When shapes or element types differ.
pub fn l2_normalize_grad(dy: &Array, y: &Array, norm: &Array, eps: f64) -> Result<Array> {
    same_kind("l2_normalize_grad", dy, y)?;
    expect_shape("l2_normalize_grad", "dy", dy, y.shape())?;
    if is_half(y.dtype()) {
        let dx = l2_normalize_grad(&cast(dy, DType::F32)?, &cast(y, DType::F32)?, norm, eps)?;
        return cast(&dx, y.dtype());
    }
    let _span = span("l2_normalize_grad", &[dy, y], |n| (n, 4 * n, n));
    same_kind("l2_normalize_grad", y, norm)?;
    let (lead, len) = split_last("l2_normalize_grad", y)?;
    expect_shape("l2_normalize_grad", "norm", norm, lead)?;
    if let Some(gpu) = kernels_for(y) {
        return gpu::rows::l2_normalize_grad(gpu, dy, y, norm, eps as f32);
    }
    let (dy, y, norm) = (dy.contiguous()?, y.contiguous()?, norm.contiguous()?);
    with_real!("l2_normalize_grad", y.dtype(), T, {
        let eps = <T as Real>::from_f64(eps);
        let (dy_rows, y_rows, norms) = (dy.as_slice::<T>()?, y.as_slice::<T>()?, norm.as_slice::<T>()?);
        Array::build::<T>(y.device(), y.shape(), "l2_normalize_grad", |cpu, dx| {
            write_rows(cpu, dx, len, |_: &mut (), row, dx| {
                let range = row * len..(row + 1) * len;
                row_grad(cpu.isa(), &dy_rows[range.clone()], &y_rows[range], norms[row], eps, dx);
            });
            Ok(())
        })
    })
}

fn row_grad<T: Real>(isa: Isa, dy: &[T], y: &[T], norm: T, eps: T, dx: &mut [T]) {
    if norm <= eps {
        divide(isa, dy, norm, dx);
    } else {
        project(isa, dy, y, lanes::dot(isa, y, dy), norm, dx);
    }
}

stamp! {
    fn divide<T: Real>(x: &[T], divisor: T, y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x / divisor;
        }
    }

    fn project<T: Real>(dy: &[T], y: &[T], dot: T, norm: T, dx: &mut [T]) {
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = Real::mul_add(-y, dot, dy) / norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::testing::{assert_gradient, devices, noise};
    use selfsame_kernels::reference;

    #[test]
    fn rows_have_the_bits_of_the_reference() {
        for device in devices() {
            for shape in [&[90, 257][..], &[4, 3, 16], &[5], &[0, 7]] {
                let x = noise(shape, 2, &device);
                let (y, norm) = l2_normalize(&x, 1e-12).unwrap();
                assert_eq!(norm.shape(), &shape[..shape.len() - 1]);
                let rows = x.to_vec::<f32>().unwrap();
                let expected: Vec<f32> =
                    rows.chunks(*shape.last().unwrap()).flat_map(|row| reference::l2_normalize(row, 1e-12)).collect();
                assert_eq!(y.to_vec::<f32>().unwrap(), expected);
            }
        }
    }

    #[test]
    fn gradient_matches_finite_differences_on_both_sides_of_eps() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[4, 9], 3, &device), DType::F64).unwrap();
        for eps in [1e-12, 100.0] {
            let run = |x: &Array| l2_normalize(x, eps).map(|(y, _)| y);
            assert_gradient(&x, run, |dy| {
                let (y, norm) = l2_normalize(&x, eps)?;
                l2_normalize_grad(dy, &y, &norm, eps)
            });
        }
    }

    #[test]
    fn zero_rows_stay_zero_and_bad_eps_is_refused() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::zeros(&[2, 3], DType::F32, &device).unwrap();
        let (y, norm) = l2_normalize(&x, 1e-6).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.0; 6]);
        assert_eq!(norm.to_vec::<f32>().unwrap(), [1e-6; 2]);
        assert!(l2_normalize(&x, 0.0).is_err());
    }
}
