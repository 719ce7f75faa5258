//! Sinkhorn normalisation of scores `[n, k]` (samples by prototypes): Sinkhorn and Knopp 1967, as Caron et al. 2020 use
//! it for balanced codes. Only potentials `[n]` and `[k]` change between iterations; the scores are read once per half
//! iteration and the codes are written at the end.
//!
//! - scaling, as the published code: q = exp((score - largest) scale) ([`sinkhorn_exp`]), columns v = mass / sum of q u
//!   ([`sinkhorn_col_sum`], [`sinkhorn_col_scale`]), rows u = mass / sum of q v ([`sinkhorn_row_scale`]), codes (q u) v
//!   ([`sinkhorn_apply_scale`]).
//! - log domain, any temperature: x = fma(score, scale, g_k) for rows and fma(score, scale, f_b) for columns, scale
//!   being 1 / epsilon. Columns: g = log(mass / sum) - shift, the parts of log-sum-exp over rows ([`sinkhorn_col_lse`],
//!   [`sinkhorn_col_merge`]); rows: f = log(mass / sum) - shift over columns ([`sinkhorn_row_lse`]); codes
//!   exp(x - shift) (mass / sum) ([`sinkhorn_codes`]).
//!
//! A last row half with masses of 1 makes each row of codes sum to 1.
//!
//! **Order.** Rows are reduced by lanes. Columns are sums over samples: leaves of 16 rows, in each a chain, above them
//! the tree. A block joins up to [`NODE_LEAVES`] leaves to a node; ranks that hold whole leaves gather their nodes and
//! merge them to the bits of one rank that holds all.

use crate::math::Real;
use crate::order::{LANES, LEAF};
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
    &sinkhorn_codes::SPEC,
    &sinkhorn_exp::SPEC,
    &sinkhorn_row_scale::SPEC,
    &sinkhorn_col_sum::SPEC,
    &sinkhorn_col_scale::SPEC,
    &sinkhorn_apply_scale::SPEC,
];

/// Most leaves of a column reduction that a block joins: a power of two.
pub const NODE_LEAVES: u32 = 16;

const THREADS: u32 = 256;
/// Rows of a block of the row kernels: half a warp each.
const HALF_WARPS: u32 = THREADS / LANES as u32;
/// Columns of a block of the column kernels: one warp wide, its warps take a leaf each.
const COLUMNS: u32 = WARP;

/// Nodes of `node_leaves` leaves over `n` rows.
#[cfg(not(target_arch = "nvptx64"))]
fn nodes(n: u64, node_leaves: u64) -> u64 {
    n.div_ceil(LEAF as u64 * node_leaves.max(1))
}

