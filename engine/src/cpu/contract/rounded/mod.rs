//! Convolutions and linear layers of f32 numbers that are rounded to bf16 first, with sums in f32 in the order of
//! [`contract_bf16`](selfsame_kernels::reference::contract_bf16), by the units of [`bf16`](super::super::bf16).
//!
//! - `correlation`: forward and gradient of the input, whose rows are gathered from pixels.
//! - `weight_grad`: the gradient of the weight, a sum over samples.
//!
//! Operands are rounded once for each operation, and multiplied in blocks of 32 rows, columns and positions. Numbers that
//! no term has, of pixels outside the image among them, are zeros of their blocks; a block of them alone is left out.
//!
//! Measured on two cores of an AMD EPYC with AVX512-BF16, 256 images, forward, input and weight gradient in ms: 3 x 3 of 64
//! channels at 32 x 32 58, 61, 63; of 128 at 16 x 16 50, 51, 59; of 256 at 8 x 8 44, 45, 56; of 512 at 4 x 4 37, 37, 56. Two
//! thirds to four fifths of that is the products, at the peak of the dot products; the rest is rounding, gathering and
//! storing. Tried: weight gradients in eight slices of tiles for two threads where two do, each of which reads all of x
//! again (64 channels 84 ms, not 59); tiles tap by tap and not channels by channels (128 channels 68, not 58); copies of
//! blocks of unknown length (3 % slower).

mod correlation;
mod weight_grad;

#[cfg(test)]
mod tests;

pub(crate) use correlation::{conv2d, conv2d_input_grad, linear};
pub(crate) use weight_grad::conv2d_weight_grad;

use super::super::bf16::{EDGE, Pairs, flushed};
use super::{Context, Lease, SharedMut};
use crate::order::CHUNK;
use selfsame_kernels::half_precision::bf16_bits_of_f32;
use selfsame_kernels::stamp;

/// Blocks of positions in a chunk.
const CHUNK_BLOCKS: usize = CHUNK / EDGE;

/// Elements that a task rounds.
const PIECE: usize = 1 << 16;

/// `from`, rounded, with `zeros` zeros behind. For [`Pairs::Apart`] elements change places among each four.
fn rounded<'a>(cx: &Context<'a>, from: &[f32], pairs: Pairs, zeros: usize) -> Lease<'a, u16> {
    let mut to = cx.scratch.lease::<u16>(from.len() + zeros);
    to[from.len()..].fill(0);
    let shared = SharedMut::new(&mut to);
    cx.run(from.len().div_ceil(PIECE), |task| {
        let from = &from[task * PIECE..from.len().min((task + 1) * PIECE)];
        // SAFETY: tasks have disjoint pieces, and the lease outlives the run.
        let to = unsafe { shared.slice(task * PIECE, from.len()) };
        match pairs {
            Pairs::Neighbours => round(cx.isa, from, to),
            Pairs::Apart => round_apart(cx.isa, from, to),
        }
    });
    to
}

/// The bits of `x` as bf16, a zero of its sign where that is subnormal.
#[inline(always)]
fn bits(x: f32) -> u16 {
    flushed(bf16_bits_of_f32(x))
}

stamp! {
    fn round(from: &[f32], to: &mut [u16]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = bits(*from);
        }
    }

    /// As [`Pairs::arrange`] has left blocks.
    fn round_apart(from: &[f32], to: &mut [u16]) {
        for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
            *to = [bits(from[2]), bits(from[0]), bits(from[3]), bits(from[1])];
        }
    }
}
