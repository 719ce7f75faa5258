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
//! channels at 32 x 32 50, 50, 59; of 128 at 16 x 16 45, 45, 55; of 256 at 8 x 8 41, 41, 53; of 512 at 4 x 4 35, 35, 54. The
//! products are seven to nine tenths of that; the rest is rounding, pairing and storing. Medians of ratios of pairs:
//!
//! - Rows read in place, and not from copies in blocks: 64 channels 1.06, 256 channels 1.02.
//! - Results written past the caches: 64 channels at 32 x 32 1.04 more. A task's rows asked for at its start: 1.02 more.
//! - Both gradients from one rounding of dy: 64 channels 1.03, linear layers 1.05.
//! - Weight gradients ask for the next block's pixels: 1.01 to 1.03. Taps of few channels, which share tiles, copied four
//!   elements at once, and only those of the task's tiles: 7 x 7 stem 1.9.
//!
//! Tried: weight gradients in eight slices of tiles for two threads where two do, each of which reads all of x again (64
//! channels 84 ms, not 59); tiles tap by tap and not channels by channels (128 channels 68, not 58); copies of blocks of
//! unknown length (3 % slower); results written by blocks of columns while their sums are in the first-level cache (1024
//! channels 0.91); loops over blocks in which each step finds its elements in a table (0.95).

mod correlation;
mod weight_grad;

#[cfg(test)]
mod tests;

use super::super::bf16::{BLOCK, EDGE, Pairs, Unit, add_block, flushed};
use super::conv::Gathering;
use super::{Context, ConvShape, Lease, SharedMut};
use crate::order::CHUNK;
use selfsame_kernels::half_precision::bf16_bits_of_f32;
use selfsame_kernels::stamp;

/// Blocks of positions in a chunk.
const CHUNK_BLOCKS: usize = CHUNK / EDGE;

/// Elements that a task rounds.
const PIECE: usize = 1 << 16;

/// y = x * weight.
///
/// # Panics
/// When lengths do not fit the shape, or the channels the groups: the caller checks its operands.
pub(crate) fn conv2d(cx: &Context<'_>, shape: &ConvShape, x: &[f32], weight: &[f32], y: &mut [f32]) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlation::correlate(cx, &Gathering::of_inputs(shape), &Rounded::inputs(cx, shape, x), weight, None, y);
}

/// y = x * weight + bias for each pixel, of a shape without groups.
///
/// # Panics
/// As for [`conv2d`], and when the bias has another length than a pixel of y.
pub(crate) fn linear(
    cx: &Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    assert!(shape.groups == 1 && bias.is_none_or(|bias| bias.len() == shape.c_out), "bias length");
    correlation::correlate(cx, &Gathering::of_inputs(shape), &Rounded::inputs(cx, shape, x), weight, bias, y);
}

/// dx from dy.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_input_grad(cx: &Context<'_>, shape: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!([dx.len(), weight.len(), dy.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlation::correlate(cx, &Gathering::of_outputs(shape), &Rounded::outputs(cx, shape, dy), weight, None, dx);
}

/// The gradient `[kh, kw, c / groups, c_out]` of the weight, as [`conv2d_weight_grad`](super::conv2d_weight_grad) has it.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_weight_grad(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    x: &[f32],
    dy: &[f32],
    nodes: &mut [&mut [f32]],
) {
    let operands = [Rounded::inputs(cx, shape, x), Rounded::outputs(cx, shape, dy)];
    weight_grad::weight_grad(cx, shape, first_leaf, operands.each_ref(), nodes);
}

/// Both gradients from x, dy and the weight. dy is rounded once.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_grads(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    [x, dy, weight]: [&[f32]; 3],
    dx: &mut [f32],
    nodes: &mut [&mut [f32]],
) {
    assert_eq!([dx.len(), weight.len(), dy.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    let dy = Rounded::outputs(cx, shape, dy);
    correlation::correlate(cx, &Gathering::of_outputs(shape), &dy, weight, None, dx);
    weight_grad::weight_grad(cx, shape, first_leaf, [&Rounded::inputs(cx, shape, x), &dy], nodes);
}

/// Pixels, rounded to bf16. Behind the last lie zeros, of a pixel and a block.
struct Rounded<'a> {
    bits: Lease<'a, u16>,
    /// How many elements the pixels have.
    len: usize,
    /// The order of channels: the pairs of the unit where a group's are whole fours, so that most blocks need no other order.
    pairs: Pairs,
}

impl<'a> Rounded<'a> {
    fn inputs(cx: &Context<'a>, shape: &ConvShape, x: &[f32]) -> Rounded<'a> {
        Rounded::new(cx, x, shape.c, shape.groups)
    }

    fn outputs(cx: &Context<'a>, shape: &ConvShape, dy: &[f32]) -> Rounded<'a> {
        Rounded::new(cx, dy, shape.c_out, shape.groups)
    }

    fn new(cx: &Context<'a>, from: &[f32], channels: usize, groups: usize) -> Rounded<'a> {
        let in_fours = (channels / groups).is_multiple_of(4);
        let pairs = if in_fours { Unit::beside(cx.isa).pairs() } else { Pairs::Neighbours };
        let mut bits = cx.scratch.lease::<u16>(from.len() + channels + EDGE);
        bits[from.len()..].fill(0);
        let shared = SharedMut::new(&mut bits);
        cx.run(from.len().div_ceil(PIECE), |task| {
            let from = &from[task * PIECE..from.len().min((task + 1) * PIECE)];
            // SAFETY: tasks have disjoint pieces, and the lease outlives the run.
            let to = unsafe { shared.slice(task * PIECE, from.len()) };
            match pairs {
                Pairs::Neighbours => round(cx.isa, from, to),
                Pairs::Apart => round_apart(cx.isa, from, to),
            }
        });
        Rounded { bits, len: from.len(), pairs }
    }
}

/// Adds the product of one chunk, which `product` writes, to a block of sums, or writes it if it is the first.
fn add_product(cx: &Context<'_>, is_first: bool, sums: &mut [f32], mut product: impl FnMut(&mut [f32])) {
    if is_first {
        product(sums);
    } else {
        let mut of_chunk = [0f32; BLOCK];
        product(&mut of_chunk);
        add_block(cx.isa, &of_chunk, false, EDGE, EDGE, sums);
    }
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
