//! The same products in loops, and the sums of blocks. Each sum is flushed by hand here, which costs far more than the
//! product itself: this is for the bits, not for speed.

use super::{BLOCK, EDGE, Run};
use selfsame_kernels::bf16::{flushed, fma_flushed};
use selfsame_kernels::half_precision::f32_of_bf16_bits;
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;

/// Columns that are summed side by side: a vector of AVX-512.
const WIDTH: usize = EDGE / 2;

/// The sums of one left row with [`WIDTH`] right columns over one block of positions, even positions and odd ones.
///
/// Operands are flushed already. Unless `EXACT`, a result of +-2^-126 is left as it is, and reported in the second
/// result: it may stand for a subnormal one.
#[inline(always)]
fn group<const EXACT: bool>(left: &[u16], right: &[u16]) -> ([[f32; WIDTH]; 2], bool) {
    let mut sums = [[0f32; WIDTH]; 2];
    let mut doubtful = [false; WIDTH];
    for (left, right) in left.as_chunks::<2>().0.iter().zip(right.as_chunks::<EDGE>().0) {
        for (odd, sums) in sums.iter_mut().enumerate() {
            let left = f32_of_bf16_bits(left[odd]);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let right = f32_of_bf16_bits(right[2 * lane + odd]);
                if EXACT {
                    *sum = fma_flushed(left, right, *sum);
                } else {
                    *sum = flushed(Real::mul_add(left, right, *sum));
                    doubtful[lane] |= Real::abs(*sum) == f32::MIN_POSITIVE;
                }
            }
        }
    }
    (sums, doubtful.contains(&true))
}

stamp! {
    /// See [`Session::product`](super::Session::product).
    pub(super) fn product(runs: &[Run<'_>], to: &mut [f32], stride: usize) {
        for row in 0..EDGE {
            for half in 0..2 {
                let mut sums = [0f32; WIDTH];
                for run in runs {
                    let rights = run.right.as_chunks::<BLOCK>().0;
                    for (left, right) in run.left.as_chunks::<BLOCK>().0.iter().zip(rights) {
                        let left = &left[row * EDGE..][..EDGE];
                        let right = &right[half * BLOCK / 2..][..BLOCK / 2];
                        let (mut chains, doubtful) = group::<false>(left, right);
                        if doubtful {
                            (chains, _) = group::<true>(left, right);
                        }
                        for (lane, sum) in sums.iter_mut().enumerate() {
                            *sum = flushed(*sum + flushed(chains[0][lane] + chains[1][lane]));
                        }
                    }
                }
                to[row * stride + half * WIDTH..][..WIDTH].copy_from_slice(&sums);
            }
        }
    }

    /// Adds a block of sums, or writes it if `is_first`, to lines of `len` elements, of which it has `columns`.
    pub(in crate::cpu) fn add_block(sums: &[f32], is_first: bool, columns: usize, len: usize, to: &mut [f32]) {
        for (to, sums) in to.chunks_mut(len).zip(sums.as_chunks::<EDGE>().0) {
            for (to, sum) in to[..columns].iter_mut().zip(sums) {
                *to = if is_first { *sum } else { *to + *sum };
            }
        }
    }

    /// The same with the transposed block.
    pub(in crate::cpu) fn add_block_transposed(
        sums: &[f32], is_first: bool, columns: usize, len: usize, to: &mut [f32],
    ) {
        let mut turned = [0f32; BLOCK];
        for (i, sums) in sums.as_chunks::<EDGE>().0.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                turned[j * EDGE + i] = *sum;
            }
        }
        for (to, sums) in to.chunks_mut(len).zip(turned.as_chunks::<EDGE>().0) {
            for (to, sum) in to[..columns].iter_mut().zip(sums) {
                *to = if is_first { *sum } else { *to + *sum };
            }
        }
    }
}
