//! Random numbers: Philox streams drawn in parallel.
//!
//! The element at position p of a stream is made from word p (the pair of words that p lies in, for normal numbers),
//! whoever draws it: `NUMERICS.md`, "Random numbers". A stream is given by its
//! [`key_words`](crate::philox::Stream::key_words) (k0, k1, s0, s1); element 0 is position `first`.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::{Case, exactly};
use crate::device::run::{RUN, THREADS};
use crate::math::Real;
use crate::philox::{block_of, normal_pair, uniform_of_word};
use crate::simt::*;
use crate::{kernel, shared};

/// Runs `store(i, number)` for the numbers of this block.
///
/// A thread draws one Philox block, four numbers by `transform`; the block's numbers change hands in shared memory, so
/// that they are written in stretches, whatever the alignment of `first` and of the array.
#[inline(always)]
fn draw(key_words: [u32; 4], first: u64, n: u32, transform: impl Fn([u32; 4]) -> [f32; 4], store: impl Fn(u32, f32)) {
    let numbers = shared!(f32; RUN);
    let thread = thread_idx().x;
    let words = block_of(key_words, (first / 4).wrapping_add(u64::from(block_idx().x * THREADS + thread)));
    numbers.set4(4 * thread, transform(words));
    barrier();
    // Positions before the first are drawn with their Philox block and left out.
    let skipped = (first % 4) as u32;
    for k in 0..RUN as u32 / THREADS {
        let at = k * THREADS + thread;
        let position = block_idx().x * RUN as u32 + at;
        if position >= skipped && within(position - skipped, n) {
            store(position - skipped, numbers.get(at));
        }
    }
}

kernel! {
    /// y = fma(width, u, low) with u uniform on [0, 1), a multiple of 2^-24.
    random_uniform(
        y: Out<f32>[n], k0: u32, k1: u32, s0: u32, s1: u32, first: u64, width: f32, low: f32, n: u32,
    )
    grid [if n == 0 { 0 } else { (first % 4 + n).div_ceil(RUN) }] block [THREADS]
    cost { flop: 3 * n }
    cases uniform_cases
    {
        draw(
            [k0, k1, s0, s1],
            first,
            n,
            |[a, b, c, d]| [uniform_of_word(a), uniform_of_word(b), uniform_of_word(c), uniform_of_word(d)],
            |i, u| y.set(i, Real::mul_add(width, u, low)),
        );
    }

    /// y = fma(std, z, mean) with z standard normal.
    random_normal(
        y: Out<f32>[n], k0: u32, k1: u32, s0: u32, s1: u32, first: u64, std: f32, mean: f32, n: u32,
    )
    grid [if n == 0 { 0 } else { (first % 4 + n).div_ceil(RUN) }] block [THREADS]
    cost { flop: 5 * n, special: 2 * n }
    cases normal_cases
    {
        draw(
            [k0, k1, s0, s1],
            first,
            n,
            |[a, b, c, d]| {
                let (first, second) = (normal_pair(a, b), normal_pair(c, d));
                [first.0, first.1, second.0, second.1]
            },
            |i, z| y.set(i, Real::mul_add(std, z, mean)),
        );
    }

    /// y = 1 with probability p, else 0: whether u < p, compared in f64, with u as in [`random_uniform`].
    random_bernoulli(y: Out<u8>[n], k0: u32, k1: u32, s0: u32, s1: u32, first: u64, p: f64, n: u32)
    grid [if n == 0 { 0 } else { (first % 4 + n).div_ceil(RUN) }] block [THREADS]
    cost { flop: 2 * n }
    cases bernoulli_cases
    {
        draw(
            [k0, k1, s0, s1],
            first,
            n,
            |[a, b, c, d]| [uniform_of_word(a), uniform_of_word(b), uniform_of_word(c), uniform_of_word(d)],
            |i, u| y.set(i, u8::from(f64::from(u) < p)),
        );
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] =
    &[&random_uniform::SPEC, &random_normal::SPEC, &random_bernoulli::SPEC];

#[cfg(not(target_arch = "nvptx64"))]
use cases::{bernoulli_cases, normal_cases, uniform_cases};

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::isa::Isa;
    use crate::philox::{Key, Purpose, Stream, fill_normal};

    /// First positions and lengths: aligned or not, over several blocks, past 2^32 words.
    const RANGES: [(u64, usize); 5] = [(0, 1), (0, 1024), (3, 1020), (2, 2050), (4 * ((1 << 32) - 1) + 1, 9)];

    fn stream() -> Stream {
        Key::new(0x0123_4567_89ab_cdef, Purpose::Noise).stream(5, 0x3_0000_0004, 2)
    }

    /// The uniform numbers, drawn one by one.
    fn uniform(first: u64, n: usize) -> Vec<f32> {
        let mut stream = stream();
        stream.seek(first);
        (0..n).map(|_| stream.uniform_f32()).collect()
    }

    pub(super) fn uniform_cases() -> Vec<Case> {
        RANGES
            .map(|(first, n)| {
                let ([k0, k1, s0, s1], (width, low)) = (stream().key_words(), (3.0, -1.25));
                let y = uniform(first, n).into_iter().map(|u| Real::mul_add(width, u, low)).collect();
                random_uniform::TestCase { y: exactly(y), k0, k1, s0, s1, first, width, low, n: n as u32 }
                    .named(format!("{n} from {first}"))
            })
            .into()
    }

    pub(super) fn normal_cases() -> Vec<Case> {
        RANGES
            .map(|(first, n)| {
                let ([k0, k1, s0, s1], (std, mean)) = (stream().key_words(), (0.7, 0.5));
                let mut z = vec![0.0; n];
                fill_normal(Isa::PORTABLE, &stream(), first, &mut z);
                let y = z.into_iter().map(|z| Real::mul_add(std, z, mean)).collect();
                random_normal::TestCase { y: exactly(y), k0, k1, s0, s1, first, std, mean, n: n as u32 }
                    .named(format!("{n} from {first}"))
            })
            .into()
    }

    pub(super) fn bernoulli_cases() -> Vec<Case> {
        RANGES
            .map(|(first, n)| {
                let ([k0, k1, s0, s1], p) = (stream().key_words(), 0.3);
                let y = uniform(first, n).into_iter().map(|u| u8::from(f64::from(u) < p)).collect();
                random_bernoulli::TestCase { y: exactly(y), k0, k1, s0, s1, first, p, n: n as u32 }
                    .named(format!("{n} from {first}"))
            })
            .into()
    }
}
