//! Sums of a tile's columns: sixteen lanes for each, row i in lane i mod 16, a vector being neighbouring columns.

use super::super::contract::{Context, Lease};
use super::sums::{Row, Statistics, Sums};
use super::{Num, PairTerm, terms};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::order::LANES;

/// The sum of e.
const SUM: usize = 0;
/// `Exp`: the largest x; `Softplus`: the sum of softplus(x).
pub(super) const SECOND: usize = 1;
/// The sum of e dot.
const WEIGHTED: usize = 2;
const KINDS: usize = 3;

/// The lanes of one tile.
pub(super) struct ColumnLanes<'a, T: Num> {
    /// `[KINDS][LANES][width]`, then the largest dot product of each column and its row in the tile.
    memory: Lease<'a, T>,
    width: usize,
    term: &'a PairTerm<T>,
    statistics: Statistics,
}

/// The row of a column without a largest dot product.
const NOWHERE: f64 = -1.0;

impl<'a, T: Num> ColumnLanes<'a, T> {
    pub(super) fn new(cx: &Context<'a>, term: &'a PairTerm<T>, statistics: Statistics, width: usize) -> Self {
        let memory = cx.scratch.lease((KINDS * LANES + 2) * width);
        let mut lanes = ColumnLanes { memory, width, term, statistics };
        let none = Sums::none(term);
        lanes.kind(SUM).fill(none.sum);
        lanes.kind(SECOND).fill(none.second);
        lanes.kind(WEIGHTED).fill(none.weighted_dot);
        let (top, top_at) = lanes.tops();
        top.fill(none.top);
        top_at.fill(T::from_f64(NOWHERE));
        lanes
    }

    fn kind(&mut self, kind: usize) -> &mut [T] {
        &mut self.memory[kind * LANES * self.width..][..LANES * self.width]
    }

    /// One lane of all columns.
    pub(super) fn lane(&mut self, kind: usize, lane: usize) -> &mut [T] {
        &mut self.memory[(kind * LANES + lane) * self.width..][..self.width]
    }

    fn tops(&mut self) -> (&mut [T], &mut [T]) {
        self.memory[KINDS * LANES * self.width..].split_at_mut(self.width)
    }

    /// Adds the terms of a row of the tile.
    pub(super) fn add(&mut self, isa: Isa, lane: usize, dots: &[T], row: &Row<'_, T>) {
        if matches!(self.term, PairTerm::Softplus { .. }) {
            terms::add(isa, row.value, self.lane(SECOND, lane));
        }
        self.add_terms(isa, lane, dots, row.e);
    }

    /// Adds e, and e dot where that is wanted.
    pub(super) fn add_terms(&mut self, isa: Isa, lane: usize, dots: &[T], e: &[T]) {
        terms::add(isa, e, self.lane(SUM, lane));
        if self.statistics.weighted_dot {
            terms::add_product(isa, e, dots, self.lane(WEIGHTED, lane));
        }
    }

    /// Takes note of the dot products of row `row` of the tile.
    pub(super) fn raise_top(&mut self, isa: Isa, row: usize, x: &Row<'_, T>) {
        if self.statistics.top {
            let (top, top_at) = self.tops();
            terms::raise_top(isa, x.x, T::from_usize(row), top, top_at);
        }
    }

    /// Folds the lanes of a kind into the first by `join(other, lane)`.
    pub(super) fn fold(&mut self, kind: usize, join: impl Fn(&[T], &mut [T])) {
        let width = self.width;
        for half in [8, 4, 2, 1] {
            let (low, high) = self.kind(kind).split_at_mut(half * width);
            join(&high[..half * width], low);
        }
    }

    /// The sums of the columns; the tile starts at row `first_row` of the problem.
    pub(super) fn finish(&mut self, isa: Isa, first_row: usize, to: &mut [Sums<T>]) {
        let add = |next: &[T], sum: &mut [T]| terms::add(isa, next, sum);
        self.fold(SUM, add);
        if matches!(self.term, PairTerm::Softplus { .. }) {
            self.fold(SECOND, add);
        }
        if self.statistics.weighted_dot {
            self.fold(WEIGHTED, add);
        }
        for (column, to) in to.iter_mut().enumerate() {
            let mut first = |kind: usize| self.lane(kind, 0)[column];
            *to =
                Sums { sum: first(SUM), second: first(SECOND), weighted_dot: first(WEIGHTED), ..Sums::none(self.term) };
            if self.statistics.top {
                let (top, top_at) = self.tops();
                let at = top_at[column].to_f64();
                if at != NOWHERE {
                    (to.top, to.top_at) = (top[column], first_row as u32 + at as u32);
                }
            }
        }
    }
}
