//! Sinkhorn normalisation of scores `[n, k]` (samples by prototypes): Sinkhorn and Knopp 1967, as Caron et al. 2020 use
//! it for balanced codes. Only potentials `[n]` and `[k]` change between iterations; the scores are read once per half
//! iteration and the codes are written at the end.
//!
//! - log domain, any temperature: v = fma(score, scale, g_k) for rows and fma(score, scale, f_b) for columns, scale
//!   being 1 / epsilon. Columns: g = log_mass - log-sum-exp over rows ([`sinkhorn_col_lse`], [`sinkhorn_col_merge`]);
//!   rows: f = log_mass - log-sum-exp over columns ([`sinkhorn_row_lse`]); codes exp(v + f) ([`sinkhorn_apply`]).
//! - scaling, as the published code: q = exp((score - largest) scale) ([`sinkhorn_exp`]), columns v = mass / sum of q u
//!   ([`sinkhorn_col_sum`], [`sinkhorn_col_scale`]), rows u = mass / sum of q v ([`sinkhorn_row_scale`]), codes (q v) u
//!   ([`sinkhorn_apply_scale`]).
//!
//! A last row half with mass 1 (log_mass 0) makes each row of codes sum to 1.
//!
//! **Order.** Rows are reduced by lanes. A column is reduced in leaves of 512 rows ([`ROWS`]): inside a leaf by lanes
//! (row r goes to lane r mod 16), the leaves by the tree. So a grid of any shape has the same bits, and ranks that hold
//! whole leaves gather their partial results and merge them to the bits of one rank that holds all.

use super::pool::fold_lanes;
use crate::math::Real;
use crate::order::{CHUNK, LANES};
use crate::simt::*;
use crate::{kernel, shared};
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &sinkhorn_row_lse::SPEC,
    &sinkhorn_col_lse::SPEC,
    &sinkhorn_col_merge::SPEC,
    &sinkhorn_apply::SPEC,
    &sinkhorn_exp::SPEC,
    &sinkhorn_row_scale::SPEC,
    &sinkhorn_col_sum::SPEC,
    &sinkhorn_col_scale::SPEC,
    &sinkhorn_apply_scale::SPEC,
];

/// Rows per leaf of a column reduction.
pub const ROWS: u32 = CHUNK as u32;

const THREADS: u32 = 256;
/// Rows of a block of the row kernels: half a warp each.
const HALF_WARPS: u32 = THREADS / LANES as u32;
/// Columns of a block of the column kernels: one warp wide, the other dimension are the lanes.
const COLUMNS: u32 = WARP;

