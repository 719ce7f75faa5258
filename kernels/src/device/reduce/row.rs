//! A row in lane order: what softmax, row reductions and row norms are made of.
//!
//! Element j of a row belongs to lane j mod 16; a lane's elements form a chain, and lanes fold 8, 4, 2, 1. The chains
//! are sequential by definition, so speed comes from having many rows, or from taking everything but the chains off
//! their path. [`with_row!`] writes a kernel once for both:
//!
//! - rows of up to [`HELD`] elements: half a warp per row ([`Held`]), the row in registers, 16 rows to a block; loaded
//!   once, and what is computed per element is computed once;
//! - rows of up to [`BATCHED`] elements: half a warp per row too ([`Batched`]), in batches of registers, once per use;
//!   the rows of the blocks of a processor fit its first-level cache;
//! - longer rows: a block per row ([`Streamed`]). All threads load and compute terms into shared memory, tile by tile,
//!   two tiles in turn; meanwhile the first warp adds the tile before in lane order.
//!
//! Loads come in batches, so that a thread has many in flight.
//!
//! Elements that are absent (past the end of a row) take part as a neutral term, which does not change a bit:
//! s + (-0) and fma(-0, +0, s) are s, also for s = -0, which underflow makes of negative products (+0 would make it +0);
//! p * 1 is p; and the largest of m and -infinity is m.

mod block;
mod half_warp;

use crate::math::Real;
use crate::order::LANES;
use crate::simt::*;
pub(in crate::device) use block::Streamed;
pub(in crate::device) use half_warp::{Batched, Held};

/// Threads of a block.
pub(in crate::device) const THREADS: u32 = 256;

/// Lanes of a row.
pub(in crate::device) const WIDTH: u32 = LANES as u32;

/// Rows of a block where half a warp works on a row.
pub(in crate::device) const ROWS: u32 = THREADS / WIDTH;

/// The longest row that half a warp holds in registers.
pub(in crate::device) const HELD: u32 = 256;

/// The longest row of which a lane holds four elements.
pub(in crate::device) const SHORT: u32 = 64;

/// The longest row that half a warp works on.
pub(in crate::device) const BATCHED: u32 = 1024;

/// Shared memory of a block, in elements.
pub(in crate::device) const SHARED: u32 = block::SHARED;

/// The row of this thread where rows have `cols` elements; it may lie past the last.
#[inline(always)]
pub(in crate::device) fn index(cols: u32) -> u32 {
    if cols <= BATCHED { block_idx().x * ROWS + thread_idx().x / WIDTH } else { block_idx().x }
}

/// The same, or row 0 in place of one past the last: an index that can be read without a branch.
#[inline(always)]
pub(in crate::device) fn existing(rows: u32, cols: u32) -> u32 {
    let row = index(cols);
    if within(row, rows) { row } else { 0 }
}

/// Blocks for `rows` rows of `cols` elements.
#[cfg(not(target_arch = "nvptx64"))]
pub(in crate::device) fn blocks(rows: u64, cols: u64) -> u64 {
    if cols <= u64::from(BATCHED) { rows.div_ceil(u64::from(ROWS)) } else { rows }
}

