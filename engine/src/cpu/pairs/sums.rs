//! Forward: the sums of every row, from tiles that are independent of each other.
//!
//! A tile leaves a partial result per row (and per column, where columns are rows of the other side). Tiles are taken in
//! squares of [`SQUARE`] by [`SQUARE`], whose partial results are joined in order before the next square starts: that
//! bounds the memory for them whatever the size of the problem.
#![allow(unsafe_code)]

use super::super::contract::{Context, SharedMut};
use super::columns::{ColumnLanes, SECOND};
use super::stored::{DotProducts, DotStrips};
use super::tiles::{STRIDE, strips, tile_len};
use super::{PairTerm, Problem, Sides, Stored, block_of, terms};
use crate::order::CHUNK;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::lanes;
use selfsame_kernels::math::Real;
use selfsame_kernels::order::LANES;
use std::ops::Range;

/// Blocks along a side of a square.
const SQUARE: usize = 16;

/// What is computed beside the value and the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) weighted_dot: bool,
    pub(crate) top: bool,
}

/// What is known of a row after some of its columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums<T> {
    /// `Exp`: the largest x; `Softplus`: the sum of softplus(x).
    pub(crate) second: T,
    pub(crate) sum: T,
    pub(crate) weighted_dot: T,
    /// The largest dot product, and its column; -infinity and `NOWHERE` if there is none.
    pub(crate) top: T,
    pub(crate) top_at: u32,
}

/// No column.
const NOWHERE: u32 = u32::MAX;

impl<T: Real> Sums<T> {
    /// No columns.
    pub(super) fn none(term: &PairTerm<T>) -> Sums<T> {
        let second = if matches!(term, PairTerm::Exp { .. }) { T::NEG_INFINITY } else { T::ZERO };
        Sums { second, sum: T::ZERO, weighted_dot: T::ZERO, top: T::NEG_INFINITY, top_at: NOWHERE }
    }

    #[inline(always)]
    pub(super) fn join_top(&mut self, next: &Sums<T>) {
        if next.top > self.top {
            (self.top, self.top_at) = (next.top, next.top_at);
        }
    }

    /// The column of the largest dot product.
    pub(crate) fn top_column(&self) -> Option<u32> {
        (self.top_at != NOWHERE).then_some(self.top_at)
    }
}

/// A maximum as shift: 0 where it is infinite or NaN.
#[inline(always)]
pub(super) fn shift_of<T: Real>(largest: T) -> T {
    if largest.is_finite() { largest } else { T::ZERO }
}

/// The value of each row or column, and the sums that it is made of.
type Side<T> = (Vec<T>, Vec<Sums<T>>);

/// Value and sums of every row, and for [`Sides::Both`] those of every column.
pub(crate) fn pair_sums<S: Stored>(
    cx: &Context<'_>,
    problem: &Problem<'_, S>,
    statistics: Statistics,
) -> [Side<S::Num>; 2] {
    let [m, n, d] = problem.dims;
    let mut rows = vec![Sums::none(&problem.term); m];
    let mut columns = vec![Sums::none(&problem.term); if problem.sides == Sides::Both { n } else { 0 }];
    if m > 0 && n > 0 {
        let forward = Forward {
            problem,
            statistics,
            isa: cx.isa,
            dots: (d > 0).then(|| S::dots(cx, [problem.rows, problem.columns], problem.dims)),
        };
        forward.run(cx, &mut rows, &mut columns);
    }
    [rows, columns].map(|sums| (values(cx.isa, &problem.term, &sums), sums))
}

fn values<T: Real>(isa: Isa, term: &PairTerm<T>, sums: &[Sums<T>]) -> Vec<T> {
    let mut values = vec![T::ZERO; sums.len()];
    match *term {
        PairTerm::ExpShifted { shift, .. } => terms::log_of_sums(isa, sums, Some(shift), &mut values),
        PairTerm::Exp { .. } => terms::log_of_sums(isa, sums, None, &mut values),
        PairTerm::Softplus { .. } => values.iter_mut().zip(sums).for_each(|(value, sums)| *value = sums.second),
    }
    values
}

