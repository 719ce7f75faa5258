//! The dot products of a tile.

use super::super::contract::micro::{A_STRIDE, Kernels, MAX_ROWS, Output, Run};
use super::super::contract::pack::{Operand, Packed};
use super::super::contract::{self, Context};
use super::{Num, block_of};
use selfsame_kernels::order::CHUNK;
use std::ops::Range;

/// Distance between the rows of a tile: that of the left operand of the row kernel, so that a tile of the gradient is
/// such an operand as it stands.
pub(super) const STRIDE: usize = A_STRIDE;

/// Elements of a tile of `rows` rows.
pub(super) const fn tile_len(rows: usize) -> usize {
    rows * STRIDE
}

/// Rows against columns, the columns packed for the row kernel.
pub(super) struct Dots<'a, T: Num> {
    rows: &'a [T],
    depth: usize,
    count: usize,
    columns: Packed<'a, T>,
    kernels: &'static Kernels<T>,
}

impl<'a, T: Num> Dots<'a, T> {
    /// `rows` `[m, depth]` against `columns` `[count, depth]`; depth and count are positive.
    pub(super) fn new(cx: &Context<'a>, rows: &'a [T], columns: &'a [T], count: usize, depth: usize) -> Dots<'a, T> {
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
        Dots { rows, depth, count, columns: Packed::ahead(cx, &operand), kernels }
    }

    /// Rows that one call of [`Dots::strip`] can take.
    pub(super) fn max_rows(&self) -> usize {
        self.kernels.max_rows()
    }

    /// The dot products of `rows` with the columns of `block`; row i of the strip starts at `to[i * STRIDE]`.
    ///
    /// `a` is scratch of `tile_len(MAX_ROWS)` elements.
    pub(super) fn strip(&self, rows: Range<usize>, block: usize, a: &mut [T], to: &mut [T]) {
        let columns = block_of(block, self.count);
        let height = rows.len();
        assert!(height <= self.max_rows() && to.len() >= tile_len(height) && a.len() >= tile_len(MAX_ROWS));
        let per_block = CHUNK / self.kernels.max_columns();
        let panels = block * per_block..self.columns.panels.count().min((block + 1) * per_block);
        let offsets = std::array::from_fn(|row| row * STRIDE);
        for chunk in 0..self.depth.div_ceil(CHUNK) {
            let k = block_of(chunk, self.depth);
            for (i, row) in rows.clone().enumerate() {
                a[i * STRIDE..][..k.len()].copy_from_slice(&self.rows[row * self.depth..][k.clone()]);
            }
            let packed = self.columns.block(chunk, panels.clone(), &mut []);
            let runs = [Run { start: 0, len: k.len() }];
            for panel in panels.clone().map(|i| self.columns.panels.get(i)) {
                let kernel = self.kernels.rows[height - 1][panel.vectors - 1];
                let to = to[panel.first - columns.start..].as_mut_ptr();
                let before = [to.cast_const()];
                let add = if chunk == 0 { &[] } else { &before[..] };
                let out = Output { add, to, rows: &offsets };
                // SAFETY: `cx.isa` is present; A holds `height` rows at its stride, and the panel a row per position.
                // A row of the strip has STRIDE elements, room for a block of columns with its padding.
                unsafe { kernel(a.as_ptr(), packed.panel(panel).as_ptr(), &runs, &out) };
            }
        }
    }
}

/// Cuts `rows` into runs of at most `most`, of nearly equal length.
pub(super) fn strips(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let (count, len) = (rows.len().div_ceil(most), rows.len());
    (0..count).map(move |i| rows.start + i * len / count..rows.start + (i + 1) * len / count)
}