/// Runs `f(0)` to `f(K - 1)`, K at most 16, as straight code: arrays indexed by its argument stay in registers however
/// long `f` is.
#[inline(always)]
pub(in crate::device) fn unrolled<const K: usize>(mut f: impl FnMut(usize)) {
    const { assert!(K <= 16) };
    macro_rules! steps {
        ($($i:literal)*) => {$(
            if $i < K {
                f($i);
            }
        )*};
    }
    steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// The elements of a row, `N` numbers each. Every thread that works on the row calls every method.
pub(in crate::device) trait Row<const N: usize>: Sized {
    /// Computes `f(position, numbers)` for each element: once where the row is held, else wherever it is used. Absent
    /// elements of a held row are computed too: `f` reads no memory by position.
    fn map<const M: usize>(self, f: impl Fn(u32, [f32; N]) -> [f32; M]) -> impl Row<M>;

    /// The lanes' chains `s = step(s, terms(numbers))` from `start`, then `fold` over the lanes. `neutral` stands for
    /// absent elements.
    fn chains<const P: usize>(
        &self,
        start: f32,
        neutral: [f32; P],
        terms: impl Fn([f32; N]) -> [f32; P],
        step: impl Fn(f32, [f32; P]) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32;

    /// The fold of `value(numbers)` by the associative `join` from its neutral `start`, where of equals the earlier
    /// element in lane order stays; `fold` does so over the lanes.
    fn extremum(
        &self,
        start: f32,
        value: impl Fn([f32; N]) -> f32,
        join: impl Fn(f32, f32) -> f32,
        fold: impl Fn(f32) -> f32,
    ) -> f32;

    /// Puts `value(position, numbers)` of each element away by `put(position, value)`. All values of a batch come
    /// before its first put, so that loads inside `value` do not wait for stores.
    fn store(&self, value: impl Fn(u32, [f32; N]) -> f32, put: impl Fn(u32, f32));

    /// Runs `f` in one thread of the row.
    fn once(&self, f: impl FnOnce());

    /// The sum: additions by lanes.
    #[inline(always)]
    fn sum(&self, term: impl Fn([f32; N]) -> f32) -> f32 {
        self.chains(0.0, [-0.0], |v| [term(v)], |s, [a]| s + a, |s| half_warp_sum(ALL_LANES, s))
    }

    /// The sum of squares: fused multiply-adds by lanes. No such sum is -0, so +0, the square of the neutral term, is
    /// neutral.
    #[inline(always)]
    fn sum_sq(&self, term: impl Fn([f32; N]) -> f32) -> f32 {
        let step = |s, [a]: [f32; 1]| Real::mul_add(a, a, s);
        self.chains(0.0, [-0.0], |v| [term(v)], step, |s| half_warp_sum(ALL_LANES, s))
    }

    /// The sum of products of two factors: fused multiply-adds by lanes.
    #[inline(always)]
    fn dot(&self, factors: impl Fn([f32; N]) -> [f32; 2]) -> f32 {
        let step = |s, [a, b]: [f32; 2]| Real::mul_add(a, b, s);
        self.chains(0.0, [-0.0, 0.0], factors, step, |s| half_warp_sum(ALL_LANES, s))
    }

    /// The product by lanes.
    #[inline(always)]
    fn product(&self, factor: impl Fn([f32; N]) -> f32) -> f32 {
        self.chains(1.0, [1.0], |v| [factor(v)], |p, [a]| p * a, |p| half_warp_product(ALL_LANES, p))
    }

    /// The largest by lanes.
    #[inline(always)]
    fn max(&self, value: impl Fn([f32; N]) -> f32) -> f32 {
        self.extremum(f32::NEG_INFINITY, value, Real::max, |m| half_warp_max(ALL_LANES, m))
    }

    /// The smallest by lanes.
    #[inline(always)]
    fn min(&self, value: impl Fn([f32; N]) -> f32) -> f32 {
        self.extremum(f32::INFINITY, value, Real::min, |m| half_warp_min(ALL_LANES, m))
    }
}

/// Runs a kernel's body on this thread's row, whose index is bound to the first name; the expression after it loads
/// element `j`, and the row of loaded elements is bound to the last name. In a half warp past the last row the row has
/// no elements and [`Row::once`] does not run.
///
/// The launch has [`THREADS`] threads to a block and `blocks` blocks. No branch comes before it: only of a tile that is
/// declared in a function's first basic block does the compiler know everywhere that it is shared memory.
macro_rules! with_row {
    ($rows:expr, $cols:expr, |$row:ident, $j:ident| $load:expr, |$values:ident| $body:block) => {{
        let shared = $crate::shared!(f32; row::SHARED);
        let $row = row::index($cols);
        if $cols <= row::BATCHED {
            let exists = within($row, $rows);
            if $cols > row::HELD {
                let $values = row::Batched::new(exists, $cols, |$j| $load);
                $body
            } else if $cols <= row::SHORT {
                let $values = row::Held::<_, { (row::SHORT / row::WIDTH) as usize }>::load(exists, $cols, |$j| $load);
                $body
            } else {
                let $values = row::Held::<_, { (row::HELD / row::WIDTH) as usize }>::load(exists, $cols, |$j| $load);
                $body
            }
        } else {
            let $values = row::Streamed::new($cols, shared, |$j| $load);
            $body
        }
    }};
}
pub(in crate::device) use with_row;

/// Shapes and contents of rows for the cases of kernels that go by [`with_row!`].
#[cfg(not(target_arch = "nvptx64"))]
pub(in crate::device) mod cases {
    use crate::case::noise;

    /// (rows, columns): every way of working on a row, at its limits; several blocks; a row of which a third tile has
    /// one element.
    pub(in crate::device) const SHAPES: [(usize, usize); 10] =
        [(1, 1), (3, 17), (40, 5), (5, 64), (17, 65), (2, 256), (18, 257), (1, 300), (2, 1025), (1, 4097)];

    /// The results of `f` for each row, in order.
    pub(in crate::device) fn by_row(x: &[f32], rows: usize, cols: usize, f: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
        (0..rows).flat_map(|row| f(&x[row * cols..(row + 1) * cols])).collect()
    }

    /// Long rows whose extremes matter: the largest, then the smallest element last, or first in a batch that it has to
    /// itself; and zeros of both signs.
    pub(in crate::device) fn extremes() -> impl Iterator<Item = (usize, usize, Vec<f32>)> {
        [257, 4097].into_iter().map(|cols| {
            let mut x = noise(5 * cols, 4);
            let places = [(cols - 1, 300.0), (cols - 1, -300.0), (256, 300.0), (256, -300.0)];
            for (row, (at, extreme)) in places.into_iter().enumerate() {
                x[row * cols + at] = extreme;
            }
            x[4 * cols..].iter_mut().enumerate().for_each(|(j, x)| *x = if j % 3 == 0 { -0.0 } else { 0.0 });
            (5, cols, x)
        })
    }

    /// Noise with rows of special values between: -infinity alone, some +infinity, some NaN, zeros of both signs.
    pub(in crate::device) fn rows_with_edges(rows: usize, cols: usize) -> Vec<f32> {
        let mut x = noise(rows * cols, 3);
        for (r, row) in x.chunks_mut(cols).enumerate() {
            match r % 8 {
                1 => row.fill(f32::NEG_INFINITY),
                2 => row[cols / 2] = f32::NAN,
                3 => row[cols / 3] = f32::INFINITY,
                4 => row.iter_mut().enumerate().for_each(|(j, x)| *x = if j % 3 == 0 { -0.0 } else { 0.0 }),
                5 => row.iter_mut().step_by(2).for_each(|x| *x = -200.0),
                _ => {}
            }
        }
        x
    }
}
