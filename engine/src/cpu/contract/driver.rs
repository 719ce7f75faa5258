//! The loop around the row micro-kernel, shared by matrix products and convolutions.
//!
//! A task is a slice of row tiles. Its loops, from the outside: blocks of columns (a chunk of one stays in the
//! second-level cache), chunks of k, tiles of A (which stay in the first-level cache), panels of B.
#![allow(unsafe_code)]

use super::lanes::Real;
use super::left::{Class, Left, Source, Tile};
use super::micro::{A_STRIDE, MAX_ROWS, Output};
use super::pack::{Packed, copy_row};
use super::{Context, SharedMut};
use crate::order::CHUNK;
use std::ops::Range;

/// Columns of B that are worked on together: with [`CHUNK`] rows of f32, 1 MiB.
const COLUMN_BLOCK: usize = (1 << 18) / CHUNK;

/// Elements of a B that stays in the second-level cache beside rows of A and C.
pub(super) const SMALL_B: usize = 1 << 18;

/// Part `slice` of `slices`: of every class, cut into tiles of nearly equal height, an equal share. So a slice has the rows
/// of neighbouring pixels, whatever their classes, and shares of work are equal. Where shares are no whole tiles, classes
/// round up at different slices.
///
/// Against slices of one class after another, two cores of an AMD EPYC, medians of ratios of pairs: input gradient of 1 x 1,
/// stride 2, of 64 to 128 channels at 32 x 32, where three classes of four are zeros, 1.5 times as fast; of 3 x 3, stride 2,
/// 1.04; the others 0.99 to 1.03.
pub(super) fn tiles(classes: &[Class], max_rows: usize, [slice, slices]: [usize; 2]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (class, Class { rows, .. }) in classes.iter().enumerate() {
        let count = rows.div_ceil(max_rows);
        let start = |i: usize| i * rows / count;
        let (unit, shift) = (2 * classes.len(), 2 * class + 1);
        let first = |slice: usize| (slice * count * unit).div_ceil(slices).saturating_sub(shift).div_ceil(unit);
        let share = first(slice)..first(slice + 1);
        tiles.extend(share.map(|i| Tile { class, first: start(i), rows: start(i + 1) - start(i) }));
    }
    tiles
}

/// How many slices of rows and of column blocks to make of a product.
///
/// Slices are small enough that the rows of A and C stay in the second-level cache when B does too, and large when B
/// has to be read anew for each of them.
fn grid(threads: usize, rows: usize, depth: usize, columns: usize, panels: usize) -> (usize, usize) {
    const SMALL_SLICE: usize = 1 << 17;
    let by_rows = if depth * columns <= SMALL_B {
        (rows * columns.max(depth / 4)).div_ceil(SMALL_SLICE)
    } else {
        rows.div_ceil(1024)
    };
    let wanted = if threads == 1 { 1 } else { 4 * threads };
    let by_rows = by_rows.max(wanted.min(rows.div_ceil(256))).clamp(1, rows.div_ceil(MAX_ROWS).max(1));
    let by_columns = if by_rows >= threads { 1 } else { (2 * threads).div_ceil(by_rows).min(panels) };
    (by_rows, by_columns.max(1))
}

/// What becomes of some columns of a row of C once their sums are whole, while they are in a cache.
pub(in crate::cpu) type Finish<'a, T> = Option<&'a (dyn Fn(Range<usize>, &mut [T]) + Sync)>;

