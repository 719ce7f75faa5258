//! k-means: nearest centroids, and sums of the members of each cluster.

use super::sort::{min_of_lanes, position_of, rank, value_of};
use crate::math::Real;
use crate::order::{CHUNK, LANES};
use crate::simt::*;
use crate::{kernel, shared};
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[&kmeans_norms::SPEC, &kmeans_assign::SPEC, &kmeans_sums::SPEC];

/// Threads of a block of [`kmeans_assign`] and [`kmeans_norms`].
const THREADS: u32 = 256;
/// Rows of x, and centroids at a time, of a block of [`kmeans_assign`].
const TILE: u32 = 64;
/// Positions of d that are in shared memory at once; divides [`CHUNK`].
const DEPTH: u32 = 16;
/// Distance between the positions of d in shared memory: a multiple of 4 for wide reads, 4 more than the tile so that
/// the turned writes spread over the banks.
const PITCH: u32 = TILE + 4;
/// Rows, and centroids, of a thread of [`kmeans_assign`].
const EACH: usize = 4;
/// Columns of a block of [`kmeans_sums`].
const COLUMNS: u32 = 128;
/// Centroids whose norms a block of [`kmeans_norms`] computes: half a warp each.
const NORMS: u32 = THREADS / LANES as u32;

kernel! {
    /// The squared norm of each centroid, by lanes: what `kmeans_assign` takes as `bias` for Euclidean distance.
    kmeans_norms(centroids: In<f32>[k * d], norms: Out<f32>[k], k: u32, d: u32)
    grid [k.div_ceil(NORMS as u64)] block [THREADS]
    cost { flop: 2 * k * d }
    cases kmeans_norms_cases
    {
        let centroid = block_idx().x * NORMS + thread_idx().x / LANES as u32;
        let lane = thread_idx().x % LANES as u32;
        let here = within(centroid, k);
        let end = if here { d } else { 0 };
        let mut sum = 0.0;
        for j in strided(lane, end, LANES as u32) {
            let x = centroids.get(centroid * d + j);
            sum = Real::mul_add(x, x, sum);
        }
        let sum = half_warp_sum(ALL_LANES, sum);
        if here && lane == 0 {
            norms.set(centroid, sum);
        }
    }

    /// For each row of x `[n, d]` the centroid of `[k, d]` with the smallest value fma(-2, x . c, bias), of equals the
    /// lowest, and that value (-0 as +0). With the squared norms as bias it is the squared distance less the row's own
    /// squared norm; with bias 0 the nearest is the one of largest product, for unit vectors the largest cosine. NaN
    /// is larger than any number. x . c is the canonical contraction: chains of fma in chunks of 512.
    ///
    /// A block holds 64 rows and passes over all centroids, 64 at a time; 16 positions of d of both are in shared
    /// memory, turned so that a thread reads 4 rows and 4 centroids as one access each and keeps 4 x 4 products in
    /// registers. A thread walks d alone, so the tiles leave the order of the chains as it is; what is kept of each
    /// tile of centroids is a minimum over distinct ranks, which has no order.
    kmeans_assign(x: In<f32>[n * d], centroids: In<f32>[k * d], bias: In<f32>[k], nearest: Out<i64>[n],
        value: Out<f32>[n], n: u32, k: u32, d: u32)
    grid [n.div_ceil(TILE as u64)] block [THREADS]
    cost { flop: 2 * n * k * d, reread: 4 * d * k.div_ceil(TILE as u64).saturating_sub(1) * n + 4 * d * k * n.div_ceil(TILE as u64) }
    cases kmeans_assign_cases
    {
        let row_tile = shared!(f32; DEPTH * PITCH);
        let centroid_tile = shared!(f32; DEPTH * PITCH);
        let (across, down) = (thread_idx().x % 16 * EACH as u32, thread_idx().x / 16 * EACH as u32);
        let first_row = block_idx().x * TILE;
        let mut best = [u64::MAX; EACH];
        for first_centroid in strided(0, k, TILE) {
            let mut products = [[0.0; EACH]; EACH];
            for chunk in strided(0, d, CHUNK as u32) {
                let mut chain = [[0.0; EACH]; EACH];
                for start in strided(chunk, (chunk + CHUNK as u32).min(d), DEPTH) {
                    load_turned(x, row_tile, first_row, n, start, d);
                    load_turned(centroids, centroid_tile, first_centroid, k, start, d);
                    barrier();
                    let mut step = |at: u32| {
                        let a = row_tile.get4(at * PITCH + down);
                        let b = centroid_tile.get4(at * PITCH + across);
                        for i in 0..EACH {
                            for j in 0..EACH {
                                chain[i][j] = Real::mul_add(a[i], b[j], chain[i][j]);
                            }
                        }
                    };
                    if start + DEPTH <= d {
                        // Four positions per turn of the loop.
                        for at in (0..DEPTH).step_by(4) {
                            (at..at + 4).for_each(&mut step);
                        }
                    } else {
                        strided(0, d - start, 1).for_each(&mut step);
                    }
                    barrier();
                }
                for i in 0..EACH {
                    for j in 0..EACH {
                        products[i][j] = if chunk == 0 { chain[i][j] } else { products[i][j] + chain[i][j] };
                    }
                }
            }
            // Plain indices, which unroll into registers; iterators over the arrays would put them into local memory.
            #[allow(clippy::needless_range_loop)]
            for j in 0..EACH {
                let centroid = first_centroid + across + j as u32;
                if within(centroid, k) {
                    let bias = bias.get(centroid);
                    for i in 0..EACH {
                        best[i] = best[i].min(rank(Real::mul_add(-2.0, products[i][j], bias), centroid, 0));
                    }
                }
            }
        }
        for i in 0..EACH {
            let best = min_of_lanes(best[i], 16);
            let row = first_row + down + i as u32;
            if across == 0 && within(row, n) {
                nearest.set(row, i64::from(position_of(best)));
                value.set(row, value_of(best));
            }
        }
    }

    /// The sum of the rows of x `[n, d]` that belong to each of k clusters, and their number. By increasing row: one
    /// chain of additions from +0 per chunk of 512 rows, chunks added in order; a chunk without members is no term, a
    /// cluster without members is +0.
    ///
    /// A block owns a cluster and 128 columns, so no two blocks meet in a sum. Its warps read the assignment 32 rows at
    /// a time; the ballot's bits, lowest first, are the members in order.
    kmeans_sums(x: In<f32>[n * d], nearest: In<i64>[n], sums: Out<f32>[k * d], counts: Out<u32>[k], n: u32, k: u32,
        d: u32)
    grid [k * d.div_ceil(COLUMNS as u64)] block [COLUMNS]
    cost { flop: n * d, reread: 8 * n * (k * d.div_ceil(COLUMNS as u64) * (COLUMNS / WARP) as u64).saturating_sub(1) }
    cases kmeans_sums_cases
    {
        let groups = d.div_ceil(COLUMNS);
        let (centroid, group) = (block_idx().x / groups, block_idx().x % groups);
        let column = group * COLUMNS + thread_idx().x;
        let here = within(column, d);
        let (mut total, mut count) = (0.0, 0);
        for chunk in strided(0, n, CHUNK as u32) {
            let (mut chain, mut members) = (0.0, 0);
            for start in strided(chunk, (chunk + CHUNK as u32).min(n), WARP) {
                let row = start + lane();
                let mut found = ballot(ALL_LANES, within(row, n) && nearest.get(row) == i64::from(centroid));
                members += found.count_ones();
                while found != 0 {
                    let member = start + found.trailing_zeros();
                    if here {
                        chain += x.get(member * d + column);
                    }
                    found &= found - 1;
                }
            }
            if members > 0 {
                total = if count == 0 { chain } else { total + chain };
            }
            count += members;
        }
        if here {
            sums.set(centroid * d + column, total);
        }
        if group == 0 && thread_idx().x == 0 {
            counts.set(centroid, count);
        }
    }
}

