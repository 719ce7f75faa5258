//! Order along an axis: sort and top-k of rows, argmax and argmin, and cumulative sums.
//!
//! Everything is ordered by one 64-bit number per element, its `rank`: the value's place in the total order (NaN
//! largest, -0 equal to +0) above its position. No two are equal, so what a sort or a minimum gives is defined by the
//! ranks alone, whatever network, merge or shuffle pattern finds it.
//!
//! - rows of up to [`RUN`] elements: [`sort_rows`], a bitonic network in shared memory (Batcher 1968), a block a row;
//! - longer rows: [`sort_runs`] leaves the ranks of runs of [`RUN`] elements in order, [`merge_runs`] joins pairs of
//!   runs (a launch per doubling), [`unpack_ranks`] turns ranks into values and positions. For the largest k, runs and
//!   their merges are cut to k ranks, and every launch halves what is left.

use crate::simt::*;
use crate::{kernel, shared};
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

#[cfg(not(target_arch = "nvptx64"))]
mod cases;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &sort_rows::SPEC,
    &sort_runs::SPEC,
    &merge_runs::SPEC,
    &unpack_ranks::SPEC,
    &argmax::SPEC,
    &argmin::SPEC,
    &cumsum::SPEC,
    &cumsum_rows::SPEC,
];

/// Elements of a run: what a block sorts in 32 KiB of shared memory.
pub const RUN: u32 = 4096;

const THREADS: u32 = 256;
/// Threads of a block that sorts a run.
const SORTERS: u32 = 512;
/// Ranks that a block of [`merge_runs`] writes.
const MERGED: u32 = 1024;
/// Rows, and columns at a time, of a block of [`cumsum_rows`]: one warp.
const TILE: u32 = WARP;
/// A rank that comes after every element's: what fills up runs.
const PAD: u64 = u64::MAX;

