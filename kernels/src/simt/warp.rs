//! Reductions over half a warp: the 16 lanes of the canonical order, two rows to a warp.

use super::{Word, shuffle, shuffle_xor};
use crate::math::Real;

/// Joins lanes 8, 4, 2, 1 apart within each half of the warp: the half's first lane has the canonical result.
///
/// A lane's partner joins in the other order, so where `join(a, b)` and `join(b, a)` have the same bits, every lane has
/// that result.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn fold<T: Word>(mask: u32, mut value: T, join: impl Fn(T, T) -> T) -> T {
    value = join(value, shuffle_xor(mask, value, 8));
    value = join(value, shuffle_xor(mask, value, 4));
    value = join(value, shuffle_xor(mask, value, 2));
    join(value, shuffle_xor(mask, value, 1))
}

/// The same for a `join` that tells its arguments apart: the first lane's result goes to every lane.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn fold_ordered<T: Word>(mask: u32, value: T, join: impl Fn(T, T) -> T) -> T {
    shuffle(mask, fold(mask, value, join), super::lane() & 16)
}

/// The sum over the 16 lanes of this half warp, in canonical order. Every lane of `mask` takes part.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_sum(mask: u32, value: f32) -> f32 {
    fold(mask, value, |a, b| a + b)
}

/// The product over the 16 lanes of this half warp, in canonical order.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_product(mask: u32, value: f32) -> f32 {
    fold(mask, value, |a, b| a * b)
}

/// The largest value of this half warp by [`Real::max`], which tells -0 from +0 by their order.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_max(mask: u32, value: f32) -> f32 {
    fold_ordered(mask, value, Real::max)
}

/// The smallest value of this half warp by [`Real::min`].
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_min(mask: u32, value: f32) -> f32 {
    fold_ordered(mask, value, Real::min)
}
