//! What layer norm and group norm do to one row.
//!
//! mean = sum by lanes / n; variance = sum by lanes of (x - mean)^2 / n; rstd = 1 / sqrt(variance + eps);
//! y = fma((x - mean) rstd, gamma, beta). An absent gamma is 1, an absent beta +0. gamma and beta repeat along the row.

use super::by_row::expect_shape;
use super::operand::same_kind;
use super::{Float, binary, cast, is_half};
use crate::{Array, DType, Error, ErrorKind, Result};
use selfsame_kernels::elementwise::Binary;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::{lanes, stamp};

/// (mean, rstd) of a row.
pub(crate) fn row_statistics<T: Float>(isa: Isa, x: &[T], eps: T) -> (T, T) {
    let n = T::from_usize(x.len());
    let mean = lanes::sum(isa, x) / n;
    let variance = lanes::sum_sq_centred(isa, x, mean) / n;
    (mean, Real::rsqrt(variance + eps))
}

/// dx of a row: with g = dy gamma and h = (x - mean) rstd, rstd (fma(-h, mean(g h), g - mean(g))); both means are sums
/// by lanes, the first of fused multiply-adds, divided by n.
pub(crate) fn row_grad<T: Float>(
    isa: Isa,
    (x, dy): (&[T], &[T]),
    (mean, rstd): (T, T),
    gamma: &[T],
    normalized: &mut Vec<T>,
    dx: &mut [T],
) {
    normalized.resize(x.len(), T::ZERO);
    prepare_grad(isa, x, dy, mean, rstd, gamma, normalized, dx);
    let n = T::from_usize(x.len());
    let (mean_g, mean_gh) = (lanes::sum(isa, dx) / n, lanes::dot(isa, dx, normalized) / n);
    finish_grad(isa, normalized, mean_g, mean_gh, rstd, dx);
}

stamp! {
    /// y = fma((x - mean) rstd, gamma, beta).
    pub(crate) fn normalize_row<T: Real>(x: &[T], mean: T, rstd: T, gamma: &[T], beta: &[T], y: &mut [T]) {
        for (x, y) in x.chunks(gamma.len()).zip(y.chunks_mut(gamma.len())) {
            for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = Real::mul_add((x - mean) * rstd, gamma, beta);
            }
        }
    }

    fn prepare_grad<T: Real>(x: &[T], dy: &[T], mean: T, rstd: T, gamma: &[T], normalized: &mut [T], g: &mut [T]) {
        for (g, dy) in g.chunks_mut(gamma.len()).zip(dy.chunks(gamma.len())) {
            for ((g, &dy), &gamma) in g.iter_mut().zip(dy).zip(gamma) {
                *g = dy * gamma;
            }
        }
        for (h, &x) in normalized.iter_mut().zip(x) {
            *h = (x - mean) * rstd;
        }
    }

    fn finish_grad<T: Real>(normalized: &[T], mean_g: T, mean_gh: T, rstd: T, dx: &mut [T]) {
        for (dx, &h) in dx.iter_mut().zip(normalized) {
            *dx = rstd * Real::mul_add(-h, mean_gh, *dx - mean_g);
        }
    }
}

/// Refuses an optional per-channel parameter of another shape, type or device.
pub(crate) fn expect_parameter(
    op: &'static str,
    name: &str,
    parameter: Option<&Array>,
    (x, channels): (&Array, usize),
) -> Result<()> {
    let Some(parameter) = parameter else { return Ok(()) };
    same_kind(op, x, parameter)?;
    expect_shape(op, name, parameter, &[channels])
}

/// The values of an optional per-channel parameter.
pub(crate) fn parameter<T: Float>(
    op: &'static str,
    name: &str,
    parameter: Option<&Array>,
    absent: T,
    (x, channels): (&Array, usize),
) -> Result<Vec<T>> {
    expect_parameter(op, name, parameter, (x, channels))?;
    parameter.map_or_else(|| Ok(vec![absent; channels]), Array::to_vec)
}

/// Refuses an eps that could let a row divide by zero.
pub(crate) fn check_eps(op: &'static str, eps: f64) -> Result<()> {
    if eps > 0.0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, op, format!("eps {eps}")).expected("eps above 0"))
}

/// An optional parameter in f32.
pub(crate) fn widened(parameter: Option<&Array>) -> Result<Option<Array>> {
    parameter.map(|p| cast(p, DType::F32)).transpose()
}

/// (x - mean) rstd with broadcasting, in the type of `x`.
pub(crate) fn normalized(x: &Array, mean: &Array, rstd: &Array) -> Result<Array> {
    if is_half(x.dtype()) {
        return cast(&normalized(&cast(x, DType::F32)?, mean, rstd)?, x.dtype());
    }
    binary(Binary::Mul, &binary(Binary::Sub, x, mean)?, rstd)
}
