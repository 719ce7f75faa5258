//! Reductions: rows, columns, and norms of whole arrays.
//!
//! All are in lane order: element j of what is reduced goes to lane j mod 16, each lane is a chain, and lanes fold in
//! four halvings. Rows (reduced elements side by side in memory) go by `row`. Columns (reduced elements a stride apart)
//! keep that order without a copy, consecutive threads on consecutive columns:
//!
//! - up to `SHALLOW` elements: a thread per column, all 16 lanes in its registers;
//! - more: 32 columns by 8 threads each; a thread has lanes y and y + 8, whose join is the first fold; 4, 2 and 1
//!   fold through shared memory.

pub(super) mod row;

use crate::kernel;
use crate::math::Real;
use crate::order::NORM_CHUNK;
use crate::simt::*;
use row::{ROWS, Row, THREADS, WIDTH, unrolled, with_row};

#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The most elements of a column that one thread reduces alone.
const SHALLOW: u32 = 32;

/// Columns of a block, and threads per column, where a column is longer.
const TILE: u32 = 32;
const THREADS_PER_COLUMN: u32 = THREADS / TILE;

macro_rules! row_reductions {
    ($($(#[doc = $doc:literal])+ $name:ident $cases:ident: |$x:ident, $cols:ident| $reduce:expr;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(x: In<f32>[rows * cols], y: Out<f32>[rows], rows: u32, cols: u32)
            grid [row::blocks(rows, cols)] block [THREADS]
            cost { flop: rows * cols }
            cases $cases
            {
                with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |values| {
                    let ($x, $cols) = (&values, cols);
                    let reduced = $reduce;
                    values.once(|| y.set(row, reduced));
                });
            }
        )+}
    };
}
row_reductions! {
    /// The sum of each row of x `[rows, cols]`.
    row_sum row_sum_cases: |x, cols| x.sum(|[x]| x);
    /// The sum of each row divided by its number of elements; NaN for rows without any.
    row_mean row_mean_cases: |x, cols| x.sum(|[x]| x) / cols as f32;
    /// The product of each row.
    row_prod row_prod_cases: |x, cols| x.product(|[x]| x);
    /// The largest of each row, -infinity for none; NaN if there is one.
    row_max row_max_cases: |x, cols| x.max(|[x]| x);
    /// The smallest of each row, +infinity for none; NaN if there is one.
    row_min row_min_cases: |x, cols| x.min(|[x]| x);
}

/// Reduces this thread's column of x `[outer, reduced, inner]`, that is, element `column` of `[outer, inner]`:
/// `put(column, result)`.
#[inline(always)]
fn reduce_column(
    x: In<f32>,
    [outer, reduced, inner]: [u32; 3],
    start: f32,
    join: impl Fn(f32, f32) -> f32,
    put: impl FnOnce(u32, f32),
) {
    let tile = crate::shared!(f32; THREADS);
    let (tx, ty) = (thread_idx().x, thread_idx().y);
    // A divisor that cannot be 0 spares the test for it; without columns there is nothing to place.
    let inner = inner.max(1);
    let shallow = reduced <= SHALLOW;
    let column = block_idx().x * (if shallow { THREADS } else { TILE }) + tx;
    let exists = within(column, outer * inner);
    let first = if exists { column / inner * (reduced * inner) + column % inner } else { 0 };
    let len = if exists { reduced } else { 0 };
    let load = |j: u32| if within(j, len) { x.get(first + j * inner) } else { start };
    if shallow {
        let mut lanes = [start; 16];
        for base in strided(0, len, WIDTH) {
            unrolled::<16>(|i| lanes[i] = join(lanes[i], load(base + i as u32)));
        }
        unrolled::<8>(|i| lanes[i] = join(lanes[i], lanes[i + 8]));
        unrolled::<4>(|i| lanes[i] = join(lanes[i], lanes[i + 4]));
        unrolled::<2>(|i| lanes[i] = join(lanes[i], lanes[i + 2]));
        if exists {
            put(column, join(lanes[0], lanes[1]));
        }
    } else {
        let mut lanes = [start; 2];
        for base in strided(ty, len, 8 * WIDTH) {
            let mut values = [start; 16];
            unrolled::<16>(|i| values[i] = load(base + THREADS_PER_COLUMN * i as u32));
            unrolled::<16>(|i| lanes[i % 2] = join(lanes[i % 2], values[i]));
        }
        let mut value = join(lanes[0], lanes[1]);
        let mut half = THREADS_PER_COLUMN / 2;
        tile.set(ty * TILE + tx, value);
        while half > 0 {
            barrier();
            if ty < half {
                value = join(value, tile.get((ty + half) * TILE + tx));
                tile.set(ty * TILE + tx, value);
            }
            half /= 2;
        }
        if exists && ty == 0 {
            put(column, value);
        }
    }
}

