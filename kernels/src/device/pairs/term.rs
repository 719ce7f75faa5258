//! What is added up over pairs, and which pairs are left out.

use super::dots::{SIDE, edge, thread_x};
use crate::device::tile::unroll;
use crate::math::Real;
use crate::simt::*;

/// A term of [`crate::reference::PairTerm`] with x = fma(dot, scale, bias): the bias is -shift for [`Fixed`] and -0,
/// which leaves the product as it is, for [`Online`].
pub(super) trait Form {
    /// Sums are relative to the largest x of their block.
    const ONLINE: bool;
    /// A sum of softplus(x) goes beside that of e.
    const SOFTPLUS: bool;

    /// e of a pair.
    fn e(x: f32, shift: f32) -> f32;

    /// softplus(x), or 0 where no one wants it.
    #[inline(always)]
    fn softplus(_x: f32) -> f32 {
        0.0
    }

    /// G of a pair, each side being (weight, value).
    fn weight(x: f32, row: (f32, f32), column: (f32, f32)) -> f32;
}

/// Exponentials with a shift that is the same for all pairs.
pub(super) struct Fixed;

impl Form for Fixed {
    const ONLINE: bool = false;
    const SOFTPLUS: bool = false;

    #[inline(always)]
    fn e(x: f32, _shift: f32) -> f32 {
        Real::exp(x)
    }

    #[inline(always)]
    fn weight(x: f32, row: (f32, f32), column: (f32, f32)) -> f32 {
        Real::exp(x) * (row.0 + column.0)
    }
}

/// Exponentials shifted by the largest x.
pub(super) struct Online;

impl Form for Online {
    const ONLINE: bool = true;
    const SOFTPLUS: bool = false;

    #[inline(always)]
    fn e(x: f32, shift: f32) -> f32 {
        Real::exp(x - shift)
    }

    #[inline(always)]
    fn weight(x: f32, row: (f32, f32), column: (f32, f32)) -> f32 {
        row.0 * Real::exp(x - row.1) + column.0 * Real::exp(x - column.1)
    }
}

/// Each pair for itself: softplus.
pub(super) struct Softplus;

impl Form for Softplus {
    const ONLINE: bool = false;
    const SOFTPLUS: bool = true;

    #[inline(always)]
    fn e(x: f32, _shift: f32) -> f32 {
        Real::sigmoid(x)
    }

    #[inline(always)]
    fn softplus(x: f32) -> f32 {
        Real::softplus(x)
    }

    #[inline(always)]
    fn weight(x: f32, row: (f32, f32), column: (f32, f32)) -> f32 {
        Real::sigmoid(x) * (row.0 + column.0)
    }
}

/// No column.
pub const NONE: u32 = u32::MAX;

/// A bit of `rules`: pairs with equal keys are left out.
pub const KEYS: u32 = 1;

/// A bit of `rules`: the pairs of a list are left out.
pub const LIST: u32 = 2;

/// The pairs that are left out.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Of each row a column that is left out, or [`NONE`].
    pub(super) own: In<u32>,
    pub(super) row_key: In<u32>,
    pub(super) column_key: In<u32>,
    /// Of each row a column that equal keys do not leave out, or [`NONE`].
    pub(super) keep: In<u32>,
    /// Where the columns of each row start in `list`, and where the last end.
    pub(super) starts: In<u32>,
    /// Columns, ascending in each row.
    pub(super) list: In<u32>,
    pub(super) rules: u32,
    pub(super) columns: u32,
}

/// What the rules say of a row.
#[derive(Clone, Copy, Default)]
pub(super) struct RowRules {
    own: u32,
    key: u32,
    keep: u32,
    /// The next column of the list, and where they end.
    next: u32,
    end: u32,
}

impl RowRules {
    /// The row's key.
    #[inline(always)]
    pub(super) fn key(&self) -> u32 {
        self.key
    }
}

impl Rules {
    /// Those of `row`.
    #[inline(always)]
    pub(super) fn row(&self, row: u32) -> RowRules {
        let mut rules = RowRules { own: self.own.get(row), ..RowRules::default() };
        if self.rules & KEYS != 0 {
            rules.key = self.row_key.get(row);
            rules.keep = self.keep.get(row);
        }
        if self.rules & LIST != 0 {
            rules.next = self.starts.get(row);
            rules.end = self.starts.get(row + 1);
        }
        rules
    }

    /// The keys of this thread's columns `first + x + 16 j`.
    #[inline(always)]
    pub(super) fn keys<const N: usize>(&self, first: u32) -> [u32; N] {
        let mut keys = [0; N];
        if self.rules & KEYS != 0 {
            unroll!(j in 0..N => {
                keys[j] = self.column_key.get((first + thread_x() + SIDE * j as u32).min(self.columns - 1));
            });
        }
        keys
    }

    /// Whether the pair of a row and a column counts, lists aside.
    #[inline(always)]
    pub(super) fn allows(&self, row: &RowRules, column: u32, key: u32) -> bool {
        let equal = (self.rules & KEYS != 0) & (key == row.key) & (column != row.keep);
        (column != row.own) & !equal
    }

    /// Bit j: column `first + x + 16 j` exists and counts for the row. Tiles are asked for from left to right.
    #[inline(always)]
    pub(super) fn taken<const N: usize>(&self, row: &mut RowRules, first: u32, keys: &[u32; N]) -> u32 {
        let mut taken = 0;
        unroll!(j in 0..N => {
            let column = first + thread_x() + SIDE * j as u32;
            if within(column, self.columns) && self.allows(row, column, keys[j]) {
                taken |= 1 << j;
            }
        });
        self.listed(row, first, edge::<N>(), |offset| {
            if offset % SIDE == thread_x() {
                taken &= !(1 << (offset / SIDE));
            }
        });
        taken
    }

    /// `body` for each column of the row's list in the `width` columns from `first` on, counted from there. Tiles are
    /// asked for from left to right; columns before the first are passed over.
    #[inline(always)]
    pub(super) fn listed(&self, row: &mut RowRules, first: u32, width: u32, mut body: impl FnMut(u32)) {
        while within(row.next, row.end) {
            let column = self.list.get(row.next);
            if column >= first + width {
                break;
            }
            if column >= first {
                body(column - first);
            }
            row.next += 1;
        }
    }
}
