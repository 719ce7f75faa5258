//! Operands in blocks of 32 x 32 elements, as the tiles of the matrix unit read them.
//!
//! A left block has its rows one after another, `[row][position]`. A right block has two halves of 16 columns, in which
//! pairs of positions lie together: `[half][pair][column][element of the pair]`. Which positions are pairs, [`Pairs`] says.
//! Elements past the edge are zeros, and so are subnormal ones.

use super::super::contract::{Context, Lease, SharedMut};
use super::{BLOCK, EDGE};
use crate::bf16;
use selfsame_kernels::bf16::split_bf16;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::stamp;
use std::ops::Range;

/// A matrix in memory: element (line, position) at `line * line_stride + position * position_stride`, where lines are
/// left rows or right columns.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Operand<'a> {
    pub(in crate::cpu) data: &'a [bf16],
    pub(in crate::cpu) lines: usize,
    pub(in crate::cpu) positions: usize,
    pub(in crate::cpu) line_stride: usize,
    pub(in crate::cpu) position_stride: usize,
}

/// Which operand it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Side {
    /// Its lines are the rows of the product.
    Left,
    /// Its lines are the columns.
    Right,
}

/// Which positions of a block lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Pairs {
    /// 0 and 1, 2 and 3, and so on.
    Neighbours,
    /// 2 and 0, 3 and 1, 6 and 4, and so on: each of one chain, the later position first.
    Apart,
}

impl Pairs {
    /// The position whose element has this place.
    #[inline(always)]
    pub(in crate::cpu) fn position(self, place: usize) -> usize {
        match self {
            Pairs::Neighbours => place,
            Pairs::Apart => place / 4 * 4 + [2, 0, 3, 1][place % 4],
        }
    }

    /// Something of each of a block's positions, in the order of their places.
    #[inline(always)]
    pub(in crate::cpu) fn in_places<T: Copy>(self, of: &[T; EDGE]) -> [T; EDGE] {
        match self {
            Pairs::Neighbours => *of,
            Pairs::Apart => std::array::from_fn(|place| of[Pairs::Apart.position(place)]),
        }
    }

    /// Arranges blocks whose pairs are neighbours.
    pub(in crate::cpu) fn arrange(self, isa: Isa, side: Side, blocks: &mut [u16]) {
        match (self, side) {
            (Pairs::Neighbours, _) => {}
            (Pairs::Apart, Side::Left) => set_apart_in_rows(isa, blocks),
            (Pairs::Apart, Side::Right) => set_apart_in_pairs(isa, blocks),
        }
    }
}

stamp! {
    fn set_apart_in_rows(blocks: &mut [u16]) {
        for four in blocks.as_chunks_mut::<4>().0 {
            *four = [four[2], four[0], four[3], four[1]];
        }
    }

    fn set_apart_in_pairs(blocks: &mut [u16]) {
        for pairs in blocks.as_chunks_mut::<{ 2 * EDGE }>().0 {
            let (first, second) = pairs.split_at_mut(EDGE);
            for (first, second) in first.as_chunks_mut::<2>().0.iter_mut().zip(second.as_chunks_mut::<2>().0) {
                (*first, *second) = ([second[0], first[0]], [second[1], first[1]]);
            }
        }
    }
}

/// A block of [`Layout::Pairs`](super::Layout::Pairs) whose pairs are neighbours, row by row.
pub(super) fn rows_of(block: &[u16; BLOCK]) -> [u16; BLOCK] {
    std::array::from_fn(|at| block[place(Side::Right, at / EDGE, at % EDGE)])
}

/// Where an element of a block lies whose pairs are neighbours.
#[inline(always)]
fn place(side: Side, line: usize, position: usize) -> usize {
    match side {
        Side::Left => line * EDGE + position,
        Side::Right => line / 16 * (BLOCK / 2) + position / 2 * EDGE + line % 16 * 2 + position % 2,
    }
}

/// Zeros for subnormal numbers.
#[inline(always)]
pub(in crate::cpu) fn flushed(bits: u16) -> u16 {
    if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
}

/// An operand in blocks: `[lines / 32][positions / 32]`.
pub(in crate::cpu) struct Packed<'a> {
    blocks: Lease<'a, u16>,
    across: usize,
}

impl<'a> Packed<'a> {
    pub(in crate::cpu) fn new(cx: &Context<'a>, operand: &Operand<'_>, side: Side, pairs: Pairs) -> Packed<'a> {
        Packed::filled(cx, [operand.lines, operand.positions], side, pairs, |line, position, to| {
            let lines = line..operand.lines.min(line + EDGE);
            fill(operand, side, lines, position..operand.positions.min(position + EDGE), to);
        })
    }

    /// From blocks whose pairs are neighbours, which `fill` writes by their first line and position.
    pub(in crate::cpu) fn filled(
        cx: &Context<'a>,
        [lines, positions]: [usize; 2],
        side: Side,
        pairs: Pairs,
        fill: impl Fn(usize, usize, &mut [u16]) + Sync,
    ) -> Packed<'a> {
        const PIECE: usize = 16;
        let (down, across) = (lines.div_ceil(EDGE), positions.div_ceil(EDGE));
        let mut blocks = cx.scratch.lease(down * across * BLOCK);
        let to = SharedMut::new(&mut blocks);
        cx.run(down * across.div_ceil(PIECE), |task| {
            let (line, first) = (task % down, task / down * PIECE);
            for block in first..across.min(first + PIECE) {
                // SAFETY: tasks have disjoint blocks, and the lease outlives the run.
                let to = unsafe { to.slice((line * across + block) * BLOCK, BLOCK) };
                fill(line * EDGE, block * EDGE, to);
                pairs.arrange(cx.isa, side, to);
            }
        });
        Packed { blocks, across }
    }

    /// The blocks of line block `line`, of some blocks of positions.
    pub(in crate::cpu) fn blocks(&self, line: usize, positions: Range<usize>) -> &[u16] {
        &self.blocks[(line * self.across + positions.start) * BLOCK..][..positions.len() * BLOCK]
    }
}

