//! Backward: G of a tile, times the columns for the gradient of the rows, and transposed times the rows for that of the
//! columns.
//!
//! Both products are whole chunks of contractions, which start at +0 in registers and are added to what earlier blocks
//! left. Tiles of one anti-diagonal have no row and no column in common, and every block of a row comes after the one
//! before: so they need no place to keep partial gradients, and no thread waits for another inside a run.
#![allow(unsafe_code)]

use super::super::contract::micro::{Kernels, MAX_ROWS, Output, Path, Piece, Rows};
use super::super::contract::pack::{Operand, Packed, Panel};
use super::super::contract::{self, Context, Lease, Plain, SharedMut};
use super::stored::{DotProducts, DotStrips, GradientProducts};
use super::tiles::{Dots, STRIDE, strips, tile_len};
use super::{Num, PairTerm, Problem, Sides, Stored, block_of, terms};
use crate::order::CHUNK;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::lanes;
use selfsame_kernels::math::Real;
use std::ops::Range;

/// Bytes of rows that are packed ahead as right operand of the gradient. Of more, each task packs those of its tile, which
/// is a copy: little beside the products.
const MOST_AHEAD: usize = 4 << 20;

/// Pieces that a tile is cut into where there are few of them.
const PIECES: usize = 4;

/// Pieces are cut at multiples of this: what the products of bf16 rows take at once.
const UNIT: usize = 32;

/// One side of a gradient: by row or by column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side<'a, T> {
    /// `ExpShifted`: the gradient of the value over the sum; else the gradient of the value.
    pub(crate) weight: &'a [T],
    /// The values; `Exp` alone reads them.
    pub(crate) value: &'a [T],
}

/// The gradient of the rows, and for [`Sides::Both`] that of the columns, in `to_rows` and `to_columns`. For
/// [`Sides::Symmetric`] `column` is `row`, and the gradient is that of rows and columns as one.
pub(crate) fn pair_gradients<S: Stored>(
    cx: &Context<'_>,
    problem: &Problem<'_, S>,
    [row, column]: [Side<'_, S::Num>; 2],
    to_rows: &mut [S::Num],
    to_columns: &mut [S::Num],
) {
    let [m, n, d] = problem.dims;
    if m == 0 || n == 0 || d == 0 {
        to_rows.fill(<S::Num as Real>::ZERO);
        to_columns.fill(<S::Num as Real>::ZERO);
    } else {
        let products = S::products(cx, [problem.rows, problem.columns], problem.dims, problem.sides);
        let (to_rows, to_columns) = (SharedMut::new(to_rows), SharedMut::new(to_columns));
        Backward { problem, row, column, isa: cx.isa, products, to_rows, to_columns }.run(cx);
    }
    for to in [to_rows, to_columns] {
        let (scale, len, to) = (problem.term.scale(), to.len(), SharedMut::new(to));
        let part = CHUNK * d.max(1);
        cx.run(len.div_ceil(part), |task| {
            // SAFETY: tasks have disjoint parts, and the slice outlives the run.
            let to = unsafe { to.slice(task * part, part.min(len - task * part)) };
            terms::multiply(cx.isa, scale, to);
        });
    }
}

struct Backward<'a, S: Stored> {
    problem: &'a Problem<'a, S>,
    row: Side<'a, S::Num>,
    column: Side<'a, S::Num>,
    isa: Isa,
    products: S::Products<'a>,
    to_rows: SharedMut<S::Num>,
    to_columns: SharedMut<S::Num>,
}

/// What a tile keeps of G.
type Kept<'a, S> = <<S as Stored>::Products<'a> as GradientProducts<<S as Stored>::Num>>::Kept;

/// Tile (i, j) and where its G is.
struct Tile<'a, T: Plain> {
    at: [usize; 2],
    g: SharedMut<T>,
    /// Keeps `g` alive.
    _memory: Lease<'a, T>,
}

