//! The products of bf16 rows, by a unit of [`bf16`](super::super::bf16).
//!
//! G of a strip of 32 rows is split into two bf16 parts as soon as it is known. The gradient of the rows has them as
//! left operand; that of the columns, transposed, as right operand, which is what a tile keeps.
#![allow(unsafe_code)]

use super::super::bf16::{
    BLOCK, EDGE, Layout, Operand, Packed, Run, Session, Side, Unit, add_block, add_block_transposed, pack_weights,
};
use super::super::contract::{Context, SharedMut};
use super::stored::{DotProducts, DotStrips, GradientProducts};
use super::tiles::{STRIDE, strips, tile_len};
use super::{Sides, block_of};
use crate::bf16;
use crate::order::CHUNK;
use selfsame_kernels::isa::Isa;
use std::ops::Range;

/// Blocks along a side of a tile.
const ACROSS: usize = CHUNK / EDGE;

/// Elements of one part of G of a tile.
const PART: usize = CHUNK * CHUNK;

/// Blocks of `range`, which starts at one.
fn blocks_of(range: &Range<usize>) -> Range<usize> {
    range.start / EDGE..range.end.div_ceil(EDGE)
}

/// Dot products of bf16 rows.
pub(crate) struct RoundedDots<'a> {
    dims: [usize; 3],
    rows: Packed<'a>,
    columns: Packed<'a>,
    unit: Unit,
}

impl<'a> RoundedDots<'a> {
    /// `rows` `[m, d]` against `columns` `[n, d]`; nothing is empty.
    pub(super) fn new(cx: &Context<'a>, [rows, columns]: [&[bf16]; 2], [m, n, d]: [usize; 3]) -> RoundedDots<'a> {
        let operand = |data, lines| Operand { data, lines, positions: d, line_stride: d, position_stride: 1 };
        let unit = Unit::beside(cx.isa);
        RoundedDots {
            dims: [m, n, d],
            rows: Packed::new(cx, &operand(rows, m), Side::Left, unit.pairs()),
            columns: Packed::new(cx, &operand(columns, n), Side::Right, unit.pairs()),
            unit,
        }
    }

    /// See [`DotStrips::strip`].
    fn strip(&self, session: &mut Session, rows: &Range<usize>, block: usize, to: &mut [f32]) {
        let [_, n, d] = self.dims;
        let columns = block_of(block, n);
        assert!(rows.start.is_multiple_of(EDGE) && rows.len() <= EDGE && to.len() >= tile_len(rows.len()));
        for (column, at) in blocks_of(&columns).zip((0..).step_by(EDGE)) {
            for chunk in 0..d.div_ceil(CHUNK) {
                let k = blocks_of(&block_of(chunk, d));
                let left = self.rows.blocks(rows.start / EDGE, k.clone());
                let run = Run { left, right: self.columns.blocks(column, k) };
                if chunk == 0 && rows.len() == EDGE {
                    session.product(Layout::Rows, &[run], &mut to[at..], STRIDE);
                } else {
                    let mut sums = [0f32; BLOCK];
                    session.product(Layout::Rows, &[run], &mut sums, EDGE);
                    for (to, sums) in to.chunks_mut(STRIDE).zip(sums.as_chunks::<EDGE>().0).take(rows.len()) {
                        for (to, sum) in to[at..].iter_mut().zip(sums) {
                            *to = if chunk == 0 { *sum } else { *to + *sum };
                        }
                    }
                }
            }
        }
    }
}

impl DotProducts<f32> for RoundedDots<'_> {
    const UNIT: usize = EDGE;
    type Block<'b>
        = RoundedDotsOfBlock<'b>
    where
        Self: 'b;

    fn max_rows(&self) -> usize {
        EDGE
    }

    fn scratch_len(&self) -> usize {
        0
    }

    fn block<'b>(&'b self, block: usize, _scratch: &'b mut [f32]) -> RoundedDotsOfBlock<'b> {
        RoundedDotsOfBlock { dots: self, session: self.unit.open(), block }
    }
}

/// Dot products with the columns of one block.
pub(crate) struct RoundedDotsOfBlock<'b> {
    dots: &'b RoundedDots<'b>,
    session: Session,
    block: usize,
}

impl DotStrips<f32> for RoundedDotsOfBlock<'_> {
    fn strip(&mut self, rows: Range<usize>, to: &mut [f32]) {
        self.dots.strip(&mut self.session, &rows, self.block, to);
    }
}

/// The products of a gradient of bf16 rows.
pub(crate) struct RoundedProducts<'a> {
    isa: Isa,
    dots: RoundedDots<'a>,
    /// The columns as right operand of a product that contracts over them.
    columns: Packed<'a>,
    /// The rows as left operand of one that contracts over them, where columns have gradients.
    rows: Option<Packed<'a>>,
}