kernel! {
    /// f = log_mass - log-sum-exp over k of v = fma(score, scale, column_potential), by lanes; the shift is the row's
    /// largest v, or 0 where that is infinite or NaN.
    sinkhorn_row_lse(scores: In<f32>[n * k], column_potential: In<f32>[k], row_potential: Out<f32>[n], n: u32, k: u32,
        scale: f32, log_mass: f32)
    grid [n.div_ceil(HALF_WARPS as u64)] block [THREADS]
    cost { flop: 7 * n * k, special: n * k, reread: 4 * n * k + 8 * k * n.saturating_sub(1) }
    cases sinkhorn_row_lse_cases
    {
        let row = block_idx().x * HALF_WARPS + thread_idx().x / LANES as u32;
        let here = within(row, n);
        let first = row * k;
        let lane = thread_idx().x % LANES as u32;
        let end = if here { k } else { 0 };
        let mut max = f32::NEG_INFINITY;
        for j in strided(lane, end, LANES as u32) {
            max = Real::max(max, Real::mul_add(scores.get(first + j), scale, column_potential.get(j)));
        }
        let shift = shift_of(half_warp_max(ALL_LANES, max));
        let mut sum = 0.0;
        for j in strided(lane, end, LANES as u32) {
            let v = Real::mul_add(scores.get(first + j), scale, column_potential.get(j));
            sum += Real::exp(v - shift);
        }
        let sum = half_warp_sum(ALL_LANES, sum);
        if here && lane == 0 {
            row_potential.set(row, log_mass - (shift + Real::log(sum)));
        }
    }

    /// Per leaf of 512 rows and column: the largest v = fma(score, scale, row_potential), and the sum of exp(v - shift)
    /// with the shift that maximum, or 0 where it is infinite or NaN; both by lanes. A block takes 32 columns of a
    /// leaf, its 16 warps are the lanes.
    sinkhorn_col_lse(scores: In<f32>[n * k], row_potential: In<f32>[n], max: Out<f32>[n.div_ceil(ROWS as u64) * k],
        sum: Out<f32>[n.div_ceil(ROWS as u64) * k], n: u32, k: u32, scale: f32)
    grid [n.div_ceil(ROWS as u64) * k.div_ceil(COLUMNS as u64)] block [COLUMNS, LANES]
    cost { flop: 7 * n * k, special: n * k, reread: 4 * n * k + 4 * n * (2 * k.div_ceil(COLUMNS as u64)).saturating_sub(1) }
    cases sinkhorn_col_lse_cases
    {
        let max_tile = shared!(f32; LANES as u32 * COLUMNS);
        let sum_tile = shared!(f32; LANES as u32 * COLUMNS);
        let part = LeafPart::of_block(n, k);
        let at = thread_idx().y * COLUMNS + thread_idx().x;
        let mut largest = f32::NEG_INFINITY;
        for row in strided(part.start, part.end, LANES as u32) {
            let v = Real::mul_add(scores.get(row * k + part.column), scale, row_potential.get(row));
            largest = Real::max(largest, v);
        }
        max_tile.set(at, largest);
        barrier();
        let largest = fold_lanes(max_tile, thread_idx().x, COLUMNS, Real::max);
        let shift = shift_of(largest);
        let mut total = 0.0;
        for row in strided(part.start, part.end, LANES as u32) {
            let v = Real::mul_add(scores.get(row * k + part.column), scale, row_potential.get(row));
            total += Real::exp(v - shift);
        }
        sum_tile.set(at, total);
        barrier();
        if thread_idx().y == 0 && part.here {
            max.set(part.leaf * k + part.column, largest);
            sum.set(part.leaf * k + part.column, fold_lanes(sum_tile, thread_idx().x, COLUMNS, |a, b| a + b));
        }
    }

    /// g = log_mass - log-sum-exp of each column from the leaves of `sinkhorn_col_lse`, joined in the tree, in place.
    /// Of two parts a, b: max = the larger; sum = fma(sum_b, rescaled_b, sum_a rescaled_a), rescaled_x = exp(max_x -
    /// max), or 1 where the two are equal. At the end shift + log(sum).
    sinkhorn_col_merge(max: InOut<f32>[leaves * k], sum: InOut<f32>[leaves * k], column_potential: Out<f32>[k],
        leaves: u32, k: u32, log_mass: f32)
    grid [k.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 5 * leaves * k, special: 2 * leaves * k }
    cases sinkhorn_col_merge_cases
    {
        let column = block_idx().x * THREADS + thread_idx().x;
        if within(column, k) {
            for_each_join(leaves, |to, from| {
                let (a, b) = (to * k + column, from * k + column);
                let joined = join_lse([max.get(a), sum.get(a)], [max.get(b), sum.get(b)]);
                max.set(a, joined[0]);
                sum.set(a, joined[1]);
            });
            column_potential.set(column, log_mass - (shift_of(max.get(column)) + Real::log(sum.get(column))));
        }
    }

    /// codes = exp(fma(score, scale, column_potential) + row_potential).
    sinkhorn_apply(scores: In<f32>[n * k], row_potential: In<f32>[n], column_potential: In<f32>[k],
        codes: Out<f32>[n * k], n: u32, k: u32, scale: f32)
    grid [(n * k).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 3 * n * k, special: n * k }
    cases sinkhorn_apply_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * k) {
            let v = Real::mul_add(scores.get(i), scale, column_potential.get(i % k));
            codes.set(i, Real::exp(v + row_potential.get(i / k)));
        }
    }

    /// q = exp((score - largest) scale), `largest` being one number for all scores that keeps the exponentials finite.
    sinkhorn_exp(scores: In<f32>[len], largest: In<f32>[1], q: Out<f32>[len], len: u32, scale: f32)
    grid [len.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * len, special: len }
    cases sinkhorn_exp_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, len) {
            q.set(i, Real::exp((scores.get(i) - largest.get(0)) * scale));
        }
    }

    /// u = mass / the sum of q column_scale over each row, by lanes with fma.
    sinkhorn_row_scale(q: In<f32>[n * k], column_scale: In<f32>[k], row_scale: Out<f32>[n], n: u32, k: u32, mass: f32)
    grid [n.div_ceil(HALF_WARPS as u64)] block [THREADS]
    cost { flop: 2 * n * k, special: n, reread: 4 * k * n.saturating_sub(1) }
    cases sinkhorn_row_scale_cases
    {
        let row = block_idx().x * HALF_WARPS + thread_idx().x / LANES as u32;
        let here = within(row, n);
        let lane = thread_idx().x % LANES as u32;
        let end = if here { k } else { 0 };
        let mut sum = 0.0;
        for j in strided(lane, end, LANES as u32) {
            sum = Real::mul_add(q.get(row * k + j), column_scale.get(j), sum);
        }
        let sum = half_warp_sum(ALL_LANES, sum);
        if here && lane == 0 {
            row_scale.set(row, mass / sum);
        }
    }

    /// Per leaf of 512 rows and column the sum of q row_scale, by lanes with fma.
    sinkhorn_col_sum(q: In<f32>[n * k], row_scale: In<f32>[n], sum: Out<f32>[n.div_ceil(ROWS as u64) * k], n: u32,
        k: u32)
    grid [n.div_ceil(ROWS as u64) * k.div_ceil(COLUMNS as u64)] block [COLUMNS, LANES]
    cost { flop: 2 * n * k, reread: 4 * n * k.div_ceil(COLUMNS as u64).saturating_sub(1) }
    cases sinkhorn_col_sum_cases
    {
        let tile = shared!(f32; LANES as u32 * COLUMNS);
        let part = LeafPart::of_block(n, k);
        let mut total = 0.0;
        for row in strided(part.start, part.end, LANES as u32) {
            total = Real::mul_add(q.get(row * k + part.column), row_scale.get(row), total);
        }
        tile.set(thread_idx().y * COLUMNS + thread_idx().x, total);
        barrier();
        if thread_idx().y == 0 && part.here {
            sum.set(part.leaf * k + part.column, fold_lanes(tile, thread_idx().x, COLUMNS, |a, b| a + b));
        }
    }

    /// v = mass / the sum of each column from the leaves of `sinkhorn_col_sum`, added in the tree, in place.
    sinkhorn_col_scale(sum: InOut<f32>[leaves * k], column_scale: Out<f32>[k], leaves: u32, k: u32, mass: f32)
    grid [k.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: leaves * k, special: k }
    cases sinkhorn_col_scale_cases
    {
        let column = block_idx().x * THREADS + thread_idx().x;
        if within(column, k) {
            for_each_join(leaves, |to, from| {
                sum.set(to * k + column, sum.get(to * k + column) + sum.get(from * k + column));
            });
            column_scale.set(column, mass / sum.get(column));
        }
    }

    /// codes = (q column_scale) row_scale.
    sinkhorn_apply_scale(q: In<f32>[n * k], row_scale: In<f32>[n], column_scale: In<f32>[k], codes: Out<f32>[n * k],
        n: u32, k: u32)
    grid [(n * k).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * k }
    cases sinkhorn_apply_scale_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * k) {
            codes.set(i, q.get(i) * column_scale.get(i % k) * row_scale.get(i / k));
        }
    }
}