impl<'a, S: Stored> Backward<'a, S> {
    fn run(&self, cx: &Context<'_>) {
        let [m, n, _] = self.problem.dims;
        let (down, across) = (m.div_ceil(CHUNK), n.div_ceil(CHUNK));
        if self.problem.sides == Sides::Rows {
            return self.run_rows(cx, across);
        }
        for diagonal in 0..down + across - 1 {
            let first = (diagonal + 1).saturating_sub(across);
            let tiles: Vec<[usize; 2]> = (first..down.min(diagonal + 1))
                .map(|i| [i, diagonal - i])
                .filter(|[i, j]| self.problem.sides == Sides::Both || i <= j)
                .collect();
            // As many whole tiles as keep all threads busy alike; the others in pieces.
            let whole = if cx.threads() == 1 { tiles.len() } else { tiles.len() / cx.threads() * cx.threads() };
            let (whole, cut) = tiles.split_at(whole);
            let cut: Vec<Tile<'_, Kept<'a, S>>> = cut.iter().map(|&at| self.new_tile(cx, at)).collect();
            cx.run(whole.len() + PIECES * cut.len(), |task| match task.checked_sub(whole.len()) {
                None => {
                    let tile = self.new_tile(cx, whole[task]);
                    let (rows, columns) = self.ranges(tile.at);
                    self.rows(cx, &tile, rows);
                    self.columns(cx, &tile, columns);
                }
                Some(piece) => {
                    let tile = &cut[piece / PIECES];
                    self.rows(cx, tile, part(self.ranges(tile.at).0, piece % PIECES));
                }
            });
            cx.run(PIECES * cut.len(), |piece| {
                let tile = &cut[piece / PIECES];
                self.columns(cx, tile, part(self.ranges(tile.at).1, piece % PIECES));
            });
        }
    }

    /// Only rows have gradients: each strip goes through its blocks by itself.
    fn run_rows(&self, cx: &Context<'_>, across: usize) {
        let [m, ..] = self.problem.dims;
        let pieces = m.div_ceil(CHUNK) * PIECES;
        cx.run(pieces, |piece| {
            let i = piece / PIECES;
            let rows = part(block_of(i, m), piece % PIECES);
            if !rows.is_empty() {
                for j in 0..across {
                    // SAFETY: tasks have disjoint rows.
                    unsafe { self.rows_of(cx, [i, j], rows.clone(), None) };
                }
            }
        });
    }

    fn new_tile<'b>(&self, cx: &Context<'b>, at: [usize; 2]) -> Tile<'b, Kept<'a, S>> {
        let mut memory = cx.scratch.lease(S::Products::TILE);
        Tile { at, g: SharedMut::new(&mut memory), _memory: memory }
    }

    /// Rows and columns of a tile.
    fn ranges(&self, [i, j]: [usize; 2]) -> (Range<usize>, Range<usize>) {
        let [m, n, _] = self.problem.dims;
        (block_of(i, m), block_of(j, n))
    }

    /// Where the gradient of a tile's columns goes, unless it serves its rows alone.
    fn to_columns(&self, [i, j]: [usize; 2]) -> Option<SharedMut<S::Num>> {
        match self.problem.sides {
            Sides::Both => Some(self.to_columns),
            Sides::Symmetric if i != j => Some(self.to_rows),
            _ => None,
        }
    }

    /// G of some rows of a tile, and their gradient: the block's chain over the columns.
    fn rows(&self, cx: &Context<'_>, tile: &Tile<'_, Kept<'a, S>>, rows: Range<usize>) {
        let kept = self.to_columns(tile.at).map(|_| tile.g);
        // SAFETY: tasks of one run have disjoint rows of their tile, and tiles of one run have disjoint rows.
        unsafe { self.rows_of(cx, tile.at, rows, kept) };
    }

    /// # Safety
    /// As for [`GradientProducts::rows`].
    unsafe fn rows_of(
        &self,
        cx: &Context<'_>,
        at: [usize; 2],
        rows: Range<usize>,
        kept: Option<SharedMut<Kept<'a, S>>>,
    ) {
        let columns = self.ranges(at).1;
        let weigh = |r: usize, g: &mut [S::Num]| self.gradient_of_row(r, &columns, g);
        // SAFETY: the caller's promise.
        unsafe { self.products.rows(cx, at, rows, weigh, kept, self.to_rows) };
    }

    /// The gradient of some columns of a tile: the block's chain over the rows.
    fn columns(&self, cx: &Context<'_>, tile: &Tile<'_, Kept<'a, S>>, columns: Range<usize>) {
        if let Some(to) = self.to_columns(tile.at) {
            // SAFETY: the rows of the tile are done, and tasks of one run have disjoint columns.
            unsafe { self.products.columns(cx, tile.at, columns, tile.g, to) };
        }
    }

    /// Turns the dot products of row `r` with `columns` into G.
    fn gradient_of_row(&self, r: usize, columns: &Range<usize>, g: &mut [S::Num]) {
        let isa = self.isa;
        let weights = &self.column.weight[columns.clone()];
        match self.problem.term {
            PairTerm::ExpShifted { scale, shift } => {
                lanes::exp_fma_in_place(isa, scale, shift, g);
                terms::weigh(isa, self.row.weight[r], weights, g);
            }
            PairTerm::Exp { scale } => {
                let values = &self.column.value[columns.clone()];
                terms::grad_exp(isa, scale, self.row.weight[r], self.row.value[r], weights, values, g);
            }
            PairTerm::Softplus { scale, bias } => {
                terms::grad_softplus(isa, scale, bias, self.row.weight[r], weights, g);
            }
        }
        self.problem.mask.cover(isa, r, columns.clone(), <S::Num as Real>::ZERO, g);
    }
}

