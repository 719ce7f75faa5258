//! Reductions over half a warp: the 16 lanes of the canonical order, two rows to a warp.

use super::{Word, shuffle, shuffle_xor};
use crate::math::Real;

/// Folds lanes 8, 4, 2, 1 apart within each half of the warp and gives every lane the result of the half's first.
///
/// A lane's partner adds in the other order; only the first lane's result, which is the canonical one, is used.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn fold<T: Word>(mask: u32, mut value: T, join: impl Fn(T, T) -> T) -> T {
    value = join(value, shuffle_xor(mask, value, 8));
    value = join(value, shuffle_xor(mask, value, 4));
    value = join(value, shuffle_xor(mask, value, 2));
    value = join(value, shuffle_xor(mask, value, 1));
    shuffle(mask, value, super::lane() & 16)
}

/// The sum over the 16 lanes of this half warp, in canonical order. Every lane of `mask` takes part.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_sum(mask: u32, value: f32) -> f32 {
    fold(mask, value, |a, b| a + b)
}

/// The largest value of this half warp by [`Real::max`].
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_max(mask: u32, value: f32) -> f32 {
    fold(mask, value, Real::max)
}

/// The smallest value of this half warp by [`Real::min`].
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn half_warp_min(mask: u32, value: f32) -> f32 {
    fold(mask, value, Real::min)
}