kernel! {
    /// f = log(mass / sum) - shift of x = fma(score, scale, column_potential) over each row, by lanes: the shift is the
    /// row's largest x, or 0 where that is infinite or NaN, the sum that of exp(x - shift).
    sinkhorn_row_lse(scores: In<f32>[n * k], column_potential: In<f32>[k], mass: In<f32>[n], row_potential: Out<f32>[n],
        n: u32, k: u32, scale: f32)
    grid [n.div_ceil(HALF_WARPS as u64)] block [THREADS]
    cost { flop: 7 * n * k, special: n * k, reread: 4 * n * k + 8 * k * n.saturating_sub(1) }
    cases sinkhorn_row_lse_cases
    {
        let part = RowPart::of_block(n, k);
        let (shift, sum) = part.sum_exp(scores, column_potential, scale);
        if part.here && part.lane == 0 {
            row_potential.set(part.row, Real::log(mass.get(part.row) / sum) - shift);
        }
    }

    /// codes = exp(x - shift) (mass / sum) of x = fma(score, scale, column_potential) over each row, shift and sum as
    /// in `sinkhorn_row_lse`: each row sums to its mass.
    sinkhorn_codes(scores: In<f32>[n * k], column_potential: In<f32>[k], mass: In<f32>[n], codes: Out<f32>[n * k],
        n: u32, k: u32, scale: f32)
    grid [n.div_ceil(HALF_WARPS as u64)] block [THREADS]
    cost { flop: 11 * n * k, special: 2 * n * k, reread: 8 * n * k + 12 * k * n.saturating_sub(1) }
    cases sinkhorn_codes_cases
    {
        let part = RowPart::of_block(n, k);
        let (shift, sum) = part.sum_exp(scores, column_potential, scale);
        for j in strided(part.lane, part.end, LANES as u32) {
            let at = part.row * k + j;
            let x = Real::mul_add(scores.get(at), scale, column_potential.get(j));
            codes.set(at, Real::exp(x - shift) * (mass.get(part.row) / sum));
        }
    }

    /// Per node of `node_leaves` leaves and column, `[nodes, 2, k]`: the largest x = fma(score, scale, row_potential)
    /// and the sum of exp(x - shift), the shift being that maximum, or 0 where it is infinite or NaN. In a leaf both are
    /// chains; leaves are joined in the tree.
    sinkhorn_col_lse(scores: In<f32>[n * k], row_potential: In<f32>[n], parts: Out<f32>[nodes(n, node_leaves) * 2 * k],
        n: u32, k: u32, scale: f32, node_leaves: u32)
    grid [nodes(n, node_leaves) * k.div_ceil(COLUMNS as u64)] block [COLUMNS, NODE_LEAVES]
    cost { flop: 7 * n * k, special: n * k, reread: 4 * n * k + 4 * n * (2 * k.div_ceil(COLUMNS as u64)).saturating_sub(1) }
    cases sinkhorn_col_lse_cases
    {
        let max_tile = shared!(f32; NODE_LEAVES * COLUMNS);
        let sum_tile = shared!(f32; NODE_LEAVES * COLUMNS);
        let part = LeafPart::of_block(n, k, node_leaves);
        let mut largest = f32::NEG_INFINITY;
        for row in strided(part.start, part.end, 1) {
            let x = Real::mul_add(scores.get(row * k + part.column), scale, row_potential.get(row));
            largest = Real::max(largest, x);
        }
        let shift = shift_of(largest);
        let mut total = 0.0;
        for row in strided(part.start, part.end, 1) {
            let x = Real::mul_add(scores.get(row * k + part.column), scale, row_potential.get(row));
            total += Real::exp(x - shift);
        }
        let tile_at = |leaf: u32| leaf * COLUMNS + thread_idx().x;
        if thread_idx().y < part.leaves {
            max_tile.set(tile_at(thread_idx().y), largest);
            sum_tile.set(tile_at(thread_idx().y), total);
        }
        join_leaves(part.leaves, |to, from| {
            let (a, b) = (tile_at(to), tile_at(from));
            let joined = join_sums_exp([max_tile.get(a), sum_tile.get(a)], [max_tile.get(b), sum_tile.get(b)]);
            max_tile.set(a, joined[0]);
            sum_tile.set(a, joined[1]);
        });
        if thread_idx().y == 0 && part.here {
            parts.set(part.node * 2 * k + part.column, max_tile.get(tile_at(0)));
            parts.set(part.node * 2 * k + k + part.column, sum_tile.get(tile_at(0)));
        }
    }

    /// g = log(mass / sum) - shift of each column from the nodes `[nodes, 2, k]` of `sinkhorn_col_lse`, joined in the
    /// tree, in place. Of two parts a, b: max = the larger; sum = fma(sum_b, rescaled_b, sum_a rescaled_a), rescaled_x =
    /// exp(max_x - max), or 1 where the two are equal.
    sinkhorn_col_merge(parts: InOut<f32>[nodes * 2 * k], mass: In<f32>[k], column_potential: Out<f32>[k], nodes: u32,
        k: u32)
    grid [k.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 5 * nodes * k, special: 2 * nodes * k }
    cases sinkhorn_col_merge_cases
    {
        let column = block_idx().x * THREADS + thread_idx().x;
        if within(column, k) {
            let part = |node: u32| [parts.get(node * 2 * k + column), parts.get(node * 2 * k + k + column)];
            for_each_join(nodes, |to, from| {
                let joined = join_sums_exp(part(to), part(from));
                parts.set(to * 2 * k + column, joined[0]);
                parts.set(to * 2 * k + k + column, joined[1]);
            });
            let [max, sum] = part(0);
            column_potential.set(column, Real::log(mass.get(column) / sum) - shift_of(max));
        }
    }

    /// q = exp((score - largest) scale), `largest` being one number for all scores that keeps the exponentials finite.
    sinkhorn_exp(scores: In<f32>[len], q: Out<f32>[len], len: u32, largest: f32, scale: f32)
    grid [len.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * len, special: len }
    cases sinkhorn_exp_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, len) {
            q.set(i, Real::exp((scores.get(i) - largest) * scale));
        }
    }

    /// u = mass / the sum of q column_scale over each row, by lanes with fma.
    sinkhorn_row_scale(q: In<f32>[n * k], column_scale: In<f32>[k], mass: In<f32>[n], row_scale: Out<f32>[n], n: u32,
        k: u32)
    grid [n.div_ceil(HALF_WARPS as u64)] block [THREADS]
    cost { flop: 2 * n * k, special: n, reread: 4 * k * n.saturating_sub(1) }
    cases sinkhorn_row_scale_cases
    {
        let part = RowPart::of_block(n, k);
        let mut sum = 0.0;
        for j in strided(part.lane, part.end, LANES as u32) {
            sum = Real::mul_add(q.get(part.row * k + j), column_scale.get(j), sum);
        }
        let sum = half_warp_sum(ALL_LANES, sum);
        if part.here && part.lane == 0 {
            row_scale.set(part.row, mass.get(part.row) / sum);
        }
    }

    /// Per node of `node_leaves` leaves and column the sum of q row_scale: in a leaf a chain of fma, leaves added in
    /// the tree.
    sinkhorn_col_sum(q: In<f32>[n * k], row_scale: In<f32>[n], sums: Out<f32>[nodes(n, node_leaves) * k], n: u32,
        k: u32, node_leaves: u32)
    grid [nodes(n, node_leaves) * k.div_ceil(COLUMNS as u64)] block [COLUMNS, NODE_LEAVES]
    cost { flop: 2 * n * k, reread: 4 * n * k.div_ceil(COLUMNS as u64).saturating_sub(1) }
    cases sinkhorn_col_sum_cases
    {
        let tile = shared!(f32; NODE_LEAVES * COLUMNS);
        let part = LeafPart::of_block(n, k, node_leaves);
        let mut total = 0.0;
        for row in strided(part.start, part.end, 1) {
            total = Real::mul_add(q.get(row * k + part.column), row_scale.get(row), total);
        }
        let tile_at = |leaf: u32| leaf * COLUMNS + thread_idx().x;
        if thread_idx().y < part.leaves {
            tile.set(tile_at(thread_idx().y), total);
        }
        join_leaves(part.leaves, |to, from| tile.set(tile_at(to), tile.get(tile_at(to)) + tile.get(tile_at(from))));
        if thread_idx().y == 0 && part.here {
            sums.set(part.node * k + part.column, tile.get(tile_at(0)));
        }
    }

    /// v = mass / the sum of each column from the nodes of `sinkhorn_col_sum`, added in the tree, in place.
    sinkhorn_col_scale(sums: InOut<f32>[nodes * k], mass: In<f32>[k], column_scale: Out<f32>[k], nodes: u32, k: u32)
    grid [k.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: nodes * k, special: k }
    cases sinkhorn_col_scale_cases
    {
        let column = block_idx().x * THREADS + thread_idx().x;
        if within(column, k) {
            for_each_join(nodes, |to, from| {
                sums.set(to * k + column, sums.get(to * k + column) + sums.get(from * k + column));
            });
            column_scale.set(column, mass.get(column) / sums.get(column));
        }
    }

    /// codes = (q row_scale) column_scale, in place of q.
    sinkhorn_apply_scale(codes: InOut<f32>[n * k], row_scale: In<f32>[n], column_scale: In<f32>[k], n: u32, k: u32)
    grid [(n * k).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * n * k }
    cases sinkhorn_apply_scale_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n * k) {
            codes.set(i, codes.get(i) * row_scale.get(i / k) * column_scale.get(i % k));
        }
    }
}