/// Piece `piece` of [`PIECES`], cut at multiples of [`UNIT`].
fn part(range: Range<usize>, piece: usize) -> Range<usize> {
    let cut = |i: usize| range.start + (i * range.len() / PIECES).next_multiple_of(UNIT).min(range.len());
    cut(piece)..cut(piece + 1)
}

/// The products of rows that are computed in their own type, by the kernels of the contractions.
pub(crate) struct FullProducts<'a, T: Num> {
    dims: [usize; 3],
    kernels: &'static Kernels<T>,
    dots: Dots<'a, T>,
    /// The columns as right operand.
    right: Packed<'a, T>,
    /// The rows as such, where they are not the columns.
    left: Option<Packed<'a, T>>,
    /// Positions of a tile's rows and of the packed rows, for contractions over rows.
    down: Vec<(usize, usize)>,
}

impl<'a, T: Num> FullProducts<'a, T> {
    pub(super) fn new(
        cx: &Context<'a>,
        [rows, columns]: [&'a [T]; 2],
        [m, n, d]: [usize; 3],
        sides: Sides,
    ) -> FullProducts<'a, T> {
        FullProducts {
            dims: [m, n, d],
            kernels: <T as contract::Real>::kernels(cx.isa),
            dots: Dots::new(cx, [rows, columns], [m, n, d]),
            right: packed_rows(cx, columns, n, d),
            left: (sides == Sides::Both).then(|| packed_rows(cx, rows, m, d)),
            down: (0..CHUNK).map(|i| (i * STRIDE, i)).collect(),
        }
    }
}

/// Rows as the right operand of a product that contracts over them.
fn packed_rows<'a, T: Num>(cx: &Context<'a>, rows: &'a [T], count: usize, depth: usize) -> Packed<'a, T> {
    let operand =
        Operand { data: rows, k: count, n: depth, inner: count, outer_stride: 0, row_stride: depth, col_stride: 1 };
    Packed::ahead_within(cx, &operand, MOST_AHEAD)
}

