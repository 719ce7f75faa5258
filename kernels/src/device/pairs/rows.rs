//! What is known of a row: by lane, by block of columns, and of all columns so far.

use super::term::{Form, NONE};
use crate::device::tile::unroll;
use crate::math::Real;
use crate::simt::*;

/// The largest dot product above -infinity and its column.
#[derive(Clone, Copy)]
pub(super) struct Top {
    pub(super) dot: f32,
    pub(super) column: u32,
}

impl Top {
    /// No column.
    pub(super) const NONE: Top = Top { dot: f32::NEG_INFINITY, column: NONE };

    /// The better one: the larger, of equals that of the lower column. Neither is NaN, so that this is a total order:
    /// the best of many is the same whichever way they are compared.
    #[inline(always)]
    pub(super) fn better(self, other: Top) -> Top {
        let wins = (other.dot > self.dot) | ((other.dot == self.dot) & (other.column < self.column));
        if wins { other } else { self }
    }

    /// That of the lane whose number differs by exclusive or with `lanes`.
    #[inline(always)]
    fn of_lane(self, lanes: u32) -> Top {
        Top { dot: shuffle_xor(ALL_LANES, self.dot, lanes), column: shuffle_xor(ALL_LANES, self.column, lanes) }
    }
}

/// The sums over a block of columns, or over all blocks so far.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// [`Form::ONLINE`]: the largest x; [`Form::SOFTPLUS`]: the sum of softplus.
    pub(super) lead: f32,
    pub(super) sum: f32,
    pub(super) weighted_dot: f32,
    pub(super) top: Top,
}

impl Sums {
    /// Those of no column.
    #[inline(always)]
    pub(super) fn new<F: Form>() -> Sums {
        Sums { lead: if F::ONLINE { f32::NEG_INFINITY } else { 0.0 }, sum: 0.0, weighted_dot: 0.0, top: Top::NONE }
    }

    /// These columns and the next block.
    #[inline(always)]
    pub(super) fn join(self, next: Sums, online: bool) -> Sums {
        let top = self.top.better(next.top);
        if !online {
            return Sums {
                lead: self.lead + next.lead,
                sum: self.sum + next.sum,
                weighted_dot: self.weighted_dot + next.weighted_dot,
                top,
            };
        }
        let lead = Real::max(self.lead, next.lead);
        let rescale = |x: f32| if x == lead { 1.0 } else { Real::exp(x - lead) };
        let (of_self, of_next) = (rescale(self.lead), rescale(next.lead));
        Sums {
            lead,
            sum: Real::mul_add(next.sum, of_next, self.sum * of_self),
            weighted_dot: Real::mul_add(next.weighted_dot, of_next, self.weighted_dot * of_self),
            top,
        }
    }

    /// Takes the next pair of a lane, columns ascending: its dot product, e and softplus (0 where there is none). A pair
    /// that is left out adds nothing, whatever its dot product.
    #[inline(always)]
    pub(super) fn take(&mut self, dot: f32, e: f32, softplus: f32, column: u32, taken: bool) {
        self.lead += if taken { softplus } else { 0.0 };
        self.sum += if taken { e } else { 0.0 };
        let weighted_dot = Real::mul_add(e, dot, self.weighted_dot);
        self.weighted_dot = if taken { weighted_dot } else { self.weighted_dot };
        // False of NaN and -infinity, which are no row's largest, and of an equal, which has a higher column.
        if taken & (dot > self.top.dot) {
            self.top = Top { dot, column };
        }
    }

    /// Those of the lane whose number differs by exclusive or with `lanes`.
    #[inline(always)]
    pub(super) fn of_lane(self, lanes: u32) -> Sums {
        Sums {
            lead: shuffle_xor(ALL_LANES, self.lead, lanes),
            sum: shuffle_xor(ALL_LANES, self.sum, lanes),
            weighted_dot: shuffle_xor(ALL_LANES, self.weighted_dot, lanes),
            top: self.top.of_lane(lanes),
        }
    }

    /// Folds the 16 lanes of this half warp in canonical order. `lead` is folded where it is a sum.
    #[inline(always)]
    pub(super) fn fold<F: Form>(self) -> Sums {
        let mut top = self.top;
        unroll!(level in 0..4 => {
            let lanes = 8 >> level as u32;
            top = top.better(top.of_lane(lanes));
        });
        Sums {
            lead: if F::SOFTPLUS { half_warp_sum(ALL_LANES, self.lead) } else { self.lead },
            sum: half_warp_sum(ALL_LANES, self.sum),
            weighted_dot: half_warp_sum(ALL_LANES, self.weighted_dot),
            top,
        }
    }
}

/// A maximum as shift: 0 where it is infinite or NaN.
#[inline(always)]
pub(super) fn shift_of(largest: f32) -> f32 {
    if Real::is_finite(largest) { largest } else { 0.0 }
}

/// Where results of parts are kept: planes (lead, sum, weighted dot, dot of the top) `[4, parts, rows]`, and the columns
/// of the tops `[parts, rows]`.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) sums: Out<f32>,
    pub(super) tops: Out<u32>,
    pub(super) count: u32,
    pub(super) rows: u32,
}

impl Parts {
    /// Writes a part of a row.
    #[inline(always)]
    pub(super) fn set(&self, part: u32, row: u32, sums: Sums) {
        let at = part * self.rows + row;
        let plane = self.count * self.rows;
        self.sums.set(at, sums.lead);
        self.sums.set(plane + at, sums.sum);
        self.sums.set(2 * plane + at, sums.weighted_dot);
        self.sums.set(3 * plane + at, sums.top.dot);
        self.tops.set(at, sums.top.column);
    }
}
