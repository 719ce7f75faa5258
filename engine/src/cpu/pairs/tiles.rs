//! The dot products of a tile.

use super::super::contract::micro::{A_STRIDE, Kernels, Output, Piece, Rows};
use super::super::contract::pack::{Block, Operand, Packed};
use super::super::contract::{self, Context};
use super::stored::{DotProducts, DotStrips};
use super::{Num, block_of};
use crate::order::CHUNK;
use std::ops::Range;

/// Distance between the rows of a tile: that of the left operand of the row kernel, so that a tile of the gradient is
/// such an operand as it stands.
pub(super) const STRIDE: usize = A_STRIDE;

/// Elements of a tile of `rows` rows.
pub(crate) const fn tile_len(rows: usize) -> usize {
    rows * STRIDE
}

/// Bytes of columns that are packed ahead, as a second copy of them. Of more, each task packs those of its tile, a
/// transposition for every 512 rows: 5 % of the time, but no memory.
const MOST_AHEAD: usize = 16 << 20;

/// Rows against columns, the columns packed for the row kernel.
pub(crate) struct Dots<'a, T: Num> {
    rows: &'a [T],
    depth: usize,
    count: usize,
    columns: Packed<'a, T>,
    kernels: &'static Kernels<T>,
}

impl<'a, T: Num> Dots<'a, T> {
    /// `rows` `[m, depth]` against `columns` `[count, depth]`; depth and count are positive.
    pub(super) fn new(cx: &Context<'a>, operands: [&'a [T]; 2], dims: [usize; 3]) -> Dots<'a, T> {
        Dots::ahead_within(cx, operands, dims, MOST_AHEAD)
    }

    /// The same, with all columns packed ahead, for tasks of few rows.
    pub(crate) fn ahead(cx: &Context<'a>, operands: [&'a [T]; 2], dims: [usize; 3]) -> Dots<'a, T> {
        Dots::ahead_within(cx, operands, dims, usize::MAX)
    }

    fn ahead_within(
        cx: &Context<'a>,
        [rows, columns]: [&'a [T]; 2],
        [_, count, depth]: [usize; 3],
        most: usize,
    ) -> Dots<'a, T> {
        let operand = Operand {
            data: columns,
            k: depth,
            n: count,
            inner: depth,
            outer_stride: 0,
            row_stride: 1,
            col_stride: depth,
        };
        let kernels = <T as contract::Real>::kernels(cx.isa);
        Dots { rows, depth, count, columns: Packed::ahead_within(cx, &operand, most), kernels }
    }

    fn chunks(&self) -> usize {
        self.depth.div_ceil(CHUNK)
    }

    /// Elements of a chunk of a block of columns that is packed on demand.
    fn block_len(&self) -> usize {
        self.columns.block_len(CHUNK / self.kernels.max_columns())
    }
}

impl<T: Num> DotProducts<T> for Dots<'_, T> {
    const UNIT: usize = 1;
    type Block<'b>
        = DotsOfBlock<'b, T>
    where
        Self: 'b;

    fn max_rows(&self) -> usize {
        self.kernels.max_rows()
    }

    fn scratch_len(&self) -> usize {
        tile_len(self.max_rows()) + self.chunks() * self.block_len()
    }

    fn block<'b>(&'b self, block: usize, scratch: &'b mut [T]) -> DotsOfBlock<'b, T> {
        let per_block = CHUNK / self.kernels.max_columns();
        let panels = block * per_block..self.columns.panels.count().min((block + 1) * per_block);
        let (rows, mut rest) = scratch.split_at_mut(tile_len(self.max_rows()));
        let chunk = |chunk: usize| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(self.block_len());
            rest = others;
            self.columns.block(chunk, panels.clone(), own)
        };
        let chunks = (0..self.chunks()).map(chunk).collect();
        DotsOfBlock { dots: self, first: block_of(block, self.count).start, panels: panels.clone(), rows, chunks }
    }
}

/// Dot products with the columns of one block.
pub(crate) struct DotsOfBlock<'b, T: Num> {
    dots: &'b Dots<'b, T>,
    /// The first column.
    first: usize,
    panels: Range<usize>,
    /// A strip as left operand.
    rows: &'b mut [T],
    /// The columns, by chunks of positions.
    chunks: Vec<Block<'b, T>>,
}

impl<T: Num> DotStrips<T> for DotsOfBlock<'_, T> {
    fn strip(&mut self, rows: Range<usize>, to: &mut [T]) {
        let Dots { rows: all, depth, columns, kernels, .. } = self.dots;
        let height = rows.len();
        assert!(height <= kernels.max_rows() && to.len() >= tile_len(height) && self.rows.len() >= tile_len(height));
        let offsets = std::array::from_fn(|row| row * STRIDE);
        for (chunk, packed) in self.chunks.iter().enumerate() {
            let k = block_of(chunk, *depth);
            for (i, row) in rows.clone().enumerate() {
                self.rows[i * STRIDE..][..k.len()].copy_from_slice(&all[row * depth..][k.clone()]);
            }
            let runs = [Piece::whole(k.len())];
            let left = Rows::copied(self.rows.as_ptr());
            for panel in self.panels.clone().map(|i| columns.panels.get(i)) {
                let kernel = kernels.rows[height - 1][panel.vectors - 1];
                let to = to[panel.first - self.first..].as_mut_ptr();
                let before = [to.cast_const()];
                let add = if chunk == 0 { &[] } else { &before[..] };
                let out = Output { add, to, rows: &offsets };
                // A holds `height` rows at its stride, and the panel a row per position; a row of the strip has STRIDE
                // elements, room for a block of columns with its padding.
                // SAFETY: by that, and `cx.isa` being present.
                unsafe { kernel(&left, packed.panel(panel), &runs, &out) };
            }
        }
    }
}

/// Cuts `rows` into runs of at most `most`, of nearly equal length, at multiples of `unit`, which divides `most`.
pub(crate) fn strips(rows: Range<usize>, most: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let (count, len) = (rows.len().div_ceil(most), rows.len());
    let cut = move |i: usize| rows.start + (i * len / count).next_multiple_of(unit).min(len);
    (0..count).map(move |i| cut(i)..cut(i + 1))
}