/// The part of a row that a thread of a row kernel reads: every 16th column.
struct RowPart {
    row: u32,
    here: bool,
    lane: u32,
    /// Columns below this one; 0 for a row that is not there.
    end: u32,
    k: u32,
}

impl RowPart {
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    #[inline(always)]
    fn of_block(n: u32, k: u32) -> RowPart {
        let row = block_idx().x * HALF_WARPS + thread_idx().x / LANES as u32;
        let here = within(row, n);
        RowPart { row, here, lane: thread_idx().x % LANES as u32, end: if here { k } else { 0 }, k }
    }

    /// The row's shift, and its sum of exp(x - shift) with x = fma(score, scale, column_potential).
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    #[inline(always)]
    fn sum_exp(&self, scores: In<f32>, column_potential: In<f32>, scale: f32) -> (f32, f32) {
        let x = |j: u32| Real::mul_add(scores.get(self.row * self.k + j), scale, column_potential.get(j));
        let mut max = f32::NEG_INFINITY;
        for j in strided(self.lane, self.end, LANES as u32) {
            max = Real::max(max, x(j));
        }
        let shift = shift_of(half_warp_max(ALL_LANES, max));
        let mut sum = 0.0;
        for j in strided(self.lane, self.end, LANES as u32) {
            sum += Real::exp(x(j) - shift);
        }
        (shift, half_warp_sum(ALL_LANES, sum))
    }
}