macro_rules! column_reductions {
    (
        $($(#[doc = $doc:literal])+
        $name:ident $cases:ident: $start:expr, $join:expr, |$sum:ident, $n:ident| $end:expr;)+
    ) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(
                x: In<f32>[outer * reduced * inner],
                y: Out<f32>[outer * inner],
                outer: u32,
                reduced: u32,
                inner: u32,
            )
            grid [(outer * inner).div_ceil(if reduced <= SHALLOW as u64 { THREADS } else { TILE } as u64)]
            block [
                if reduced <= SHALLOW as u64 { THREADS } else { TILE },
                if reduced <= SHALLOW as u64 { 1 } else { THREADS_PER_COLUMN }
            ]
            cost { flop: outer * reduced * inner }
            cases $cases
            {
                reduce_column(x, [outer, reduced, inner], $start, $join, |column, $sum| {
                    let $n = reduced;
                    y.set(column, $end);
                });
            }
        )+}
    };
}
column_reductions! {
    /// The sum over the middle axis of x `[outer, reduced, inner]`.
    col_sum col_sum_cases: 0.0, |a, b| a + b, |sum, n| sum;
    /// The sum over the middle axis divided by its length; NaN for length 0.
    col_mean col_mean_cases: 0.0, |a, b| a + b, |sum, n| sum / n as f32;
    /// The product over the middle axis.
    col_prod col_prod_cases: 1.0, |a, b| a * b, |product, n| product;
    /// The largest over the middle axis, -infinity for none; NaN if there is one.
    col_max col_max_cases: f32::NEG_INFINITY, Real::max, |max, n| max;
    /// The smallest over the middle axis, +infinity for none; NaN if there is one.
    col_min col_min_cases: f32::INFINITY, Real::min, |min, n| min;
}

/// The sum of products of this half warp's chunk of `n` elements by lanes: `put(chunk, sum)`.
#[inline(always)]
fn chunk_dot(n: u32, factors: impl Fn(u32) -> [f32; 2], put: impl FnOnce(u32, f32)) {
    const CHUNK: u32 = NORM_CHUNK as u32;
    let chunk = block_idx().x * ROWS + thread_idx().x / WIDTH;
    let exists = within(chunk, n.div_ceil(CHUNK));
    let first = if exists { chunk * CHUNK } else { 0 };
    let len = if !exists {
        0
    } else if n - first < CHUNK {
        n - first
    } else {
        CHUNK
    };
    let mut sum = 0.0;
    for base in strided(thread_idx().x % WIDTH, len, 16 * WIDTH) {
        // fma(-0, +0, s) is s, for s = -0 too.
        let mut ready = [[-0.0, 0.0]; 16];
        unrolled::<16>(|i| {
            let j = base + WIDTH * i as u32;
            if within(j, len) {
                ready[i] = factors(first + j);
            }
        });
        unrolled::<16>(|i| sum = Real::mul_add(ready[i][0], ready[i][1], sum));
    }
    let sum = half_warp_sum(ALL_LANES, sum);
    if exists && thread_idx().x.is_multiple_of(WIDTH) {
        put(chunk, sum);
    }
}