impl<T: Num> GradientProducts<T> for FullProducts<'_, T> {
    /// The rows of G, [`STRIDE`] apart.
    type Kept = T;
    const TILE: usize = tile_len(CHUNK);

    unsafe fn rows(
        &self,
        cx: &Context<'_>,
        [i, j]: [usize; 2],
        rows: Range<usize>,
        weigh: impl Fn(usize, &mut [T]),
        g: Option<SharedMut<T>>,
        to: SharedMut<T>,
    ) {
        let [m, n, d] = self.dims;
        let (first_row, columns) = (block_of(i, m).start, block_of(j, n));
        let most = self.kernels.max_rows();
        let mut own = cx.scratch.lease::<T>(tile_len(most));
        let mut scratch = cx.scratch.lease::<T>(self.dots.scratch_len());
        let mut dots = self.dots.block(j, &mut scratch);
        let mut ragged = cx.scratch.lease::<T>(MAX_ROWS * self.kernels.max_columns());
        let panels = &self.right.panels;
        let mut on_demand = cx.scratch.lease::<T>(self.right.block_len(panels.count()));
        let packed = self.right.block(j, 0..panels.count(), &mut on_demand);
        let runs = [Piece::whole(columns.len())];
        for strip in strips(rows, most, 1) {
            let g = match g {
                // SAFETY: no other task has these rows of the tile.
                Some(g) => unsafe { g.slice(tile_len(strip.start - first_row), tile_len(strip.len())) },
                None => &mut own[..tile_len(strip.len())],
            };
            dots.strip(strip.clone(), g);
            for (r, g) in strip.clone().zip(g.chunks_mut(STRIDE)) {
                weigh(r, &mut g[..columns.len()]);
            }
            let offsets = std::array::from_fn(|row| (strip.start + row) * d);
            let left = Rows::copied(g.as_ptr());
            for panel in (0..panels.count()).map(|i| panels.get(i)) {
                let kernel = self.kernels.rows[strip.len() - 1][panel.vectors - 1];
                let product = Product { to, offsets: &offsets, rows: strip.len(), panel, is_first: j == 0 };
                // SAFETY: `cx.isa` is present; G holds the strip's rows at the stride of a left operand, the panel a row
                // per column; this task alone has these rows of the gradient.
                unsafe {
                    product.add(&mut ragged, self.kernels.width, |out| {
                        kernel(&left, packed.panel(panel), &runs, out);
                    })
                };
            }
        }
    }

    unsafe fn columns(
        &self,
        cx: &Context<'_>,
        [i, _]: [usize; 2],
        columns: Range<usize>,
        g: SharedMut<T>,
        to: SharedMut<T>,
    ) {
        let [m, _, d] = self.dims;
        let rows = block_of(i, m);
        let mut ragged = cx.scratch.lease::<T>(MAX_ROWS * self.kernels.max_columns());
        let left = self.left.as_ref().unwrap_or(&self.right);
        let mut on_demand = cx.scratch.lease::<T>(left.block_len(left.panels.count()));
        let packed = left.block(i, 0..left.panels.count(), &mut on_demand);
        for strip in strips(columns, self.kernels.max_rows(), 1) {
            let offsets = std::array::from_fn(|row| (strip.start + row) * d);
            let g = g.at(strip.start % CHUNK).cast_const();
            for panel in (0..left.panels.count()).map(|i| left.panels.get(i)) {
                let kernel = self.kernels.columns[strip.len() - 1][panel.vectors - 1];
                let product = Product { to, offsets: &offsets, rows: strip.len(), panel, is_first: i == 0 };
                // SAFETY: `cx.isa` is present; the tile's rows are written, and no task writes it now; the panel holds a
                // row per row of the tile; this task alone has these columns' gradient.
                unsafe {
                    product.add(&mut ragged, self.kernels.width, |out| {
                        let b = packed.panel(panel);
                        kernel(g, b, &Path::new(&self.down[..rows.len()], b), out);
                    })
                };
            }
        }
    }
}

/// A panel of the gradient of `rows` rows, which start at `offsets`.
struct Product<'a, T> {
    to: SharedMut<T>,
    offsets: &'a [usize; MAX_ROWS],
    rows: usize,
    panel: Panel,
    /// Nothing is there yet to add to.
    is_first: bool,
}

impl<T: Num> Product<'_, T> {
    /// Adds what `kernel` computes.
    ///
    /// # Safety
    /// The rows must be inside `to`, and no other task's.
    unsafe fn add(&self, ragged: &mut [T], width: usize, kernel: impl Fn(&Output<'_, T>)) {
        let Product { to, offsets, rows, panel, is_first } = *self;
        let padded = panel.vectors * width;
        if panel.columns == padded {
            let to = to.at(panel.first);
            let before = [to.cast_const()];
            let add = if is_first { &[] } else { &before[..] };
            return kernel(&Output { add, to, rows: offsets });
        }
        // SAFETY: the caller's promise.
        let row_of = |row: usize| unsafe { to.slice(offsets[row] + panel.first, panel.columns) };
        if !is_first {
            for row in 0..rows {
                ragged[row * padded..][..panel.columns].copy_from_slice(row_of(row));
            }
        }
        let before = [ragged.as_ptr()];
        let add = if is_first { &[] } else { &before[..] };
        let in_ragged = std::array::from_fn(|row| row * padded);
        kernel(&Output { add, to: ragged.as_mut_ptr(), rows: &in_ragged });
        for row in 0..rows {
            row_of(row).copy_from_slice(&ragged[row * padded..][..panel.columns]);
        }
    }
}
