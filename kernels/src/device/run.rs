//! How element-wise kernels share out their elements, and the inputs that their cases have in common.

#[cfg(not(target_arch = "nvptx64"))]
use crate::kernel::KernelSpec;
use crate::simt::*;
use core::num::NonZeroU32;

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Elements of a thread in kernels that memory limits; those that compute much take one.
pub(super) const EACH: usize = 4;

/// Elements of a block of [`THREADS`] threads with [`EACH`] elements.
pub(super) const RUN: u64 = THREADS as u64 * EACH as u64;

/// Runs `store(i, load(i))` for this thread's elements below `n`: `COUNT` of them, which is 1 or [`EACH`], [`THREADS`]
/// apart, so that each access of a warp is one stretch of memory, aligned or not.
///
/// With [`EACH`] elements, in all blocks but the last, every load comes before the first store, without a branch
/// between them: the loads overlap, which the compiler cannot arrange by itself, as it does not know that memory read
/// and written differ.
#[inline(always)]
pub(super) fn each<const COUNT: usize, V>(n: u32, load: impl Fn(u32) -> V, store: impl Fn(u32, V)) {
    const { assert!(COUNT == 1 || COUNT == EACH) };
    let run = COUNT as u32 * THREADS;
    let first = block_idx().x * run;
    let mine = first + thread_idx().x;
    if COUNT == EACH && within(first + (run - 1), n) {
        let at = [mine, mine + THREADS, mine + 2 * THREADS, mine + 3 * THREADS];
        // Written out: loops over the values would be unrolled too late for some of them to be kept in registers.
        let values = (load(at[0]), load(at[1]), load(at[2]), load(at[3]));
        store(at[0], values.0);
        store(at[1], values.1);
        store(at[2], values.2);
        store(at[3], values.3);
    } else if COUNT == EACH {
        // The last block: nothing lies behind it.
        for i in strided(mine, n, THREADS) {
            store(i, load(i));
        }
    } else if within(mine, n) {
        store(mine, load(mine));
    }
}

/// i / length and i mod length. A shape with a length of 0 has no elements; the length is then taken as 1, which leaves
/// the division without a check.
#[inline(always)]
pub(super) fn divide(i: u32, length: u32) -> (u32, u32) {
    let length = NonZeroU32::new(length).unwrap_or(NonZeroU32::MIN);
    (i / length, i % length)
}

/// Lists of kernels as one; `N` is the length of all.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) const fn joined<const N: usize>(lists: &[&[&'static KernelSpec]]) -> [&'static KernelSpec; N] {
    let mut all = [lists[0][0]; N];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            all[at] = lists[list][i];
            (i, at) = (i + 1, at + 1);
        }
        list += 1;
    }
    assert!(at == N, "N is the number of kernels");
    all
}

#[cfg(not(target_arch = "nvptx64"))]
pub(super) mod cases {
    use super::*;
    use crate::case::noise;

    /// Sizes at the edges of threads and blocks.
    pub(in super::super) const SIZES: [usize; 3] = [1, RUN as usize - 1, RUN as usize + 266];

    /// A number that every function changes, for the last element of all; then zeros, ones, the ends of the ranges, what
    /// is not finite, and arguments where functions change their method.
    const SPECIAL: [f32; 24] = [
        2.5,
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
