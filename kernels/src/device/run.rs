//! How element-wise kernels share out their elements, and the inputs that their cases have in common.

use crate::simt::*;
use core::num::NonZeroU32;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Elements of a thread in kernels that memory limits; those that compute much take one.
pub(super) const EACH: u32 = 4;

/// Elements of a block of [`THREADS`] threads with [`EACH`] elements.
pub(super) const RUN: u64 = (THREADS * EACH) as u64;

/// Runs `store(i, load(i))` for this thread's elements below `n`: `COUNT` of them, [`THREADS`] apart, so that each
/// access of a warp is one stretch of memory, aligned or not. All loads come before the first store, so that they
/// overlap.
#[inline(always)]
pub(super) fn each<const COUNT: u32, V: Copy + Default>(
    n: u32,
    load: impl Fn(u32) -> V,
    store: impl Fn(u32, V),
) {
    let first = block_idx().x * (COUNT * THREADS) + thread_idx().x;
    let mut values = [V::default(); 4];
    for k in 0..COUNT {
        let i = first + k * THREADS;
        if within(i, n) {
            values[k as usize] = load(i);
        }
    }
    for k in 0..COUNT {
        let i = first + k * THREADS;
        if within(i, n) {
            store(i, values[k as usize]);
        }
    }
}

/// i / length and i mod length. A shape with a length of 0 has no elements; the length is then taken as 1, which leaves
/// the division without a check.
#[inline(always)]
pub(super) fn divide(i: u32, length: u32) -> (u32, u32) {
    let length = NonZeroU32::new(length).unwrap_or(NonZeroU32::MIN);
    (i / length, i % length)
}

#[cfg(not(target_arch = "nvptx64"))]
pub(super) mod cases {
    use super::*;
    use crate::case::noise;

    /// Sizes at the edges of threads and blocks.
    pub(in super::super) const SIZES: [usize; 3] = [1, RUN as usize, RUN as usize + 266];

    /// Zeros, ones, the ends of the ranges, what is not finite, and arguments where functions change their method.
    const SPECIAL: [f32; 24] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        3.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        1e-40,
        -1e-40,
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
        1e-8,
        0.9,
        -5.0,
        20.0,
        88.9,
        -103.5,
        131_071.0,
        300_000.0,
        -1e30,
        2.5,
    ];

    /// `n` numbers, the last of them special ones.
    pub(in super::super) fn inputs(n: usize, seed: u64) -> Vec<f32> {
        let mut x = noise(n, seed);
        for (x, special) in x.iter_mut().rev().zip(SPECIAL) {
            *x = special;
        }
        x
    }

    /// Pairs of numbers: noise with noise, then each special number with each.
    pub(in super::super) fn pairs(n: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let (mut a, mut b) = (noise(n, seed), noise(n, seed + 1));
        for (i, (a, b)) in a.iter_mut().zip(&mut b).rev().take(SPECIAL.len() * SPECIAL.len()).enumerate() {
            (*a, *b) = (SPECIAL[i % SPECIAL.len()], SPECIAL[i / SPECIAL.len()]);
        }
        (a, b)
    }
}
