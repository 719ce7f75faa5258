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
use selfsame_kernels::order::LANES;
use selfsame_kernels::{lanes, stamp};

/// (mean, rstd) of a row.
pub(crate) fn row_statistics<T: Float>(isa: Isa, x: &[T], eps: T) -> (T, T) {
    let n = T::from_usize(x.len());
    let mean = lanes::sum(isa, x) / n;
    let variance = lanes::sum_sq_centred(isa, x, mean) / n;
    (mean, Real::rsqrt(variance + eps))
}

/// What the gradient of a row is made of: all slices have its length.
#[derive(Clone, Copy)]
pub(crate) struct GradRow<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) dy: &'a [T],
    pub(crate) gamma: &'a [T],
    pub(crate) mean: T,
    pub(crate) rstd: T,
}

/// dx of a row: with g = dy gamma and h = (x - mean) rstd, rstd (fma(-h, mean(g h), g - mean(g))); both means are sums
/// by lanes, the first of fused multiply-adds, divided by n.
pub(crate) fn row_grad<T: Float>(isa: Isa, row: GradRow<'_, T>, dx: &mut [T]) {
    write_grad(isa, row, grad_means(isa, row), dx);
}

/// The same, and one more row of the chains of dy h and of dy.
pub(crate) fn row_grads<T: Float>(isa: Isa, row: GradRow<'_, T>, dx: &mut [T], dgamma: &mut [T], dbeta: &mut [T]) {
    write_grads(isa, row, grad_means(isa, row), dx, dgamma, dbeta);
}

/// mean(g) and mean(g h).
fn grad_means<T: Float>(isa: Isa, row: GradRow<'_, T>) -> (T, T) {
    let n = T::from_usize(row.x.len());
    let mut sums = [[T::ZERO; LANES]; 2];
    add_grad_lanes(isa, row, &mut sums);
    let [sum_g, sum_gh] = sums.map(lanes::fold_sums);
    (sum_g / n, sum_gh / n)
}

impl<T: Real> GradRow<'_, T> {
    /// h of an element.
    #[inline(always)]
    fn normalized(&self, x: T) -> T {
        (x - self.mean) * self.rstd
    }

    /// Its gradient.
    #[inline(always)]
    fn grad(&self, (g, h): (T, T), (mean_g, mean_gh): (T, T)) -> T {
        self.rstd * Real::mul_add(-h, mean_gh, g - mean_g)
    }
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

    /// The lanes of the sums of g and of g h, added to `sums`. Folded by the caller: in one function with the loop, the
    /// compiler would make no vectors of either.
    fn add_grad_lanes<T: Real>(row: GradRow<'_, T>, sums: &mut [[T; LANES]; 2]) {
        let [mut g_lanes, mut gh_lanes] = *sums;
        let (xs, rest_x) = row.x.as_chunks::<LANES>();
        let (dys, rest_dy) = row.dy.as_chunks::<LANES>();
        let (gammas, rest_gamma) = row.gamma.as_chunks::<LANES>();
        for ((x, dy), gamma) in xs.iter().zip(dys).zip(gammas) {
            for i in 0..LANES {
                let g = dy[i] * gamma[i];
                g_lanes[i] += g;
                gh_lanes[i] = Real::mul_add(g, row.normalized(x[i]), gh_lanes[i]);
            }
        }
        for (i, ((&x, &dy), &gamma)) in rest_x.iter().zip(rest_dy).zip(rest_gamma).enumerate() {
            let g = dy * gamma;
            g_lanes[i] += g;
            gh_lanes[i] = Real::mul_add(g, row.normalized(x), gh_lanes[i]);
        }
        *sums = [g_lanes, gh_lanes];
    }

    fn write_grad<T: Real>(row: GradRow<'_, T>, means: (T, T), dx: &mut [T]) {
        for (((dx, &x), &dy), &gamma) in dx.iter_mut().zip(row.x).zip(row.dy).zip(row.gamma) {
            *dx = row.grad((dy * gamma, row.normalized(x)), means);
        }
    }

    fn write_grads<T: Real>(row: GradRow<'_, T>, means: (T, T), dx: &mut [T], dgamma: &mut [T], dbeta: &mut [T]) {
        let sums = dgamma.iter_mut().zip(dbeta);
        for ((((dx, &x), &dy), &gamma), (dgamma, dbeta)) in dx.iter_mut().zip(row.x).zip(row.dy).zip(row.gamma).zip(sums) {
            let h = row.normalized(x);
            *dx = row.grad((dy * gamma, h), means);
            *dgamma = Real::mul_add(dy, h, *dgamma);
            *dbeta += dy;
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