impl<'a> RoundedProducts<'a> {
    pub(super) fn new(
        cx: &Context<'a>,
        [rows, columns]: [&[bf16]; 2],
        [m, n, d]: [usize; 3],
        sides: Sides,
    ) -> RoundedProducts<'a> {
        let operand = |data, positions| Operand { data, lines: d, positions, line_stride: 1, position_stride: d };
        let dots = RoundedDots::new(cx, [rows, columns], [m, n, d]);
        let pairs = dots.unit.pairs();
        RoundedProducts {
            isa: cx.isa,
            dots,
            columns: Packed::new(cx, &operand(columns, n), Side::Right, pairs),
            rows: (sides != Sides::Rows).then(|| Packed::new(cx, &operand(rows, m), Side::Left, pairs)),
        }
    }
}

/// G of a strip with a tile's columns: `[2][ACROSS]` left blocks.
const STRIP: usize = 2 * ACROSS * BLOCK;

impl GradientProducts<f32> for RoundedProducts<'_> {
    /// `[2][ACROSS of columns][ACROSS of rows]` right blocks.
    type Kept = u16;
    const TILE: usize = 2 * PART;

    unsafe fn rows(
        &self,
        cx: &Context<'_>,
        [i, j]: [usize; 2],
        rows: Range<usize>,
        weigh: impl Fn(usize, &mut [f32]),
        g: Option<SharedMut<u16>>,
        to: SharedMut<f32>,
    ) {
        let [m, n, d] = self.dots.dims;
        let (first_row, columns) = (block_of(i, m).start, block_of(j, n));
        let blocks = blocks_of(&columns);
        let mut dots = cx.scratch.lease::<f32>(tile_len(EDGE));
        let mut strip_of_g = cx.scratch.lease::<u16>(STRIP);
        let (high, low) = strip_of_g.split_at_mut(STRIP / 2);
        let mut sums = [0f32; BLOCK];
        let mut session = self.dots.unit.open();
        for strip in strips(rows, EDGE, EDGE) {
            self.dots.strip(&mut session, &strip, j, &mut dots);
            for (r, g) in strip.clone().zip(dots.chunks_mut(STRIDE)) {
                let (real, padding) = g.split_at_mut(columns.len());
                weigh(r, real);
                padding[..blocks.len() * EDGE - real.len()].fill(0.0);
            }
            dots[tile_len(strip.len())..].fill(0.0);
            for (block, (high, low)) in high.chunks_mut(BLOCK).zip(low.chunks_mut(BLOCK)).enumerate().take(blocks.len())
            {
                let right = g.map(|g| {
                    let at = (block * ACROSS + (strip.start - first_row) / EDGE) * BLOCK;
                    // SAFETY: these are columns of a block of the strip's rows, which are this task's.
                    [0, PART].map(|part| unsafe { g.slice(part + at, BLOCK) })
                });
                pack_weights(self.isa, &dots[block * EDGE..], STRIDE, self.dots.unit.pairs(), [high, low], right);
            }
            // SAFETY: the gradients of the strip's rows are this task's.
            let to = unsafe { to.slice(strip.start * d, strip.len() * d) };
            for element in 0..d.div_ceil(EDGE) {
                let right = self.columns.blocks(element, blocks.clone());
                let runs = [&high, &low].map(|left| Run { left: &left[..right.len()], right });
                session.product(Layout::Rows, &runs, &mut sums, EDGE);
                let at = element * EDGE;
                add_block(self.isa, &sums, j == 0, EDGE.min(d - at), d, &mut to[at..]);
            }
        }
    }

    unsafe fn columns(
        &self,
        _cx: &Context<'_>,
        [i, _]: [usize; 2],
        columns: Range<usize>,
        g: SharedMut<u16>,
        to: SharedMut<f32>,
    ) {
        let Some(rows) = &self.rows else { return };
        let [m, _, d] = self.dots.dims;
        let blocks = blocks_of(&block_of(i, m));
        let mut sums = [0f32; BLOCK];
        let mut session = self.dots.unit.open();
        for strip in strips(columns, EDGE, EDGE) {
            let at = strip.start % CHUNK / EDGE * ACROSS * BLOCK;
            // SAFETY: the tile's rows are written, and no task writes them now.
            let parts: [&[u16]; 2] = [0, PART].map(|part| unsafe { &*g.slice(part + at, blocks.len() * BLOCK) });
            // SAFETY: the gradients of the strip's columns are this task's.
            let to = unsafe { to.slice(strip.start * d, strip.len() * d) };
            for element in 0..d.div_ceil(EDGE) {
                let left = rows.blocks(element, blocks.clone());
                session.product(Layout::Rows, &parts.map(|right| Run { left, right }), &mut sums, EDGE);
                let at = element * EDGE;
                add_block_transposed(self.isa, &sums, i == 0, EDGE.min(d - at), d, &mut to[at..]);
            }
        }
    }
}