/// Brings 64 rows of `[rows, d]` from `first` on and 16 positions from `start` on into shared memory, position by
/// position; what lies outside becomes 0 and is not used.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
fn load_turned(matrix: In<f32>, tile: Shared<f32>, first: u32, rows: u32, start: u32, d: u32) {
    for element in strided(thread_idx().x, TILE * DEPTH, THREADS) {
        let (row, at) = (element / DEPTH, element % DEPTH);
        let here = within(first + row, rows) && within(start + at, d);
        tile.set(at * PITCH + row, if here { matrix.get((first + row) * d + start + at) } else { 0.0 });
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::reference::{Chain, lane_sum_sq};

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut chain = Chain::new();
        a.iter().zip(b).enumerate().for_each(|(j, (&a, &b))| chain.fma(j, a, b));
        chain.finish()
    }

    pub(super) fn kmeans_norms_cases() -> Vec<Case> {
        let case = |(k, d): (usize, usize)| {
            let centroids = noise(k * d, 41);
            let norms = exactly(centroids.chunks(d).map(lane_sum_sq).collect());
            kmeans_norms::TestCase { centroids, norms, k: k as u32, d: d as u32 }.named(format!("{k} x {d}"))
        };
        [(1, 1), (17, 40), (3, 5)].map(case).into()
    }

    /// The nearest centroid of a row and its value, by comparisons: the first that is smaller than all before it.
    fn nearest_to(row: &[f32], centroids: &[f32], bias: &[f32]) -> (i64, f32) {
        let values = centroids.chunks(row.len()).zip(bias).map(|(c, &bias)| f32::mul_add(-2.0, dot(row, c), bias));
        let smaller = |a: f32, b: f32| a < b || (b.is_nan() && !a.is_nan());
        let (at, value) = values
            .enumerate()
            .reduce(|best, next| if smaller(next.1, best.1) { next } else { best })
            .expect("a case has centroids");
        (at as i64, if value == 0.0 { 0.0 } else { value })
    }

    pub(super) fn kmeans_assign_cases() -> Vec<Case> {
        let case = |(n, k, d, has_bias): (usize, usize, usize, bool)| {
            let x = noise(n * d, 42);
            let mut centroids = noise(k * d, 43);
            if k > 3 {
                // A centroid that is a row of x, twice: a tie. And one that no row can be near.
                let row = x[(n - 1) * d..].to_vec();
                centroids[d..2 * d].copy_from_slice(&row);
                centroids[(k - 1) * d..].copy_from_slice(&row);
                centroids[0] = f32::NAN;
            }
            let bias: Vec<f32> = centroids.chunks(d).map(|c| if has_bias { lane_sum_sq(c) } else { 0.0 }).collect();
            let (nearest, value) = x.chunks(d).map(|row| nearest_to(row, &centroids, &bias)).unzip();
            kmeans_assign::TestCase {
                x,
                centroids,
                bias,
                nearest: exactly(nearest),
                value: exactly(value),
                n: n as u32,
                k: k as u32,
                d: d as u32,
            }
            .named(format!("{n} rows, {k} centroids of {d}, bias: {has_bias}"))
        };
        [(1, 1, 1, false), (3, 65, 5, true), (65, 7, 16, false), (2, 2, 530, true)].map(case).into()
    }

    pub(super) fn kmeans_sums_cases() -> Vec<Case> {
        let case = |(n, k, d): (usize, usize, usize)| {
            let x = noise(n * d, 44);
            // Cluster 1 has no member in the first chunk, the last cluster none at all.
            let nearest: Vec<i64> =
                (0..n).map(|row| if row < CHUNK && k > 2 { 0 } else { (row * 7 % k.max(3) % 2) as i64 }).collect();
            let sum = |i: usize| {
                let mut chain = Chain::new();
                let members = (0..n).filter(|&row| nearest[row] == (i / d) as i64);
                members.for_each(|row| chain.add(row, x[row * d + i % d]));
                chain.finish()
            };
            let sums = exactly((0..k * d).map(sum).collect());
            let counts = (0..k).map(|c| nearest.iter().filter(|&&at| at == c as i64).count() as u32).collect();
            let (n, k, d) = (n as u32, k as u32, d as u32);
            kmeans_sums::TestCase { x, nearest, sums, counts: exactly(counts), n, k, d }
                .named(format!("{n} rows of {d}, {k} clusters"))
        };
        [(1, 1, 1), (40, 2, 130), (600, 3, 3)].map(case).into()
    }
}
