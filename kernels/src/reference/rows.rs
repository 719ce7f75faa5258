//! Functions of a row: lane reductions, and softmax, layer norm and their kin built on them.

use crate::math::Real;
use crate::order::{LANES, NORM_CHUNK};
use crate::tree::fold_tree;

/// The lane order: `lane[l]` takes elements l, l + 16, l + 32, … from `start`; then lane i takes lane i + 8, i + 4,
/// i + 2, i + 1.
fn lanes<T: Real>(len: usize, start: T, step: impl Fn(T, usize) -> T, fold: impl Fn(T, T) -> T) -> T {
    let mut lane: Vec<T> = (0..LANES).map(|l| (l..len).step_by(LANES).fold(start, &step)).collect();
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lane[i] = fold(lane[i], lane[i + half]);
        }
    }
    lane[0]
}

/// The sum of x: additions from +0.
pub fn lane_sum<T: Real>(x: &[T]) -> T {
    lanes(x.len(), T::ZERO, |sum, j| sum + x[j], |a, b| a + b)
}

/// The sum of a b: fused multiply-adds from +0.
pub fn lane_dot<T: Real>(a: &[T], b: &[T]) -> T {
    lanes(a.len(), T::ZERO, |sum, j| Real::mul_add(a[j], b[j], sum), |a, b| a + b)
}

/// The sum of x^2: fused multiply-adds from +0.
pub fn lane_sum_sq<T: Real>(x: &[T]) -> T {
    lane_dot(x, x)
}

/// The sum of (x - centre)^2: fused multiply-adds of the rounded difference from +0.
pub fn lane_sum_sq_centred<T: Real>(x: &[T], centre: T) -> T {
    lanes(x.len(), T::ZERO, |sum, j| Real::mul_add(x[j] - centre, x[j] - centre, sum), |a, b| a + b)
}

/// The sum of e^(x - shift): additions from +0.
pub fn lane_sum_exp<T: Real>(x: &[T], shift: T) -> T {
    lanes(x.len(), T::ZERO, |sum, j| sum + Real::exp(x[j] - shift), |a, b| a + b)
}

/// The largest of x, from -infinity.
pub fn lane_max<T: Real>(x: &[T]) -> T {
    lanes(x.len(), T::NEG_INFINITY, |max, j| Real::max(max, x[j]), Real::max)
}

/// The smallest of x, from +infinity.
pub fn lane_min<T: Real>(x: &[T]) -> T {
    lanes(x.len(), T::INFINITY, |min, j| Real::min(min, x[j]), Real::min)
}

/// The squared norm of a parameter: [`lane_sum_sq`] of each chunk of [`NORM_CHUNK`] elements, added in the tree.
pub fn norm_sq<T: Real>(x: &[T]) -> T {
    let chunks: Vec<T> = x.chunks(NORM_CHUNK).map(lane_sum_sq).collect();
    fold_tree(chunks.len(), &mut |i| chunks[i], &mut |a, b| a + b).unwrap_or(T::ZERO)
}

/// What a row is shifted by before exponentials: its maximum, or 0 where that is infinite or NaN.
fn shift<T: Real>(x: &[T]) -> T {
    let max = lane_max(x);
    if max.is_finite() { max } else { T::ZERO }
}

/// e_j / s with e_j = e^(x_j - shift) and s their lane sum.
pub fn softmax<T: Real>(x: &[T]) -> Vec<T> {
    let shift = shift(x);
    let sum = lane_sum_exp(x, shift);
    x.iter().map(|&x| Real::exp(x - shift) / sum).collect()
}

/// (x_j - shift) - log s.
pub fn log_softmax<T: Real>(x: &[T]) -> Vec<T> {
    let shift = shift(x);
    let log_sum = Real::log(lane_sum_exp(x, shift));
    x.iter().map(|&x| (x - shift) - log_sum).collect()
}

/// shift + log s.
pub fn log_sum_exp<T: Real>(x: &[T]) -> T {
    let shift = shift(x);
    shift + Real::log(lane_sum_exp(x, shift))
}

/// A normalised row and what its backward pass needs.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm<T> {
    /// The normalised, scaled and shifted row.
    pub y: Vec<T>,
    /// The mean of the row.
    pub mean: T,
    /// 1 / sqrt(variance + eps).
    pub rstd: T,
}

/// mean = lane sum / n; variance = lane sum of squared deviations / n; rstd = 1 / sqrt(variance + eps);
/// y = fma((x - mean) rstd, gamma, beta).
pub fn layer_norm<T: Real>(x: &[T], gamma: &[T], beta: &[T], eps: T) -> LayerNorm<T> {
    let n = T::from_usize(x.len());
    let mean = lane_sum(x) / n;
    let variance = lane_sum_sq_centred(x, mean) / n;
    let rstd = Real::rsqrt(variance + eps);
    let y = x.iter().zip(gamma).zip(beta).map(|((&x, &g), &b)| Real::mul_add((x - mean) * rstd, g, b)).collect();
    LayerNorm { y, mean, rstd }
}

/// x / max(norm, eps) with norm = sqrt(lane sum of squares).
pub fn l2_normalize<T: Real>(x: &[T], eps: T) -> Vec<T> {
    let norm = Real::max(Real::sqrt(lane_sum_sq(x)), eps);
    x.iter().map(|&x| x / norm).collect()
}
