//! `softmax`, `log_softmax`, `log_sum_exp` over the last axis, and their gradients.
//!
//! A row is shifted by its maximum m (by 0 where that is infinite or NaN); e_j = exp(x_j - m), s = sum of e_j by lanes.
//! softmax = e_j / s; log_softmax = (x_j - m) - log s; log_sum_exp = m + log s.

use super::by_row::{expect_shape, split_last, write_rows};
use super::operand::same_kind;
use super::{Float, cast, is_half, kernels_for, span, through_f32, with_real};
use crate::cpu::past::Writing;
use crate::gpu;
use crate::{Array, DType, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::{lanes, stamp};

/// exp(x) / sum exp(x) over the last axis.
///
/// # Errors
/// For rank 0, or when the type is not a float.
pub fn softmax(x: &Array) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, softmax);
    }
    let _span = span("softmax", &[x], |n| (n, 3 * n, 2 * n));
    if let Some(gpu) = kernels_for(x) {
        split_last("softmax", x)?;
        return gpu::rows::softmax(gpu, x);
    }
    with_real!("softmax", x.dtype(), T, map_rows::<T, 1>("softmax", [x], |isa, [x], _, y| softmax_row(isa, x, y)))
}

/// [`softmax`] of a row.
pub(super) fn softmax_row<T: Float>(isa: Isa, x: &[T], y: &mut [T]) {
    lanes::exp_fma(isa, x, T::ONE, shift(isa, x), y);
    divide(isa, lanes::sum(isa, y), y);
}

/// dx of [`softmax`] from its result: y (dy - dot(y, dy)), the dot product by lanes.
///
/// # Errors
/// When shapes or element types differ.
pub fn softmax_grad(y: &Array, dy: &Array) -> Result<Array> {
    same_kind("softmax_grad", y, dy)?;
    expect_shape("softmax_grad", "dy", dy, y.shape())?;
    if is_half(y.dtype()) {
        return cast(&softmax_grad(&cast(y, DType::F32)?, &cast(dy, DType::F32)?)?, y.dtype());
    }
    let _span = span("softmax_grad", &[y, dy], |n| (n, 4 * n, 0));
    if let Some(gpu) = kernels_for(y) {
        split_last("softmax_grad", y)?;
        return gpu::rows::softmax_grad(gpu, y, dy);
    }
    with_real!("softmax_grad", y.dtype(), T, {
        map_rows::<T, 2>("softmax_grad", [y, dy], |isa, [y, dy], writing, dx| {
            let dot = lanes::dot(isa, y, dy);
            writing.write(dx, |first, dx| softmax_row_grad(isa, &y[first..], &dy[first..], dot, dx));
        })
    })
}

/// [`softmax_grad`] of a row.
pub(super) fn softmax_grad_row<T: Float>(isa: Isa, y: &[T], dy: &[T], dx: &mut [T]) {
    softmax_row_grad(isa, y, dy, lanes::dot(isa, y, dy), dx);
}

/// x - log(sum exp(x)) over the last axis.
///
/// # Errors
/// For rank 0, or when the type is not a float.
pub fn log_softmax(x: &Array) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, log_softmax);
    }
    let _span = span("log_softmax", &[x], |n| (n, 5 * n, n));
    if let Some(gpu) = kernels_for(x) {
        split_last("log_softmax", x)?;
        return gpu::rows::log_softmax(gpu, x);
    }
    with_real!("log_softmax", x.dtype(), T, {
        map_rows::<T, 1>("log_softmax", [x], |isa, [x], writing, y| {
            let shift = shift(isa, x);
            let log_sum = log_of(isa, lanes::sum_exp(isa, x, shift));
            writing.write(y, |first, y| log_softmax_row(isa, &x[first..], shift, log_sum, y));
        })
    })
}

/// dx of [`log_softmax`] from its result: dy - exp(y) sum(dy), the sum by lanes, the product fused.
///
/// # Errors
/// When shapes or element types differ.
pub fn log_softmax_grad(y: &Array, dy: &Array) -> Result<Array> {
    same_kind("log_softmax_grad", y, dy)?;
    expect_shape("log_softmax_grad", "dy", dy, y.shape())?;
    if is_half(y.dtype()) {
        return cast(&log_softmax_grad(&cast(y, DType::F32)?, &cast(dy, DType::F32)?)?, y.dtype());
    }
    let _span = span("log_softmax_grad", &[y, dy], |n| (n, 3 * n, n));
    if let Some(gpu) = kernels_for(y) {
        split_last("log_softmax_grad", y)?;
        return gpu::rows::log_softmax_grad(gpu, y, dy);
    }
    with_real!("log_softmax_grad", y.dtype(), T, {
        map_rows::<T, 2>("log_softmax_grad", [y, dy], |isa, [y, dy], _, dx| {
            log_softmax_row_grad(isa, y, dy, lanes::sum(isa, dy), dx);
        })
    })
}