/// The part of a node that a thread of a column kernel reads: one column of one leaf.
struct LeafPart {
    node: u32,
    column: u32,
    here: bool,
    /// Leaves of the node.
    leaves: u32,
    /// The rows of the leaf.
    start: u32,
    end: u32,
}

impl LeafPart {
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    #[inline(always)]
    fn of_block(n: u32, k: u32, node_leaves: u32) -> LeafPart {
        let groups = k.div_ceil(COLUMNS);
        let node = block_idx().x / groups;
        let column = block_idx().x % groups * COLUMNS + thread_idx().x;
        let here = within(column, k);
        let leaves = node_leaves.min(n.div_ceil(LEAF as u32) - node * node_leaves);
        let start = (node * node_leaves + thread_idx().y) * LEAF as u32;
        let end = if here && thread_idx().y < leaves { (start + LEAF as u32).min(n) } else { 0 };
        LeafPart { node, column, here, leaves, start, end }
    }
}

/// What exponentials are shifted by.
#[inline(always)]
fn shift_of(max: f32) -> f32 {
    if Real::is_finite(max) { max } else { 0.0 }
}

/// Joins two parts (max, sum of exponentials), a before b.
#[inline(always)]
fn join_sums_exp([max_a, sum_a]: [f32; 2], [max_b, sum_b]: [f32; 2]) -> [f32; 2] {
    let max = Real::max(max_a, max_b);
    // Equal infinities have no difference.
    let rescaled = |own: f32| if own == max { 1.0 } else { Real::exp(own - max) };
    [max, Real::mul_add(sum_b, rescaled(max_b), sum_a * rescaled(max_a))]
}

/// Walks the tree over the leaves of a block, one warp per leaf: `join(to, from)` lets leaf `to` take leaf `from`. The
/// result is leaf 0's, in the hands of warp 0.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn join_leaves(leaves: u32, join: impl Fn(u32, u32)) {
    let mut width = 1;
    while width < NODE_LEAVES {
        barrier();
        let to = thread_idx().y;
        if to.is_multiple_of(2 * width) && within(to + width, leaves) {
            join(to, to + width);
        }
        width *= 2;
    }
}