/// The place of x in the total order of floats as an integer: NaN is largest, -0 equals +0.
#[inline(always)]
pub(super) fn key(x: f32) -> u32 {
    // Adding +0 makes -0 +0 and changes nothing else.
    let bits = (x + 0.0).to_bits();
    if x.is_nan() {
        u32::MAX
    } else if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

/// What elements are ordered by: key, then position. `flip` is `u32::MAX` for descending order, else 0.
#[inline(always)]
pub(super) fn rank(x: f32, position: u32, flip: u32) -> u64 {
    u64::from(key(x) ^ flip) << 32 | u64::from(position)
}

/// The position inside a rank.
#[inline(always)]
pub(super) fn position_of(rank: u64) -> u32 {
    rank as u32
}

/// The value inside a rank of ascending order: -0 has become +0.
#[inline(always)]
pub(super) fn value_of(rank: u64) -> f32 {
    let key = (rank >> 32) as u32;
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[inline(always)]
fn flip(descending: u32) -> u32 {
    if descending != 0 { u32::MAX } else { 0 }
}

/// Sorts `tile[..len]`, `len` a power of two, by a bitonic network over all threads of the block.
///
/// Comparator t of a step with distance d joins elements i and i + d, i being t with a zero put in at d's bit. Steps
/// with d <= 32 stay inside the 64 elements of a warp's 32 comparators, so that only the warp need wait.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn bitonic_sort(tile: Shared<u64>, len: u32) {
    let mut last_distance = len;
    let mut size = 2;
    while size <= len {
        let mut distance = size / 2;
        while distance > 0 {
            if last_distance > WARP || distance > WARP {
                barrier();
            } else {
                sync_warp(ALL_LANES);
            }
            for t in strided(thread_idx().x, len / 2, block_dim().x) {
                let i = 2 * t - (t & (distance - 1));
                let (a, b) = (tile.get(i), tile.get(i + distance));
                if (a > b) == (i & size == 0) {
                    tile.set(i, b);
                    tile.set(i + distance, a);
                }
            }
            last_distance = distance;
            distance /= 2;
        }
        size *= 2;
    }
    barrier();
}

kernel! {
    /// The first `k` of each row in ascending or descending order, stable in both: their values and positions. With
    /// `k` = `cols` a sort, with less in descending order a top-k. `cols` is at most 4096; a block sorts a row.
    sort_rows(x: In<f32>[rows * cols], values: Out<f32>[rows * k], positions: Out<i64>[rows * k], rows: u32, cols: u32,
        k: u32, descending: u32)
    grid [rows] block [(cols.next_power_of_two() / 2).clamp(WARP as u64, SORTERS as u64)]
    shared [8 * cols.next_power_of_two()]
    cost { flop: rows * network(cols), reread: 4 * rows * k }
    cases sort_rows_cases
    {
        let tile = dynamic_shared::<u64>();
        let len = cols.next_power_of_two();
        let row = block_idx().x;
        for j in strided(thread_idx().x, len, block_dim().x) {
            tile.set(j, if within(j, cols) { rank(x.get(row * cols + j), j, flip(descending)) } else { PAD });
        }
        bitonic_sort(tile, len);
        for j in strided(thread_idx().x, k, block_dim().x) {
            let position = position_of(tile.get(j));
            values.set(row * k + j, x.get(row * cols + position));
            positions.set(row * k + j, i64::from(position));
        }
    }

    /// The ranks of each run of 4096 elements of each row in order, the first `kept` of each run; a last run that is
    /// shorter is filled up.
    sort_runs(x: In<f32>[rows * cols], ranks: Out<u64>[rows * cols.div_ceil(RUN as u64) * kept], rows: u32, cols: u32,
        kept: u32, descending: u32)
    grid [rows * cols.div_ceil(RUN as u64)] block [SORTERS]
    cost { flop: rows * cols.div_ceil(RUN as u64) * network(RUN as u64) }
    cases sort_runs_cases
    {
        let tile = shared!(u64; RUN);
        let runs = cols.div_ceil(RUN);
        let (row, first) = (block_idx().x / runs, block_idx().x % runs * RUN);
        let len = (cols - first).min(RUN).next_power_of_two();
        for j in strided(thread_idx().x, len, SORTERS) {
            let column = first + j;
            let here = within(column, cols);
            tile.set(j, if here { rank(x.get(row * cols + column), column, flip(descending)) } else { PAD });
        }
        bitonic_sort(tile, len);
        for j in strided(thread_idx().x, kept, SORTERS) {
            ranks.set(block_idx().x * kept + j, if within(j, len) { tile.get(j) } else { PAD });
        }
    }

    /// Joins runs 2 i and 2 i + 1 of `run` ranks of each row, in order, and keeps the first `kept` of each pair; a
    /// last run without partner stands alone. Places beyond both are filled up.
    ///
    /// A block makes 1024 neighbouring ranks of one pair. Where its part begins and ends in either run follows from
    /// a binary search along the diagonals of the merge (Green, McColl and Bader 2012); inside, each rank finds its
    /// place by a binary search in the other run's part.
    merge_runs(from: In<u64>[rows * runs * run], to: Out<u64>[rows * runs.div_ceil(2) * kept], rows: u32, runs: u32,
        run: u32, kept: u32)
    grid [rows * runs.div_ceil(2) * kept.div_ceil(MERGED as u64)] block [THREADS]
    cost { flop: rows * runs.div_ceil(2) * kept * 11 }
    cases merge_runs_cases
    {
        let unsorted = shared!(u64; MERGED);
        let sorted = shared!(u64; MERGED);
        let tiles = kept.div_ceil(MERGED);
        let pair = block_idx().x / tiles;
        let pairs = runs.div_ceil(2);
        let (row, left) = (pair / pairs, pair % pairs * 2);
        let a_at = (row * runs + left) * run;
        let b_at = a_at + run;
        let b_len = if left + 1 < runs { run } else { 0 };

        let begin = block_idx().x % tiles * MERGED;
        let end = (begin + MERGED).min(kept);
        let (full_begin, full_end) = (begin.min(run + b_len), end.min(run + b_len));
        let a_begin = diagonal(from, a_at, run, b_at, b_len, full_begin);
        let a_end = diagonal(from, a_at, run, b_at, b_len, full_end);
        let (a_part, total) = (a_end - a_begin, full_end - full_begin);
        let b_begin = full_begin - a_begin;
        for j in strided(thread_idx().x, total, THREADS) {
            let at = if j < a_part { a_at + a_begin + j } else { b_at + b_begin + (j - a_part) };
            unsorted.set(j, from.get(at));
        }
        barrier();
        for j in strided(thread_idx().x, total, THREADS) {
            let own = unsorted.get(j);
            // Of equals (fillers) those of the first run come first.
            let place = if j < a_part {
                j + count_before(unsorted.offset(a_part), total - a_part, |other| other < own)
            } else {
                j - a_part + count_before(unsorted, a_part, |other| other <= own)
            };
            sorted.set(place, own);
        }
        barrier();
        for j in strided(thread_idx().x, end - begin, THREADS) {
            to.set(pair * kept + begin + j, if within(j, total) { sorted.get(j) } else { PAD });
        }
    }

    /// Values and positions of the first `k` of `len` ranks of each row.
    unpack_ranks(x: In<f32>[rows * cols], ranks: In<u64>[rows * len], values: Out<f32>[rows * k],
        positions: Out<i64>[rows * k], rows: u32, cols: u32, len: u32, k: u32)
    grid [(rows * k).div_ceil(THREADS as u64)] block [THREADS]
    cost {}
    cases unpack_ranks_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, rows * k) {
            let (row, j) = (i / k, i % k);
            let position = position_of(ranks.get(row * len + j));
            values.set(i, x.get(row * cols + position));
            positions.set(i, i64::from(position));
        }
    }

    /// The position of the largest element along the middle axis of x `[outer, len, inner]`; of equals the lowest.
    argmax(x: In<f32>[outer * len * inner], position: Out<i64>[outer * inner], outer: u32, len: u32, inner: u32)
    grid [extremum_blocks(outer, inner)] block [THREADS]
    cost { flop: outer * len * inner }
    cases argmax_cases
    {
        arg_extremum(x, position, [outer, len, inner], flip(1));
    }

    /// The position of the smallest element along the middle axis of x `[outer, len, inner]`; of equals the lowest.
    argmin(x: In<f32>[outer * len * inner], position: Out<i64>[outer * inner], outer: u32, len: u32, inner: u32)
    grid [extremum_blocks(outer, inner)] block [THREADS]
    cost { flop: outer * len * inner }
    cases argmin_cases
    {
        arg_extremum(x, position, [outer, len, inner], flip(0));
    }

    /// Running sums along the middle axis of x `[outer, len, inner]`: one chain of additions from the first element. A
    /// thread is a chain; for `inner` = 1 `cumsum_rows` reads in full lines.
    cumsum(x: In<f32>[outer * len * inner], y: Out<f32>[outer * len * inner], outer: u32, len: u32, inner: u32)
    grid [(outer * inner).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: outer * len * inner }
    cases cumsum_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, outer * inner) && len > 0 {
            let first = i / inner * len * inner + i % inner;
            let mut sum = x.get(first);
            y.set(first, sum);
            for j in strided(1, len, 1) {
                sum += x.get(first + j * inner);
                y.set(first + j * inner, sum);
            }
        }
    }

    /// Running sums along each row. A warp takes 32 rows: it turns tiles of 32 x 32 elements in shared memory, so that
    /// a lane can be a row's chain while memory is read and written in lines.
    cumsum_rows(x: In<f32>[rows * cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [rows.div_ceil(TILE as u64)] block [TILE]
    cost { flop: rows * cols }
    cases cumsum_rows_cases
    {
        // A row's pitch of 33 keeps both directions free of bank conflicts.
        let tile = shared!(f32; TILE * (TILE + 1));
        let lane = thread_idx().x;
        let first = block_idx().x * TILE;
        let here = (rows - first).min(TILE);
        let mut sum = 0.0;
        for start in strided(0, cols, TILE) {
            let column = start + lane;
            for r in strided(0, here, 1) {
                if within(column, cols) {
                    tile.set(r * (TILE + 1) + lane, x.get((first + r) * cols + column));
                }
            }
            sync_warp(ALL_LANES);
            if within(lane, here) {
                for j in strided(0, (cols - start).min(TILE), 1) {
                    let at = lane * (TILE + 1) + j;
                    // The chain begins with the first element, not with +0: -0 stays.
                    sum = if start + j == 0 { tile.get(at) } else { sum + tile.get(at) };
                    tile.set(at, sum);
                }
            }
            sync_warp(ALL_LANES);
            for r in strided(0, here, 1) {
                if within(column, cols) {
                    y.set((first + r) * cols + column, tile.get(r * (TILE + 1) + lane));
                }
            }
            sync_warp(ALL_LANES);
        }
    }
}

/// How many of the first `d` ranks of the merge come from run a: the point where the merge's path crosses diagonal d.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn diagonal(from: In<u64>, a_at: u32, a_len: u32, b_at: u32, b_len: u32, d: u32) -> u32 {
    let mut low = d.saturating_sub(b_len);
    let mut high = d.min(a_len);
    while low < high {
        let middle = low + (high - low) / 2;
        if from.get(a_at + middle) <= from.get(b_at + d - 1 - middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// How many of the first `len` ranks, in order, come before: `precedes` holds for those alone.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn count_before(ranks: Shared<u64>, len: u32, precedes: impl Fn(u64) -> bool) -> u32 {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if precedes(ranks.get(middle)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Blocks of argmax and argmin: a warp per row where rows lie together, else a thread per chain.
#[cfg(not(target_arch = "nvptx64"))]
fn extremum_blocks(outer: u64, inner: u64) -> u64 {
    let threads = if inner == 1 { outer * u64::from(WARP) } else { outer * inner };
    threads.div_ceil(THREADS.into())
}

/// The position of the smallest rank along the middle axis.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn arg_extremum(x: In<f32>, position: Out<i64>, [outer, len, inner]: [u32; 3], flip: u32) {
    let thread = block_idx().x * THREADS + thread_idx().x;
    // The lanes of a warp share a row where that is contiguous; the condition is the same for all threads.
    let (i, start, step) = if inner == 1 { (thread / WARP, lane(), WARP) } else { (thread, 0, 1) };
    let here = within(i, outer * inner);
    let end = if here { len } else { 0 };
    let first = if here { i / inner * len * inner + i % inner } else { 0 };
    let mut best = PAD;
    for j in strided(start, end, step) {
        best = best.min(rank(x.get(first + j * inner), j, flip));
    }
    if inner == 1 {
        best = min_of_lanes(best, WARP);
    }
    if here && start == 0 {
        position.set(i, i64::from(position_of(best)));
    }
}

/// The smallest rank of each aligned group of `lanes` lanes, a power of two, for all of them. The whole warp takes part.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub(super) fn min_of_lanes(mut best: u64, lanes: u32) -> u64 {
    let mut distance = lanes / 2;
    while distance > 0 {
        let high = shuffle_xor(ALL_LANES, (best >> 32) as u32, distance);
        let low = shuffle_xor(ALL_LANES, best as u32, distance);
        best = best.min(u64::from(high) << 32 | u64::from(low));
        distance /= 2;
    }
    best
}

/// Comparisons of a bitonic network that sorts `len` elements.
#[cfg(not(target_arch = "nvptx64"))]
fn network(len: u64) -> u64 {
    let len = len.next_power_of_two();
    let levels = u64::from(len.ilog2());
    len / 2 * levels * (levels + 1) / 2
}