/// log(sum exp(x)) over the last axis, which goes; -infinity for an empty one.
///
/// # Errors
/// For rank 0, or when the type is not a float.
pub fn log_sum_exp(x: &Array) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, log_sum_exp);
    }
    let _span = span("log_sum_exp", &[x], |n| (n / x.shape().last().copied().unwrap_or(1).max(1), 3 * n, n));
    let (lead, len) = split_last("log_sum_exp", x)?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::rows::log_sum_exp(gpu, x, lead);
    }
    let rows = x.contiguous()?;
    with_real!("log_sum_exp", x.dtype(), T, {
        let rows = rows.as_slice::<T>()?;
        Array::build::<T>(x.device(), lead, "log_sum_exp", |cpu, out| {
            let per_task = ((1 << 14) / len.max(1)).max(1);
            cpu.workers().run_chunks(out, per_task, |task, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    let at = (task * per_task + i) * len;
                    *out = log_sum_exp_row(cpu.isa(), &rows[at..at + len]);
                }
            });
            Ok(())
        })
    })
}

/// What a row is shifted by before exponentials.
fn shift<T: Float>(isa: Isa, x: &[T]) -> T {
    let max = lanes::max(isa, x);
    if Real::is_finite(max) { max } else { T::ZERO }
}

stamp! {
    fn divide<T: Real>(divisor: T, y: &mut [T]) {
        for y in y {
            *y /= divisor;
        }
    }

    fn softmax_row_grad<T: Real>(y: &[T], dy: &[T], dot: T, dx: &mut [T]) {
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = y * (dy - dot);
        }
    }

    fn log_softmax_row<T: Real>(x: &[T], shift: T, log_sum: T, y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x - shift) - log_sum;
        }
    }

    fn log_softmax_row_grad<T: Real>(y: &[T], dy: &[T], sum: T, dx: &mut [T]) {
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = Real::mul_add(-Real::exp(y), sum, dy);
        }
    }

    fn log_of<T: Real>(x: T) -> T {
        Real::log(x)
    }
}

fn log_sum_exp_row<T: Float>(isa: Isa, x: &[T]) -> T {
    let shift = shift(isa, x);
    shift + log_of(isa, lanes::sum_exp(isa, x, shift))
}

/// Applies `f` to corresponding rows of operands of one shape.
fn map_rows<T: Float, const N: usize>(
    op: &'static str,
    operands: [&Array; N],
    f: impl Fn(Isa, [&[T]; N], Writing, &mut [T]) + Sync,
) -> Result<Array> {
    let (_, len) = split_last(op, operands[0])?;
    let operands = operands.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    let slices = operands.iter().map(|x| x.as_slice::<T>()).collect::<Result<Vec<_>>>()?;
    Array::build(operands[0].device(), operands[0].shape(), op, |cpu, out| {
        let writing = Writing::of(out);
        write_rows(cpu, out, len, |_: &mut (), row, out| {
            f(cpu.isa(), std::array::from_fn(|i| &slices[i][row * len..(row + 1) * len]), writing, out);
        });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_gradient, devices, noise};
    use crate::{Device, ErrorKind};
    use selfsame_kernels::reference;

    #[test]
    fn rows_have_the_bits_of_the_reference() {
        for device in devices() {
            for shape in [&[40, 700][..], &[3, 5, 17], &[6], &[2, 0], &[0, 4]] {
                let x = noise(shape, 1, &device);
                let rows = x.to_vec::<f32>().unwrap();
                let len = *shape.last().unwrap();
                let by_row = |f: &dyn Fn(&[f32]) -> Vec<f32>| -> Vec<f32> {
                    if len == 0 { Vec::new() } else { rows.chunks(len).flat_map(f).collect() }
                };
                assert_eq!(softmax(&x).unwrap().to_vec::<f32>().unwrap(), by_row(&|row| reference::softmax(row)));
                assert_eq!(
                    log_softmax(&x).unwrap().to_vec::<f32>().unwrap(),
                    by_row(&|row| reference::log_softmax(row))
                );
                if len > 0 {
                    let expected = by_row(&|row| vec![reference::log_sum_exp(row)]);
                    assert_eq!(log_sum_exp(&x).unwrap().to_vec::<f32>().unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[3, 19], 5, &device), DType::F64).unwrap();
        assert_gradient(&x, softmax, |dy| softmax_grad(&softmax(&x)?, dy));
        assert_gradient(&x, log_softmax, |dy| log_softmax_grad(&log_softmax(&x)?, dy));
    }

    #[test]
    fn extreme_rows_stay_defined() {
        let device = Device::cpu_with(1).unwrap();
        let inf = f32::INFINITY;
        let x = Array::from_slice(&[1e30f32, -1e30, -inf, 0.0, -inf, -inf], &[3, 2], &device).unwrap();
        assert_eq!(softmax(&x).unwrap().to_vec::<f32>().unwrap()[..4], [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(log_sum_exp(&x).unwrap().to_vec::<f32>().unwrap(), [1e30, 0.0, -inf]);
        assert_eq!(softmax(&Array::scalar(1f32, &device).unwrap()).unwrap_err().kind(), ErrorKind::Shape);
        let wrong = softmax_grad(&x, &x.transpose(0, 1).unwrap()).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Shape);
    }
}