kernel! {
    /// The sum of squares of each 4096 elements, by lanes; `tree_fold` adds them up to the squared norm.
    norm_sq_chunks(x: In<f32>[n], sums: Out<f32>[n.div_ceil(NORM_CHUNK as u64)], n: u32)
    grid [n.div_ceil(NORM_CHUNK as u64).div_ceil(ROWS as u64)] block [THREADS]
    cost { flop: 2 * n }
    cases norm_sq_chunks_cases
    {
        chunk_dot(n, |i| [x.get(i); 2], |chunk, sum| sums.set(chunk, sum));
    }

    /// The sum of products of each 4096 elements of two arrays, by lanes; `tree_fold` adds them up to the dot product.
    dot_chunks(a: In<f32>[n], b: In<f32>[n], sums: Out<f32>[n.div_ceil(NORM_CHUNK as u64)], n: u32)
    grid [n.div_ceil(NORM_CHUNK as u64).div_ceil(ROWS as u64)] block [THREADS]
    cost { flop: 2 * n }
    cases dot_chunks_cases
    {
        chunk_dot(n, |i| [a.get(i), b.get(i)], |chunk, sum| sums.set(chunk, sum));
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &row_sum::SPEC,
    &row_mean::SPEC,
    &row_prod::SPEC,
    &row_max::SPEC,
    &row_min::SPEC,
    &col_sum::SPEC,
    &col_mean::SPEC,
    &col_prod::SPEC,
    &col_max::SPEC,
    &col_min::SPEC,
    &norm_sq_chunks::SPEC,
    &dot_chunks::SPEC,
];

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::row::cases::{SHAPES, by_row, extremes, rows_with_edges};
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::reference::{lane_dot, lane_max, lane_min, lane_sum, lane_sum_sq};

    /// The product by lanes.
    fn lane_product(x: &[f32]) -> f32 {
        let mut lanes: Vec<f32> = (0..16).map(|l| x.iter().skip(l).step_by(16).product()).collect();
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] *= lanes[i + half];
            }
        }
        lanes[0]
    }

    fn lane_mean(x: &[f32]) -> f32 {
        lane_sum(x) / x.len() as f32
    }

    /// Rows of every kind, with special values; a row without elements.
    fn rows() -> impl Iterator<Item = (usize, usize, Vec<f32>)> {
        let filled = SHAPES.into_iter().map(|(rows, cols)| (rows, cols, rows_with_edges(rows, cols)));
        filled.chain(extremes()).chain([(3, 0, Vec::new())])
    }

    macro_rules! row_cases {
        ($($cases:ident $kernel:ident $reference:ident)+) => {$(
            pub(super) fn $cases() -> Vec<Case> {
                let case = |(rows, cols, x): (usize, usize, Vec<f32>)| {
                    let y = exactly(by_row(&x, rows, cols, |x| vec![$reference(x)]));
                    let name = format!("{rows} x {cols}");
                    $kernel::TestCase { x, y, rows: rows as u32, cols: cols as u32 }.named(name)
                };
                rows().map(case).collect()
            }
        )+};
    }
    row_cases! {
        row_sum_cases row_sum lane_sum
        row_mean_cases row_mean lane_mean
        row_prod_cases row_prod lane_product
        row_max_cases row_max lane_max
        row_min_cases row_min lane_min
    }

    /// [outer, reduced, inner]: no elements, one, both forms at their limits, blocks that end inside a row of columns, a
    /// last batch of one element.
    const COLUMNS: [[usize; 3]; 7] =
        [[2, 0, 3], [1, 1, 1], [3, 5, 100], [2, 32, 7], [1, 33, 40], [3, 70, 5], [1, 520, 33]];

    /// Noise with a NaN, infinities and zeros of both signs; the extremes of most columns are their last elements.
    fn columns([outer, reduced, inner]: [usize; 3]) -> Vec<f32> {
        let mut x = noise(outer * reduced * inner, 5);
        for (i, x) in x.iter_mut().enumerate() {
            if i / inner % reduced == reduced - 1 {
                *x = if i % 2 == 0 { 3.0 } else { -3.0 };
            }
            match i % 41 {
                1 | 17 if i < 60 => *x = -0.0,
                18 => *x = 0.0,
                35 if i == 35 => *x = f32::NAN,
                36 if i > 300 && i < 400 => *x = f32::INFINITY,
                _ => {}
            }
        }
        x
    }

    macro_rules! column_cases {
        ($($cases:ident $kernel:ident $reference:ident)+) => {$(
            pub(super) fn $cases() -> Vec<Case> {
                let case = |shape: [usize; 3]| {
                    let x = columns(shape);
                    let [outer, reduced, inner] = shape;
                    let column = |e: usize| -> Vec<f32> {
                        (0..reduced).map(|j| x[(e / inner * reduced + j) * inner + e % inner]).collect()
                    };
                    let y = exactly((0..outer * inner).map(|e| $reference(&column(e))).collect());
                    let [outer, reduced, inner] = shape.map(|n| n as u32);
                    $kernel::TestCase { x, y, outer, reduced, inner }.named(format!("{shape:?}"))
                };
                COLUMNS.map(case).into()
            }
        )+};
    }
    column_cases! {
        col_sum_cases col_sum lane_sum
        col_mean_cases col_mean lane_mean
        col_prod_cases col_prod lane_product
        col_max_cases col_max lane_max
        col_min_cases col_min lane_min
    }

    pub(super) fn norm_sq_chunks_cases() -> Vec<Case> {
        let case = |n| {
            let x = noise(n, 7);
            let sums = exactly(x.chunks(NORM_CHUNK).map(lane_sum_sq).collect());
            norm_sq_chunks::TestCase { x, sums, n: n as u32 }.named(format!("{n}"))
        };
        [1, 4096, 4097, 17 * 4096 + 300].map(case).into()
    }

    pub(super) fn dot_chunks_cases() -> Vec<Case> {
        let case = |(n, scale): (usize, f32)| {
            // Small factors of opposite signs have products that underflow to -0, of which the sum is -0.
            let factors =
                |seed, sign: f32| noise(n, seed).iter().map(|x| if scale < 1.0 { sign * scale } else { *x }).collect();
            let (a, b): (Vec<f32>, Vec<f32>) = (factors(8, 1.0), factors(9, -1.0));
            let sums = a.chunks(NORM_CHUNK).zip(b.chunks(NORM_CHUNK)).map(|(a, b)| lane_dot(a, b));
            let sums = exactly(sums.collect());
            dot_chunks::TestCase { a, b, sums, n: n as u32 }.named(format!("{n}, scale {scale}"))
        };
        [(1, 1.0), (100, 1.0), (100, 1e-30), (4096 + 17, 1.0)].map(case).into()
    }
}