struct Forward<'a, S: Stored> {
    problem: &'a Problem<'a, S>,
    statistics: Statistics,
    isa: Isa,
    /// `None` where d = 0: all dot products are +0.
    dots: Option<S::Dots<'a>>,
}

/// Rows of a strip where all dot products are +0.
const EMPTY_ROWS: usize = 16;

impl<S: Stored> Forward<'_, S> {
    fn run(&self, cx: &Context<'_>, rows: &mut [Sums<S::Num>], columns: &mut [Sums<S::Num>]) {
        let Problem { dims: [m, n, _], sides, .. } = *self.problem;
        let side = SQUARE * CHUNK;
        let none = Sums::none(&self.problem.term);
        // Results of a square: [block][row], for its rows and for its columns.
        let mut of_rows = vec![none; m.min(side) * n.div_ceil(CHUNK).min(SQUARE)];
        let column_blocks = if sides == Sides::Rows { 0 } else { m.div_ceil(CHUNK).min(SQUARE) };
        let mut of_columns = vec![none; n.min(side) * column_blocks];
        for first_row in (0..m).step_by(side) {
            let start = if sides == Sides::Symmetric { first_row } else { 0 };
            for first_column in (start..n).step_by(side) {
                let row_range = first_row..m.min(first_row + side);
                let column_range = first_column..n.min(first_column + side);
                let is_diagonal = sides == Sides::Symmetric && first_row == first_column;
                self.square(cx, [&row_range, &column_range], is_diagonal, [&mut of_rows, &mut of_columns]);
                self.join(cx, first_column, &row_range, &column_range, &of_rows, rows);
                match sides {
                    Sides::Both => self.join(cx, first_row, &column_range, &row_range, &of_columns, columns),
                    Sides::Symmetric if !is_diagonal => {
                        self.join(cx, first_row, &column_range, &row_range, &of_columns, rows);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The tiles of a square. On the diagonal of a symmetric problem all results go to `of_rows`.
    fn square(
        &self,
        cx: &Context<'_>,
        [rows, columns]: [&Range<usize>; 2],
        is_diagonal: bool,
        [of_rows, of_columns]: [&mut [Sums<S::Num>]; 2],
    ) {
        let blocks = |range: &Range<usize>| range.start / CHUNK..range.end.div_ceil(CHUNK);
        // Tiles that serve one side alone are less work and come last, so that threads end together.
        let mut tiles: Vec<[usize; 2]> = blocks(rows)
            .flat_map(|i| blocks(columns).map(move |j| [i, j]))
            .filter(|[i, j]| !is_diagonal || i <= j)
            .collect();
        tiles.sort_by_key(|[i, j]| is_diagonal && i == j);
        let (of_rows, of_columns) = (SharedMut::new(of_rows), SharedMut::new(of_columns));
        let place = |block: usize, len: usize, row: usize, range: &Range<usize>, other: &Range<usize>| {
            ((block - other.start / CHUNK) * range.len() + row - range.start, len)
        };
        cx.run(tiles.len(), |task| {
            let [i, j] = tiles[task];
            let [m, n, _] = self.problem.dims;
            let (own, other) = (block_of(i, m), block_of(j, n));
            let (at, len) = place(j, own.len(), own.start, rows, columns);
            // SAFETY: block j of the rows of block i is written by this tile alone, and the square outlives the run.
            let to_rows = unsafe { of_rows.slice(at, len) };
            let (at, len) = place(i, other.len(), other.start, columns, rows);
            let to_columns = match self.problem.sides {
                // SAFETY: as above: block i of the columns of block j.
                Sides::Both => Some(unsafe { of_columns.slice(at, len) }),
                // SAFETY: as above.
                Sides::Symmetric if !is_diagonal => Some(unsafe { of_columns.slice(at, len) }),
                // SAFETY: as above: tile (j, i), which is below the diagonal, is no task.
                Sides::Symmetric if i != j => Some(unsafe { of_rows.slice(at, len) }),
                _ => None,
            };
            self.tile(cx, [i, j], to_rows, to_columns);
        });
    }

    /// Joins the results of a square, for rows `range` over blocks of `other`, into those of all blocks before.
    fn join(
        &self,
        cx: &Context<'_>,
        first: usize,
        range: &Range<usize>,
        other: &Range<usize>,
        partial: &[Sums<S::Num>],
        totals: &mut [Sums<S::Num>],
    ) {
        let blocks = other.len().div_ceil(CHUNK);
        let totals = SharedMut::new(&mut totals[range.clone()]);
        cx.run(range.len().div_ceil(CHUNK), |task| {
            let at = block_of(task, range.len());
            // SAFETY: tasks have disjoint rows.
            let totals = unsafe { totals.slice(at.start, at.len()) };
            for block in 0..blocks {
                let next = &partial[block * range.len()..][at.clone()];
                if first == 0 && block == 0 {
                    totals.copy_from_slice(next);
                } else if matches!(self.problem.term, PairTerm::Exp { .. }) {
                    terms::join_shifted_sums(self.isa, next, totals);
                } else {
                    terms::join_sums(self.isa, next, totals);
                }
            }
        });
    }

    /// One tile: its part of the sums of its rows, and of its columns.
    fn tile(
        &self,
        cx: &Context<'_>,
        [i, j]: [usize; 2],
        to_rows: &mut [Sums<S::Num>],
        to_columns: Option<&mut [Sums<S::Num>]>,
    ) {
        let [m, n, _] = self.problem.dims;
        let (rows, columns) = (block_of(i, m), block_of(j, n));
        let is_online = matches!(self.problem.term, PairTerm::Exp { .. });
        // The online form needs the largest of a column before its first exponential.
        let keeps_tile = is_online && to_columns.is_some();
        let max_rows = self.dots.as_ref().map_or(EMPTY_ROWS, DotProducts::max_rows);
        let tile_rows = if keeps_tile { CHUNK } else { max_rows };
        let mut scratch = cx.scratch.lease::<S::Num>(tile_len(tile_rows) + 3 * CHUNK);
        let mut scratch_of_dots = cx.scratch.lease::<S::Num>(self.dots.as_ref().map_or(0, DotProducts::scratch_len));
        let mut block = self.dots.as_ref().map(|dots| dots.block(j, &mut scratch_of_dots));
        let (tile, rest) = scratch.split_at_mut(tile_len(tile_rows));
        let (e, rest) = rest.split_at_mut(CHUNK);
        let (value, x) = rest.split_at_mut(CHUNK);
        let width = columns.len();
        let mut row = Row { e: &mut e[..width], value: &mut value[..width], x: &mut x[..width] };
        let mut lanes_of =
            to_columns.is_some().then(|| ColumnLanes::new(cx, &self.problem.term, self.statistics, width));
        for strip in strips(rows.clone(), max_rows, S::Dots::UNIT) {
            let at = if keeps_tile { tile_len(strip.start - rows.start) } else { 0 };
            let dots = &mut tile[at..][..tile_len(strip.len())];
            match &mut block {
                Some(block) => block.strip(strip.clone(), dots),
                None => dots.fill(<S::Num as Real>::ZERO),
            }
            for (r, dots) in strip.zip(dots.chunks_mut(STRIDE)) {
                let dots = &mut dots[..width];
                to_rows[r - rows.start] = self.row(r, &columns, dots, &mut row);
                if let Some(lanes_of) = &mut lanes_of {
                    lanes_of.raise_top(self.isa, r - rows.start, &row);
                    if !is_online {
                        lanes_of.add(self.isa, r % LANES, dots, &row);
                    }
                }
            }
        }
        if let (Some(lanes_of), Some(to_columns)) = (&mut lanes_of, to_columns) {
            if is_online {
                self.columns_online(&rows, &columns, tile, lanes_of, &mut row);
            }
            lanes_of.finish(self.isa, rows.start, to_columns);
        }
    }

    /// One row of a tile: its sums over the tile's columns, and in `row` its terms, +0 where a pair is left out.
    fn row(&self, r: usize, columns: &Range<usize>, dots: &mut [S::Num], row: &mut Row<'_, S::Num>) -> Sums<S::Num> {
        let (isa, mask) = (self.isa, self.problem.mask);
        let zero = <S::Num as Real>::ZERO;
        if self.statistics.weighted_dot {
            // fma(0, -0, s) is s for every s: so the pair adds nothing even if its dot product is no number.
            mask.cover(isa, r, columns.clone(), -zero, dots);
        }
        let mut sums = Sums::none(&self.problem.term);
        match self.problem.term {
            PairTerm::ExpShifted { scale, shift } => lanes::exp_fma(isa, dots, scale, shift, row.e),
            PairTerm::Exp { scale } => {
                terms::scaled(isa, dots, scale, row.x);
                mask.cover(isa, r, columns.clone(), <S::Num as Real>::NEG_INFINITY, row.x);
                sums.second = lanes::max(isa, row.x);
                terms::exp_scaled(isa, dots, scale, shift_of(sums.second), row.e);
            }
            PairTerm::Softplus { scale, bias } => {
                terms::softplus_sigmoid(isa, dots, scale, bias, row.value, row.e);
                mask.cover(isa, r, columns.clone(), zero, row.value);
                sums.second = lanes::sum(isa, row.value);
            }
        }
        mask.cover(isa, r, columns.clone(), zero, row.e);
        sums.sum = lanes::sum(isa, row.e);
        if self.statistics.weighted_dot {
            sums.weighted_dot = lanes::dot(isa, row.e, dots);
        }
        if self.statistics.top {
            row.x.copy_from_slice(dots);
            mask.cover(isa, r, columns.clone(), <S::Num as Real>::NEG_INFINITY, row.x);
            for (column, &dot) in columns.clone().zip(&*row.x) {
                if dot > sums.top {
                    (sums.top, sums.top_at) = (dot, column as u32);
                }
            }
        }
        sums
    }

    /// The online form's sums of the columns, from the dot products of the whole tile.
    fn columns_online(
        &self,
        rows: &Range<usize>,
        columns: &Range<usize>,
        tile: &[S::Num],
        lanes_of: &mut ColumnLanes<'_, S::Num>,
        row: &mut Row<'_, S::Num>,
    ) {
        let (isa, mask, scale) = (self.isa, self.problem.mask, self.problem.term.scale());
        let dots = |r: usize| &tile[tile_len(r - rows.start)..][..columns.len()];
        for r in rows.clone() {
            terms::scaled(isa, dots(r), scale, row.x);
            mask.cover(isa, r, columns.clone(), <S::Num as Real>::NEG_INFINITY, row.x);
            terms::raise(isa, row.x, lanes_of.lane(SECOND, r % LANES));
        }
        lanes_of.fold(SECOND, |next, largest| terms::raise(isa, next, largest));
        for (shift, &largest) in row.value.iter_mut().zip(&*lanes_of.lane(SECOND, 0)) {
            *shift = shift_of(largest);
        }
        for r in rows.clone() {
            terms::exp_scaled_columns(isa, dots(r), scale, row.value, row.e);
            mask.cover(isa, r, columns.clone(), <S::Num as Real>::ZERO, row.e);
            lanes_of.add_terms(isa, r % LANES, dots(r), row.e);
        }
    }
}

/// A row of a tile.
pub(super) struct Row<'a, T> {
    pub(super) e: &'a mut [T],
    /// `Softplus`: softplus(x).
    pub(super) value: &'a mut [T],
    /// `top`: the dot products, -infinity where a pair is left out.
    pub(super) x: &'a mut [T],
}