/// One block.
fn fill(operand: &Operand<'_>, side: Side, lines: Range<usize>, positions: Range<usize>, to: &mut [u16]) {
    if lines.len() < EDGE || positions.len() < EDGE {
        to.fill(0);
    }
    let mut put = |line: usize, position: usize| {
        let at = (lines.start + line) * operand.line_stride + (positions.start + position) * operand.position_stride;
        to[place(side, line, position)] = flushed(operand.data[at].to_bits());
    };
    if operand.position_stride == 1 {
        (0..lines.len()).for_each(|line| (0..positions.len()).for_each(|position| put(line, position)));
    } else {
        (0..positions.len()).for_each(|position| (0..lines.len()).for_each(|line| put(line, position)));
    }
}

/// A block of weights, whose rows lie `stride` apart, as two bf16 parts: as a left block each in `left`, and, if it is
/// given, as a right block, whose columns are those of the weights, in `right`.
pub(in crate::cpu) fn pack_weights(
    isa: Isa,
    weights: &[f32],
    stride: usize,
    pairs: Pairs,
    mut left: [&mut [u16]; 2],
    right: Option<[&mut [u16]; 2]>,
) {
    split_weights(isa, weights, stride, &mut left);
    for (left, right) in left.iter_mut().zip(right.into_iter().flatten()) {
        pair_rows(isa, left, right);
        pairs.arrange(isa, Side::Right, right);
    }
    left.into_iter().for_each(|left| pairs.arrange(isa, Side::Left, left));
}

stamp! {
    fn split_weights(weights: &[f32], stride: usize, parts: &mut [&mut [u16]; 2]) {
        let [high, low] = parts;
        for row in 0..EDGE {
            let weights = &weights[row * stride..][..EDGE];
            let (high, low) = (&mut high[row * EDGE..][..EDGE], &mut low[row * EDGE..][..EDGE]);
            for ((weight, high), low) in weights.iter().zip(high).zip(low) {
                let parts = split_bf16(*weight);
                (*high, *low) = (flushed(parts.0), flushed(parts.1));
            }
        }
    }

    /// A right block whose positions are the rows of `from`.
    pub(in crate::cpu) fn pair_rows(from: &[u16], to: &mut [u16]) {
        for pair in 0..EDGE / 2 {
            let (even, odd) = from[2 * pair * EDGE..][..2 * EDGE].split_at(EDGE);
            for half in 0..2 {
                let to = &mut to[half * (BLOCK / 2) + pair * EDGE..][..EDGE];
                let (even, odd) = (&even[half * 16..][..16], &odd[half * 16..][..16]);
                for ((to, even), odd) in to.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
                    *to = [*even, *odd];
                }
            }
        }
    }

    /// A right block whose columns are the rows of `from`.
    pub(in crate::cpu) fn pair_columns(from: &[u16], to: &mut [u16]) {
        for half in 0..2 {
            let (from, to) = (&from[half * (BLOCK / 2)..], &mut to[half * (BLOCK / 2)..][..BLOCK / 2]);
            for (pair, to) in to.as_chunks_mut::<EDGE>().0.iter_mut().enumerate() {
                for (column, to) in to.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *to = [from[column * EDGE + 2 * pair], from[column * EDGE + 2 * pair + 1]];
                }
            }
        }
    }

    /// A right block whose positions lie at `at`, in the order of their places; asks for those at `next`.
    pub(in crate::cpu) fn pair_lines(from: &[u16], at: &[usize; EDGE], next: &[usize; EDGE], to: &mut [u16; BLOCK]) {
        let (first, second) = to.split_at_mut(BLOCK / 2);
        let halves = first.as_chunks_mut::<EDGE>().0.iter_mut().zip(second.as_chunks_mut::<EDGE>().0);
        for ((at, next), (first, second)) in at.as_chunks::<2>().0.iter().zip(next.as_chunks::<2>().0).zip(halves) {
            let (one, other) = (&from[at[0]..][..EDGE], &from[at[1]..][..EDGE]);
            next.iter().for_each(|at| ask_for::<true>(from.as_ptr().wrapping_add(*at)));
            for i in 0..EDGE / 2 {
                (first[2 * i], first[2 * i + 1]) = (one[i], other[i]);
                (second[2 * i], second[2 * i + 1]) = (one[EDGE / 2 + i], other[EDGE / 2 + i]);
            }
        }
    }
}

/// Asks for the line of memory at `at`, if there is one, to be brought to the second-level cache, and if `NEAR` to the first.
#[inline(always)]
pub(super) fn ask_for<const NEAR: bool>(at: *const u16) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a request, which reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        if NEAR { _mm_prefetch::<_MM_HINT_T0>(at.cast()) } else { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = at;
}