/// The part of a leaf that a thread of a column kernel reads: one column, the rows of its lane.
struct LeafPart {
    leaf: u32,
    column: u32,
    here: bool,
    /// The lane's first row; below `end` it takes every 16th.
    start: u32,
    end: u32,
}

impl LeafPart {
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    #[inline(always)]
    fn of_block(n: u32, k: u32) -> LeafPart {
        let groups = k.div_ceil(COLUMNS);
        let leaf = block_idx().x / groups;
        let column = block_idx().x % groups * COLUMNS + thread_idx().x;
        let here = within(column, k);
        let end = if here { ((leaf + 1) * ROWS).min(n) } else { 0 };
        LeafPart { leaf, column, here, start: leaf * ROWS + thread_idx().y, end }
    }
}

/// What exponentials are shifted by.
#[inline(always)]
fn shift_of(max: f32) -> f32 {
    if Real::is_finite(max) { max } else { 0.0 }
}

/// Joins two parts (max, sum of exponentials), a before b.
#[inline(always)]
fn join_lse([max_a, sum_a]: [f32; 2], [max_b, sum_b]: [f32; 2]) -> [f32; 2] {
    let max = Real::max(max_a, max_b);
    // Equal infinities have no difference.
    let rescaled = |own: f32| if own == max { 1.0 } else { Real::exp(own - max) };
    [max, Real::mul_add(sum_b, rescaled(max_b), sum_a * rescaled(max_a))]
}