/// Walks the tree over `nodes` in place from the bottom: `join(to, from)` lets node `to` take node `from`. Aligned
/// blocks of powers of two are the nodes of the tree that is split at the largest power of two below its leaves.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn for_each_join(nodes: u32, join: impl Fn(u32, u32)) {
    let mut width = 1;
    while width < nodes {
        for to in strided(0, nodes - width, 2 * width) {
            join(to, to + width);
        }
        width *= 2;
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, change, exactly, noise};
    use crate::reference::{self, lane_dot, lane_max, lane_sum_exp};
    use crate::tree::fold_tree;

    const SCALE: f32 = 20.0;
    /// n, k: one element, ragged blocks, one more than a block's columns.
    const SHAPES: [(usize, usize); 4] = [(1, 1), (5, 40), (17, 33), (33, 3)];
    /// n, k, leaves per node: one element, ragged leaves and columns, a ragged second node, nodes of fewer leaves.
    const TALL: [(usize, usize, u32); 5] =
        [(1, 1, 16), (20, 40, 16), (90, 33, 4), (NODE_LEAVES as usize * LEAF + 20, 2, 16), (40, 3, 1)];

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

    /// fma(score, scale, potential), the potential by row or by column.
    fn shifted(scores: &[f32], potential: impl Fn(usize) -> f32) -> Vec<f32> {
        scores.iter().enumerate().map(|(i, &score)| f32::mul_add(score, SCALE, potential(i))).collect()
    }

    /// Per row of v: its shift, and the sum of exp(v - shift).
    fn row_parts(v: &[f32], k: usize) -> impl Iterator<Item = (f32, f32)> {
        v.chunks(k).map(|row| (shift_of(lane_max(row)), lane_sum_exp(row, shift_of(lane_max(row)))))
    }

    pub(super) fn sinkhorn_row_lse_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (scores, column_potential, mass) = (scores(n, k), noise(k, 52), positive(n, 65));
            let v = shifted(&scores, |i| column_potential[i % k]);
            let row_potential = row_parts(&v, k).zip(&mass).map(|((shift, sum), mass)| Real::log(mass / sum) - shift);
            let row_potential = exactly(row_potential.collect());
            let (n, k, scale) = (n as u32, k as u32, SCALE);
            sinkhorn_row_lse::TestCase { scores, column_potential, mass, row_potential, n, k, scale }
                .named(name(n as usize, k as usize))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn sinkhorn_codes_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (scores, column_potential, mass) = (scores(n, k), noise(k, 55), positive(n, 66));
            let v = shifted(&scores, |i| column_potential[i % k]);
            let parts: Vec<(f32, f32)> = row_parts(&v, k).collect();
            let code = |(i, v): (usize, &f32)| Real::exp(v - parts[i / k].0) * (mass[i / k] / parts[i / k].1);
            let codes = exactly(v.iter().enumerate().map(code).collect());
            let (n, k, scale) = (n as u32, k as u32, SCALE);
            sinkhorn_codes::TestCase { scores, column_potential, mass, codes, n, k, scale }
                .named(name(n as usize, k as usize))
        };
        SHAPES.map(case).into()
    }

    /// The rows of each node of `node_leaves` leaves.
    fn by_node(x: &[f32], k: usize, node_leaves: u32) -> impl Iterator<Item = &[f32]> {
        x.chunks(node_leaves as usize * LEAF * k)
    }

    pub(super) fn sinkhorn_col_lse_cases() -> Vec<Case> {
        let case = |(n, k, node_leaves): (usize, usize, u32)| {
            let (scores, row_potential) = (scores(n, k), noise(n, 53));
            let v = shifted(&scores, |i| row_potential[i / k]);
            let node = |rows| {
                let columns = reference::column_sums_exp(rows, k);
                [0, 1].into_iter().flat_map(move |part| columns.clone().into_iter().map(move |column| column[part]))
            };
            let parts = exactly(by_node(&v, k, node_leaves).flat_map(node).collect());
            let (rows, cols, scale) = (n as u32, k as u32, SCALE);
            sinkhorn_col_lse::TestCase { scores, row_potential, parts, n: rows, k: cols, scale, node_leaves }
                .named(format!("{n} x {k}, nodes of {node_leaves}"))
        };
        TALL.map(case).into()
    }

    /// Nodes of one column in place, as the tree leaves them: each is what was joined into it.
    fn joined<T: Copy>(nodes: &[T], join: impl Fn(T, T) -> T) -> Vec<T> {
        let node = |at: usize| {
            // The widest aligned block that begins here.
            let width = if at == 0 { nodes.len() } else { 1 << at.trailing_zeros() };
            let part = &nodes[at..nodes.len().min(at + width)];
            fold_tree(part.len(), &mut |i| part[i], &mut |a, b| join(a, b)).expect("a part has a node")
        };
        (0..nodes.len()).map(node).collect()
    }

    /// Nodes of one column each: finite ones far apart, ones without mass, an infinite and a NaN one.
    const LSE_NODES: [[f32; 2]; 7] = [
        [f32::NEG_INFINITY, 0.0],
        [1.5, 3.25],
        [f32::NEG_INFINITY, 0.0],
        [-200.0, 2.5],
        [2.25, 1.125],
        [f32::INFINITY, f32::INFINITY],
        [f32::NAN, f32::NAN],
    ];

    pub(super) fn sinkhorn_col_merge_cases() -> Vec<Case> {
        let case = |(nodes, k): (usize, usize)| {
            // Column c starts at another node, so that every neighbourhood occurs; few columns see no NaN.
            let node = |i: usize| LSE_NODES[(i / k + 3 * (i % k)) % if k < 3 { 5 } else { 7 }];
            let before: Vec<[f32; 2]> = (0..nodes * k).map(node).collect();
            let mass = positive(k, 67);
            let mut after = before.clone();
            for column in 0..k {
                let parts: Vec<[f32; 2]> = before.iter().skip(column).step_by(k).copied().collect();
                let joined = joined(&parts, reference::join_sums_exp);
                after.iter_mut().skip(column).step_by(k).zip(joined).for_each(|(after, node)| *after = node);
            }
            let potential = |([max, sum], mass): (&[f32; 2], &f32)| Real::log(mass / sum) - shift_of(*max);
            let column_potential = exactly(after[..k].iter().zip(&mass).map(potential).collect());
            let split = |parts: &[[f32; 2]]| -> Vec<f32> {
                let node = |node: &[[f32; 2]]| [0, 1].map(|part| node.iter().map(move |p| p[part]).collect::<Vec<_>>());
                parts.chunks(k).flat_map(node).flatten().collect()
            };
            let parts = change(split(&before), exactly(split(&after)));
            sinkhorn_col_merge::TestCase { parts, mass, column_potential, nodes: nodes as u32, k: k as u32 }
                .named(format!("{nodes} nodes, {k} columns"))
        };
        [(1, 1), (2, 2), (3, 1), (7, 300), (8, 2)].map(case).into()
    }

    pub(super) fn sinkhorn_exp_cases() -> Vec<Case> {
        let case = |len: usize| {
            let scores = noise(len, 56);
            let largest = lane_max(&scores);
            let q = exactly(scores.iter().map(|score| Real::exp((score - largest) * SCALE)).collect());
            sinkhorn_exp::TestCase { scores, q, len: len as u32, largest, scale: SCALE }.named(format!("{len}"))
        };
        [1, 300].map(case).into()
    }

    /// Exponentials of scores: positive.
    fn positive(n: usize, seed: u64) -> Vec<f32> {
        noise(n, seed).into_iter().map(Real::exp).collect()
    }

    pub(super) fn sinkhorn_row_scale_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (q, column_scale, mass) = (positive(n * k, 57), positive(k, 58), positive(n, 68));
            let row_scale = q.chunks(k).zip(&mass).map(|(row, mass)| mass / lane_dot(row, &column_scale)).collect();
            let row_scale = exactly(row_scale);
            sinkhorn_row_scale::TestCase { q, column_scale, mass, row_scale, n: n as u32, k: k as u32 }
                .named(name(n, k))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn sinkhorn_col_sum_cases() -> Vec<Case> {
        let case = |(n, k, node_leaves): (usize, usize, u32)| {
            let (q, row_scale) = (positive(n * k, 59), positive(n, 60));
            let nodes = by_node(&q, k, node_leaves).zip(by_node(&row_scale, 1, node_leaves));
            let sums = exactly(nodes.flat_map(|(q, scale)| reference::column_sums(q, scale)).collect());
            sinkhorn_col_sum::TestCase { q, row_scale, sums, n: n as u32, k: k as u32, node_leaves }
                .named(format!("{n} x {k}, nodes of {node_leaves}"))
        };
        TALL.map(case).into()
    }

    pub(super) fn sinkhorn_col_scale_cases() -> Vec<Case> {
        let case = |(nodes, k): (usize, usize)| {
            let (before, mass) = (positive(nodes * k, 61), positive(k, 69));
            let mut after = before.clone();
            for column in 0..k {
                let parts: Vec<f32> = before.iter().skip(column).step_by(k).copied().collect();
                let joined = joined(&parts, |a, b| a + b);
                after.iter_mut().skip(column).step_by(k).zip(joined).for_each(|(after, node)| *after = node);
            }
            let column_scale = exactly(after[..k].iter().zip(&mass).map(|(sum, mass)| mass / sum).collect());
            let sums = change(before, exactly(after));
            sinkhorn_col_scale::TestCase { sums, mass, column_scale, nodes: nodes as u32, k: k as u32 }
                .named(format!("{nodes} nodes, {k} columns"))
        };
        [(1, 1), (2, 3), (3, 1), (7, 300), (13, 2)].map(case).into()
    }

    pub(super) fn sinkhorn_apply_scale_cases() -> Vec<Case> {
        let case = |(n, k): (usize, usize)| {
            let (q, row_scale, column_scale) = (positive(n * k, 62), positive(n, 63), positive(k, 64));
            let codes = (0..n * k).map(|i| (q[i] * row_scale[i / k]) * column_scale[i % k]).collect();
            let codes = change(q, exactly(codes));
            sinkhorn_apply_scale::TestCase { codes, row_scale, column_scale, n: n as u32, k: k as u32 }
                .named(name(n, k))
        };
        SHAPES.map(case).into()
    }
}