/// C = A · B for the rows of `source`; outputs without a position that takes part become +0. Then all of C is finished.
///
/// # Safety
/// The offsets of [`Source::outputs`] must be distinct rows of `n` elements inside `c`.
pub(super) unsafe fn contract<T: Real, S: Source<T>>(
    cx: &Context<'_>,
    source: &S,
    b: &Packed<'_, T>,
    finish: Finish<'_, T>,
    c: SharedMut<T>,
) {
    let kernels = T::kernels(cx.isa);
    let classes = source.classes();
    let panels = b.panels;
    let rows = classes.iter().map(|class| class.rows).sum();
    let depth = classes.iter().map(Class::depth).max().unwrap_or(0);
    let (row_slices, column_slices) = if b.is_on_demand() {
        (1, if cx.threads() == 1 { 1 } else { (2 * cx.threads()).min(panels.count()) })
    } else {
        grid(cx.threads(), rows, depth, panels.padded(), panels.count())
    };
    let first_chunks: Vec<Option<usize>> =
        classes.iter().map(|class| class.pieces.iter().position(|pieces| !pieces.is_empty())).collect();
    let last_chunks: Vec<Option<usize>> =
        classes.iter().map(|class| class.pieces.iter().rposition(|pieces| !pieces.is_empty())).collect();
    let block = COLUMN_BLOCK / kernels.max_columns();
    let left = Left::new(source, panels.count());

    cx.run(row_slices * column_slices, |task| {
        let tiles = tiles(classes, kernels.max_rows(), [task / column_slices, row_slices]);
        let slice = task % column_slices;
        let panel_range = slice * panels.count() / column_slices..(slice + 1) * panels.count() / column_slices;
        let mut a = cx.scratch.lease::<T>(MAX_ROWS * A_STRIDE);
        let mut ragged = cx.scratch.lease::<T>(MAX_ROWS * kernels.max_columns());
        let mut b_scratch = cx.scratch.lease::<T>(b.block_len(block.min(panel_range.len())));
        let mut offsets = [0; MAX_ROWS];
        let mut ragged_offsets = [0; MAX_ROWS];
        for block_start in panel_range.clone().step_by(block) {
            let block_end = panel_range.end.min(block_start + block);
            let last = panels.get(block_end - 1);
            let columns = panels.get(block_start).first..last.first + last.columns;
            for tile in tiles.iter().filter(|tile| first_chunks[tile.class].is_none()) {
                source.outputs(tile.class, tile.first, &mut offsets[..tile.rows]);
                for row in &offsets[..tile.rows] {
                    // SAFETY: the caller promises distinct rows inside C; tasks have distinct tiles and panels.
                    let c = unsafe { c.slice(row + columns.start, columns.len()) };
                    c.fill(T::ZERO);
                    finish.inspect(|finish| finish(columns.clone(), c));
                }
            }
            let chunks = classes.iter().map(|class| class.pieces.len()).max().unwrap_or(0);
            for chunk in 0..chunks {
                let b = b.block(chunk, block_start..block_end, &mut b_scratch);
                let in_chunk = |tile: &Tile| !classes[tile.class].pieces[chunk].is_empty();
                let mut rest = tiles.iter().copied().filter(in_chunk).map(|tile| (tile, left.starts(tile)));
                let mut next = rest.next();
                while let Some((tile, starts)) = next {
                    next = rest.next();
                    let Tile { class, first, rows } = tile;
                    let is_first = first_chunks[class] == Some(chunk);
                    source.outputs(class, first, &mut offsets[..rows]);
                    let ahead = next.map_or(starts, |(_, starts)| starts);
                    let (a, pieces) = left.rows(tile, chunk, [&starts, &ahead], &mut a);
                    for panel in (block_start..block_end).map(|i| panels.get(i)) {
                        let kernel = kernels.rows[rows - 1][panel.vectors - 1];
                        let packed = b.panel(panel);
                        let width = panel.vectors * kernels.width;
                        if panel.columns == width {
                            let to = c.at(panel.first);
                            let before = [to.cast_const()];
                            let add = if is_first { &[] } else { &before[..] };
                            let out = Output { add, to, rows: &offsets };
                            // A's rows have all elements of the pieces, which lie in a chunk, and the panel a row for each.
                            // SAFETY: by that, `cx.isa` being present, and the caller's promise of the rows of C.
                            unsafe { kernel(&a, packed, pieces, &out) };
                        } else {
                            for m in 0..rows {
                                ragged_offsets[m] = m * width;
                                // SAFETY: as above; no other task has these columns of these rows.
                                let c = unsafe { c.slice(offsets[m] + panel.first, panel.columns) };
                                if !is_first {
                                    copy_row(c, &mut ragged[m * width..][..panel.columns]);
                                }
                            }
                            let to = ragged.as_mut_ptr();
                            let before = [to.cast_const()];
                            let add = if is_first { &[] } else { &before[..] };
                            let out = Output { add, to, rows: &ragged_offsets };
                            // SAFETY: as above, with a whole tile of scratch for the output.
                            unsafe { kernel(&a, packed, pieces, &out) };
                            for m in 0..rows {
                                // SAFETY: as above.
                                let c = unsafe { c.slice(offsets[m] + panel.first, panel.columns) };
                                copy_row(&ragged[m * width..][..panel.columns], c);
                            }
                        }
                    }
                    if let (Some(finish), true) = (finish, last_chunks[class] == Some(chunk)) {
                        for row in &offsets[..rows] {
                            // SAFETY: as above.
                            finish(columns.clone(), unsafe { c.slice(row + columns.start, columns.len()) });
                        }
                    }
                }
            }
        }
    });
}