/// Walks the tree over `leaves` in place from the bottom: `join(to, from)` lets node `to` take node `from`. Aligned
/// blocks of powers of two are the nodes of the tree that is split at the largest power of two below its leaves.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn for_each_join(leaves: u32, join: impl Fn(u32, u32)) {
    let mut width = 1;
    while width < leaves {
        for to in strided(0, leaves - width, 2 * width) {
            join(to, to + width);
        }
        width *= 2;
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, change, exactly, noise};
    use crate::reference::{lane_dot, lane_max, lane_sum_exp, log_sum_exp};
    use crate::tree::fold_tree;

    const SCALE: f32 = 20.0;
    const LOG_MASS: f32 = -0.75;
    const MASS: f32 = 0.3;
    /// n, k: one element, ragged blocks, one more than a block's columns.
    const SHAPES: [(usize, usize); 4] = [(1, 1), (5, 40), (17, 33), (33, 3)];
    /// The same, and one with a ragged second leaf.
    const TALL: [(usize, usize); 4] = [(1, 1), (20, 40), (33, 33), (ROWS as usize + 3, 2)];

    fn name(n: usize, k: usize) -> String {
        format!("{n} x {k}")
    }

    /// Scores with infinities in the first row, and a first row of -inf alone where there are several.
    fn scores(n: usize, k: usize) -> Vec<f32> {
        let mut scores = noise(n * k, 51);
        if n > 1 {
            scores[..k].fill(f32::NEG_INFINITY);
            scores[n * k - 1] = f32::INFINITY;
        }
        scores
    }

    fn columns(x: &[f32], k: usize) -> impl Iterator<Item = Vec<f32>> {
        (0..k).map(move |column| x.iter().skip(column).step_by(k).copied().collect())
    }

    /// fma(score, scale, potential), the potential by row or by column.
    fn shifted(scores: &[f32], potential: impl Fn(usize) -> f32) -> Vec<f32> {
        scores.iter().enumerate().map(|(i, &score)| f32::mul_add(score, SCALE, potential(i))).collect()
    }

    pub(super) fn sinkhorn_row_lse_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (scores, column_potential) = (scores(n, k), noise(k, 52));
            let v = shifted(&scores, |i| column_potential[i % k]);
            let row_potential = exactly(v.chunks(k).map(|row| LOG_MASS - log_sum_exp(row)).collect());
            let (rows, cols) = (n as u32, k as u32);
            sinkhorn_row_lse::TestCase {
                scores,
                column_potential,
                row_potential,
                n: rows,
                k: cols,
                scale: SCALE,
                log_mass: LOG_MASS,
            }
            .named(name(n, k))
        };
        SHAPES.map(case).into()
    }

    /// Per leaf and column: largest, and sum of exponentials.
    fn leaves(v: &[f32], k: usize) -> (Vec<f32>, Vec<f32>) {
        let leaf = |leaf: &[f32]| -> Vec<(f32, f32)> {
            let part = |column: Vec<f32>| (lane_max(&column), lane_sum_exp(&column, shift_of(lane_max(&column))));
            columns(leaf, k).map(part).collect()
        };
        v.chunks(ROWS as usize * k).flat_map(leaf).unzip()
    }

    pub(super) fn sinkhorn_col_lse_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (scores, row_potential) = (scores(n, k), noise(n, 53));
            let (max, sum) = leaves(&shifted(&scores, |i| row_potential[i / k]), k);
            let (max, sum) = (exactly(max), exactly(sum));
            sinkhorn_col_lse::TestCase { scores, row_potential, max, sum, n: n as u32, k: k as u32, scale: SCALE }
                .named(name(n, k))
        };
        TALL.map(case).into()
    }

    /// Nodes of a column in place, as the tree leaves them: each is what was joined into it.
    fn nodes<T: Copy>(leaves: &[T], join: impl Fn(T, T) -> T) -> Vec<T> {
        let node = |at: usize| {
            // The widest aligned block that begins here.
            let width = if at == 0 { leaves.len() } else { 1 << at.trailing_zeros() };
            let part = &leaves[at..leaves.len().min(at + width)];
            fold_tree(part.len(), &mut |i| part[i], &mut |a, b| join(a, b)).expect("a part has a leaf")
        };
        (0..leaves.len()).map(node).collect()
    }

    /// Leaves of one column each: finite ones far apart, ones without mass, an infinite and a NaN one.
    const LSE_LEAVES: [[f32; 2]; 7] = [
        [f32::NEG_INFINITY, 0.0],
        [1.5, 3.25],
        [f32::NEG_INFINITY, 0.0],
        [-200.0, 2.5],
        [2.25, 1.125],
        [f32::INFINITY, f32::INFINITY],
        [f32::NAN, f32::NAN],
    ];

    /// What two parts, a before b, join to.
    fn join_parts(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
        let max = Real::max(a[0], b[0]);
        let rescaled = |part: [f32; 2]| if part[0] == max { 1.0 } else { Real::exp(part[0] - max) };
        [max, f32::mul_add(b[1], rescaled(b), a[1] * rescaled(a))]
    }

    pub(super) fn sinkhorn_col_merge_cases() -> Vec<Case> {
        let case = |(leaves, k): (usize, usize)| {
            // Column c starts at another leaf, so that every neighbourhood occurs; few columns see no NaN.
            let leaf = |i: usize| LSE_LEAVES[(i / k + 3 * (i % k)) % if k < 3 { 5 } else { 7 }];
            let before: Vec<[f32; 2]> = (0..leaves * k).map(leaf).collect();
            let mut after = before.clone();
            for column in 0..k {
                let parts: Vec<[f32; 2]> = before.iter().skip(column).step_by(k).copied().collect();
                let joined = nodes(&parts, join_parts);
                after.iter_mut().skip(column).step_by(k).zip(joined).for_each(|(after, node)| *after = node);
            }
            let potential = |[max, sum]: &[f32; 2]| LOG_MASS - (shift_of(*max) + Real::log(*sum));
            let column_potential = exactly(after[..k].iter().map(potential).collect());
            let take = |parts: &[[f32; 2]], which: usize| parts.iter().map(|part| part[which]).collect::<Vec<f32>>();
            sinkhorn_col_merge::TestCase {
                max: change(take(&before, 0), exactly(take(&after, 0))),
                sum: change(take(&before, 1), exactly(take(&after, 1))),
                column_potential,
                leaves: leaves as u32,
                k: k as u32,
                log_mass: LOG_MASS,
            }
            .named(format!("{leaves} leaves, {k} columns"))
        };
        [(1, 1), (2, 2), (3, 1), (7, 300), (8, 2)].map(case).into()
    }

    pub(super) fn sinkhorn_apply_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (scores, row_potential, column_potential) = (scores(n, k), noise(n, 54), noise(k, 55));
            let v = shifted(&scores, |i| column_potential[i % k]);
            let codes = v.iter().enumerate().map(|(i, v)| Real::exp(v + row_potential[i / k])).collect();
            let codes = exactly(codes);
            let (rows, cols) = (n as u32, k as u32);
            sinkhorn_apply::TestCase { scores, row_potential, column_potential, codes, n: rows, k: cols, scale: SCALE }
                .named(name(n, k))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn sinkhorn_exp_cases() -> Vec<Case> {
        let case = |len: usize| {
            let scores = noise(len, 56);
            let largest = lane_max(&scores);
            let q = exactly(scores.iter().map(|score| Real::exp((score - largest) * SCALE)).collect());
            sinkhorn_exp::TestCase { scores, largest: vec![largest], q, len: len as u32, scale: SCALE }
                .named(format!("{len}"))
        };
        [1, 300].map(case).into()
    }

    /// Exponentials of scores: positive.
    fn positive(n: usize, seed: u64) -> Vec<f32> {
        noise(n, seed).into_iter().map(Real::exp).collect()
    }

    pub(super) fn sinkhorn_row_scale_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (q, column_scale) = (positive(n * k, 57), positive(k, 58));
            let row_scale = exactly(q.chunks(k).map(|row| MASS / lane_dot(row, &column_scale)).collect());
            sinkhorn_row_scale::TestCase { q, column_scale, row_scale, n: n as u32, k: k as u32, mass: MASS }
                .named(name(n, k))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn sinkhorn_col_sum_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (q, row_scale) = (positive(n * k, 59), positive(n, 60));
            let leaves = q.chunks(ROWS as usize * k).zip(row_scale.chunks(ROWS as usize));
            let leaf = |(leaf, scale)| columns(leaf, k).map(move |column| lane_dot(&column, scale));
            let sum = exactly(leaves.flat_map(leaf).collect());
            sinkhorn_col_sum::TestCase { q, row_scale, sum, n: n as u32, k: k as u32 }.named(name(n, k))
        };
        TALL.map(case).into()
    }

    pub(super) fn sinkhorn_col_scale_cases() -> Vec<Case> {
        let case = |(leaves, k): (usize, usize)| {
            let before = positive(leaves * k, 61);
            let mut after = before.clone();
            for (column, parts) in columns(&before, k).enumerate() {
                let joined = nodes(&parts, |a, b| a + b);
                after.iter_mut().skip(column).step_by(k).zip(joined).for_each(|(after, node)| *after = node);
            }
            let column_scale = exactly(after[..k].iter().map(|sum| MASS / sum).collect());
            let sum = change(before, exactly(after));
            sinkhorn_col_scale::TestCase { sum, column_scale, leaves: leaves as u32, k: k as u32, mass: MASS }
                .named(format!("{leaves} leaves, {k} columns"))
        };
        [(1, 1), (2, 3), (3, 1), (7, 300), (13, 2)].map(case).into()
    }

    pub(super) fn sinkhorn_apply_scale_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (q, row_scale, column_scale) = (positive(n * k, 62), positive(n, 63), positive(k, 64));
            let codes = (0..n * k).map(|i| (q[i] * column_scale[i % k]) * row_scale[i / k]).collect();
            let codes = exactly(codes);
            sinkhorn_apply_scale::TestCase { q, row_scale, column_scale, codes, n: n as u32, k: k as u32 }
                .named(name(n, k))
        };
        SHAPES.map(case).into()
    }
}
