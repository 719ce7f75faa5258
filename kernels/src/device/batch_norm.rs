//! Batch normalisation: statistics per leaf and up the tree, the affine pass, and both backward passes.
//!
//! Statistics and backward sums go over the rows of a leaf as in `samples`, with moments in place of sums:
//! each chunk's mean is one chain, its M2 a second one over the same rows, which the cache may still hold; chunks and
//! leaves merge by the formula of Chan, Golub and LeVeque, whose counts are exact in f64. The passes over elements
//! give a thread one channel, whose parameters it reads once, and `ROWS_EACH` rows, all loaded before the first is
//! written. An absent gamma is 1, an absent beta +0; arguments that are absent are not read.

use super::reduce::row::unrolled;
use super::samples::{FOLD, LeafChannel, THREADS, add, chain, fold_leaves};
use crate::kernel;
use crate::math::Real;
use crate::order::LEAF;
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
use super::samples::{chains, channel_tile, fold_block, leaves};
#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &batch_stats_leaves::SPEC,
    &batch_stats_fold::SPEC,
    &batch_stats_merge::SPEC,
    &reciprocal_std::SPEC,
    &batch_norm_apply::SPEC,
    &batch_norm_grad_sums_leaves::SPEC,
    &batch_norm_input_grad::SPEC,
];

/// Channels of a block of the passes over elements, and threads per channel.
const TILE: u32 = 32;
const SIDE: u32 = THREADS / TILE;

/// Rows of a thread of these passes.
const ROWS_EACH: usize = 8;

/// Rows of a block of these passes.
const TILE_ROWS: u32 = SIDE * ROWS_EACH as u32;

/// (mean, M2) of `na` rows and of the `nb` rows after them.
#[inline(always)]
fn merge(a: [f32; 2], b: [f32; 2], na: f64, nb: f64) -> [f32; 2] {
    let n = na + nb;
    let (share, weight) = ((nb / n) as f32, (na * nb / n) as f32);
    let delta = b[0] - a[0];
    [Real::mul_add(delta, share, a[0]), Real::mul_add(delta * delta, weight, a[1] + b[1])]
}

/// `f(i, row, channel position)` for the rows of this thread that exist, the position being that of (row, channel) in
/// `[rows, channels]`.
#[inline(always)]
fn my_rows(rows: u32, channels: u32, channel: u32, mut f: impl FnMut(usize, u32)) {
    unrolled::<ROWS_EACH>(|i| {
        let row = block_idx().x * TILE_ROWS + SIDE * i as u32 + thread_idx().y;
        if within(row, rows) {
            f(i, row * channels + channel);
        }
    });
}

/// dy where it counts: where y > 0, if there is a fused relu whose result y is.
#[inline(always)]
fn masked_grad(dy: In<f32>, y: In<f32>, masked: u32, i: u32) -> f32 {
    // The load of dy does not wait for y.
    let dy = dy.get(i);
    if masked == 0 || y.get(i) > 0.0 { dy } else { 0.0 }
}

kernel! {
    /// Mean and M2 of the rows of each leaf of x `[images, rows_per_image, channels]`, per channel.
    batch_stats_leaves(
        x: In<f32>[images * rows_per_image * channels],
        mean: Out<f32>[leaves(images) * channels],
        m2: Out<f32>[leaves(images) * channels],
        images: u32,
        rows_per_image: u32,
        channels: u32,
    )
    grid [channels.div_ceil(channel_tile(rows_per_image)), leaves(images)]
    block [channel_tile(rows_per_image), chains(rows_per_image)]
    cost { flop: 4 * images * rows_per_image * channels, reread: 4 * images * rows_per_image * channels }
    cases batch_stats_leaves_cases
    {
        let tile = crate::shared!(f32; 2 * THREADS);
        let leaf = LeafChannel::here(images, rows_per_image, channels);
        let chunk = |start, end| {
            let add = |[s]: [f32; 1], [x]: [f32; 1]| [s + x];
            let [sum] = chain(start, end, |row| [x.get(leaf.at(row))], add);
            let mean = sum / (end - start) as f32;
            let square = |[s]: [f32; 1], [d]: [f32; 1]| [Real::mul_add(d, d, s)];
            let [m2] = chain(start, end, |row| [x.get(leaf.at(row)) - mean], square);
            [mean, m2]
        };
        let [m, q] = leaf.fold_chunks(tile, chunk, |a, b, start, end| merge(a, b, start as f64, (end - start) as f64));
        if leaf.channel().is_some() && thread_idx().y == 0 {
            mean.set(leaf.result(), m);
            m2.set(leaf.result(), q);
        }
    }

    /// Merges each 256 consecutive leaves of mean and m2 `[leaves, channels]` in the tree. A leaf has `rows_per_leaf`
    /// rows, the last what is left of `rows`; for the next launch a leaf has 256 times as many.
    batch_stats_fold(
        mean: In<f32>[leaves * channels],
        m2: In<f32>[leaves * channels],
        mean_out: Out<f32>[leaves.div_ceil(FOLD as u64) * channels],
        m2_out: Out<f32>[leaves.div_ceil(FOLD as u64) * channels],
        leaves: u32,
        channels: u32,
        rows_per_leaf: u32,
        rows: u32,
    )
    grid [channels.div_ceil(fold_block(leaves)[0]), leaves.div_ceil(FOLD as u64)]
    block [fold_block(leaves)[0], fold_block(leaves)[1]]
    cost { flop: 7 * leaves * channels, special: 2 * leaves * channels }
    cases batch_stats_fold_cases
    {
        let tile = crate::shared!(f32; 2 * THREADS);
        // In f64, where counts are exact and a node past the last leaf, which is not used, cannot wrap around.
        let (each, rows) = (rows_per_leaf as f64, rows as f64);
        let join = |a, b, first: u32, span: u32| {
            let (na, left) = (span as f64 * each, rows - (first + span) as f64 * each);
            merge(a, b, na, if left < na { left } else { na })
        };
        let put = |i, [m, q]: [f32; 2]| {
            mean_out.set(i, m);
            m2_out.set(i, q);
        };
        fold_leaves(leaves, channels, tile, |i| [mean.get(i), m2.get(i)], join, put);
    }

    /// Merges the moments of `rows_b` rows into those of the `rows_a` rows before them, per channel.
    batch_stats_merge(
        mean: InOut<f32>[channels],
        m2: InOut<f32>[channels],
        mean_b: In<f32>[channels],
        m2_b: In<f32>[channels],
        channels: u32,
        rows_a: u64,
        rows_b: u64,
    )
    grid [channels.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 7 * channels, special: 2 * channels }
    cases batch_stats_merge_cases
    {
        let c = block_idx().x * THREADS + thread_idx().x;
        if within(c, channels) {
            let (a, b) = ([mean.get(c), m2.get(c)], [mean_b.get(c), m2_b.get(c)]);
            let [m, q] = merge(a, b, rows_a as f64, rows_b as f64);
            mean.set(c, m);
            m2.set(c, q);
        }
    }

    /// rstd = 1 / sqrt(variance + eps), per channel.
    reciprocal_std(variance: In<f32>[channels], rstd: Out<f32>[channels], channels: u32, eps: f32)
    grid [channels.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: channels, special: 2 * channels }
    cases reciprocal_std_cases
    {
        let c = block_idx().x * THREADS + thread_idx().x;
        if within(c, channels) {
            rstd.set(c, Real::rsqrt(variance.get(c) + eps));
        }
    }

    /// y = fma(x - mean, gamma rstd, beta) of x `[rows, channels]`, then + residual, then relu, the last two where asked
    /// for.
    batch_norm_apply(
        x: In<f32>[rows * channels],
        mean: In<f32>[channels],
        rstd: In<f32>[channels],
        gamma: In<f32>[has_gamma.min(1) * channels],
        beta: In<f32>[has_beta.min(1) * channels],
        residual: In<f32>[has_residual.min(1) * rows * channels],
        y: Out<f32>[rows * channels],
        rows: u32,
        channels: u32,
        has_gamma: u32,
        has_beta: u32,
        has_residual: u32,
        relu: u32,
    )
    grid [rows.div_ceil(TILE_ROWS as u64), channels.div_ceil(TILE as u64)] block [TILE, SIDE]
    cost { flop: 5 * rows * channels }
    cases batch_norm_apply_cases
    {
        let c = block_idx().y * TILE + thread_idx().x;
        if within(c, channels) {
            let (mean, rstd) = (mean.get(c), rstd.get(c));
            let scale = if has_gamma != 0 { gamma.get(c) * rstd } else { rstd };
            let beta = if has_beta != 0 { beta.get(c) } else { 0.0 };
            let mut results = [0.0; ROWS_EACH];
            my_rows(rows, channels, c, |i, at| {
                let normal = Real::mul_add(x.get(at) - mean, scale, beta);
                let sum = if has_residual != 0 { normal + residual.get(at) } else { normal };
                results[i] = if relu != 0 { Real::relu(sum) } else { sum };
            });
            my_rows(rows, channels, c, |i, at| y.set(at, results[i]));
        }
    }

    /// Per channel, the sums over the rows of each leaf of dy (dbeta) and of dy (x - mean) rstd (dgamma). Where
    /// `masked`, dy counts where y > 0: y is the result of a fused relu.
    batch_norm_grad_sums_leaves(
        dy: In<f32>[images * rows_per_image * channels],
        x: In<f32>[images * rows_per_image * channels],
        y: In<f32>[masked.min(1) * images * rows_per_image * channels],
        mean: In<f32>[channels],
        rstd: In<f32>[channels],
        dbeta: Out<f32>[leaves(images) * channels],
        dgamma: Out<f32>[leaves(images) * channels],
        images: u32,
        rows_per_image: u32,
        channels: u32,
        masked: u32,
    )
    grid [channels.div_ceil(channel_tile(rows_per_image)), leaves(images)]
    block [channel_tile(rows_per_image), chains(rows_per_image)]
    cost { flop: 5 * images * rows_per_image * channels }
    cases batch_norm_grad_sums_leaves_cases
    {
        let tile = crate::shared!(f32; 2 * THREADS);
        let leaf = LeafChannel::here(images, rows_per_image, channels);
        let [mean, rstd] = leaf.channel().map_or([0.0; 2], |c| [mean.get(c), rstd.get(c)]);
        let terms = |row| {
            let at = leaf.at(row);
            [masked_grad(dy, y, masked, at), (x.get(at) - mean) * rstd]
        };
        let step = |[b, g]: [f32; 2], [d, h]: [f32; 2]| [b + d, Real::mul_add(d, h, g)];
        let [b, g] = leaf.fold_chunks(tile, |start, end| chain(start, end, terms, step), add);
        if leaf.channel().is_some() && thread_idx().y == 0 {
            dbeta.set(leaf.result(), b);
            dgamma.set(leaf.result(), g);
        }
    }

    /// dx = scale fma(mean - x, slope, dy - shift) with scale = gamma rstd, shift = sum_dy / count, slope =
    /// (sum_dy_h / count) rstd; both are 0 unless `has_sums` (statistics that were constants). sum_dy and sum_dy_h are
    /// the totals of dbeta and dgamma over `count` rows. dy counts as in `batch_norm_grad_sums_leaves`; where
    /// `has_residual`, dresidual is dy as it counts.
    batch_norm_input_grad(
        dy: In<f32>[rows * channels],
        x: In<f32>[rows * channels],
        y: In<f32>[masked.min(1) * rows * channels],
        mean: In<f32>[channels],
        rstd: In<f32>[channels],
        gamma: In<f32>[has_gamma.min(1) * channels],
        sum_dy: In<f32>[has_sums.min(1) * channels],
        sum_dy_h: In<f32>[has_sums.min(1) * channels],
        dx: Out<f32>[rows * channels],
        dresidual: Out<f32>[has_residual.min(1) * rows * channels],
        rows: u32,
        channels: u32,
        count: f32,
        masked: u32,
        has_gamma: u32,
        has_sums: u32,
        has_residual: u32,
    )
    grid [rows.div_ceil(TILE_ROWS as u64), channels.div_ceil(TILE as u64)] block [TILE, SIDE]
    cost { flop: 6 * rows * channels, special: 2 * channels }
    cases batch_norm_input_grad_cases
    {
        let c = block_idx().y * TILE + thread_idx().x;
        if within(c, channels) {
            let (mean, rstd) = (mean.get(c), rstd.get(c));
            let scale = if has_gamma != 0 { gamma.get(c) * rstd } else { rstd };
            let (shift, slope) =
                if has_sums != 0 { (sum_dy.get(c) / count, sum_dy_h.get(c) / count * rstd) } else { (0.0, 0.0) };
            let (mut counted, mut results) = ([0.0; ROWS_EACH], [0.0; ROWS_EACH]);
            my_rows(rows, channels, c, |i, at| {
                counted[i] = masked_grad(dy, y, masked, at);
                results[i] = scale * Real::mul_add(mean - x.get(at), slope, counted[i] - shift);
            });
            my_rows(rows, channels, c, |i, at| {
                dx.set(at, results[i]);
                if has_residual != 0 {
                    dresidual.set(at, counted[i]);
                }
            });
        }
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::super::samples::cases::{FOLDS, SHAPES, leaves_of, rows};
    use super::*;
    use crate::case::{Case, change, exactly, noise};
    use crate::reference::{self, Chain, Moments, Samples};
    use crate::tree::fold_tree;

    const EPS: f32 = 1e-5;

    pub(super) fn batch_stats_leaves_cases() -> Vec<Case> {
        let case = |shape: [usize; 3]| {
            let (x, [images, rows_per_image, c]) = (noise(shape.iter().product(), 1), shape);
            let leaf = |leaf: (Samples, usize)| reference::batch_stats(leaf.0, c, rows(leaf, c, &x));
            let moments: Vec<Moments<f32>> = leaves_of(images, rows_per_image).flat_map(leaf).collect();
            let mean = exactly(moments.iter().map(|m| m.mean).collect());
            let m2 = exactly(moments.iter().map(|m| m.m2).collect());
            let [images, rows_per_image, channels] = shape.map(|n| n as u32);
            batch_stats_leaves::TestCase { x, mean, m2, images, rows_per_image, channels }.named(format!("{shape:?}"))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn batch_stats_fold_cases() -> Vec<Case> {
        let case = |(leaves, c): (usize, usize)| {
            let (each, last) = (LEAF * 9, 5);
            let total = (leaves - 1) * each + last;
            let (mean, m2) = (noise(leaves * c, 2), noise(leaves * c, 3));
            let leaf = |i: usize, j: usize| Moments {
                count: if i + 1 < leaves { each } else { last },
                mean: mean[i * c + j],
                m2: m2[i * c + j],
            };
            let part = |first: usize, j: usize| {
                let count = (leaves - first).min(FOLD as usize);
                fold_tree(count, &mut |i| leaf(first + i, j), &mut Moments::merge).expect("at least one leaf")
            };
            let parts = (0..leaves).step_by(FOLD as usize).flat_map(|first| (0..c).map(move |j| (first, j)));
            let moments: Vec<Moments<f32>> = parts.map(|(first, j)| part(first, j)).collect();
            let mean_out = exactly(moments.iter().map(|m| m.mean).collect());
            let m2_out = exactly(moments.iter().map(|m| m.m2).collect());
            let [leaves, channels, rows_per_leaf, rows] = [leaves, c, each, total].map(|n| n as u32);
            batch_stats_fold::TestCase { mean, m2, mean_out, m2_out, leaves, channels, rows_per_leaf, rows }
                .named(format!("{leaves} x {channels}"))
        };
        FOLDS.map(case).into()
    }

    pub(super) fn batch_stats_merge_cases() -> Vec<Case> {
        let case = |(c, na, nb): (usize, usize, usize)| {
            let [mean, m2, mean_b, m2_b] = [4, 5, 6, 7].map(|seed| noise(c, seed));
            let merged: Vec<Moments<f32>> = (0..c)
                .map(|j| {
                    let a = Moments { count: na, mean: mean[j], m2: m2[j] };
                    a.merge(Moments { count: nb, mean: mean_b[j], m2: m2_b[j] })
                })
                .collect();
            let mean = change(mean, exactly(merged.iter().map(|m| m.mean).collect()));
            let m2 = change(m2, exactly(merged.iter().map(|m| m.m2).collect()));
            let (rows_a, rows_b) = (na as u64, nb as u64);
            batch_stats_merge::TestCase { mean, m2, mean_b, m2_b, channels: c as u32, rows_a, rows_b }
                .named(format!("{c} channels, {na} and {nb} rows"))
        };
        [(1, 16, 16), (300, 4096, 7), (33, 5_000_000_000, 3)].map(case).into()
    }

    pub(super) fn reciprocal_std_cases() -> Vec<Case> {
        let case = |c: usize| {
            let variance: Vec<f32> = noise(c, 8).iter().map(|x| x * x).collect();
            let rstd = exactly(variance.iter().map(|v| Real::rsqrt(v + EPS)).collect());
            reciprocal_std::TestCase { variance, rstd, channels: c as u32, eps: EPS }.named(format!("{c} channels"))
        };
        [1, 257].map(case).into()
    }

    /// `values` if there are any to pass, else what must not be read.
    fn passed(values: &Option<Vec<f32>>) -> (Vec<f32>, u32) {
        (values.clone().unwrap_or_else(|| vec![f32::NAN]), u32::from(values.is_some()))
    }

    /// (rows, channels) of the passes over elements: one block and several in both directions, ragged.
    const ELEMENTS: [(usize, usize); 4] = [(1, 1), (65, 33), (64, 32), (130, 3)];

    pub(super) fn batch_norm_apply_cases() -> Vec<Case> {
        let case = |(k, (rows, c)): (usize, (usize, usize))| {
            let n = rows * c;
            let mut x = noise(n, 9);
            x[n / 2] = f32::NAN;
            let [mean, rstd] = [10, 11].map(|seed| noise(c, seed));
            let gamma = (k % 2 == 0).then(|| noise(c, 12));
            let beta = (k % 3 == 0).then(|| noise(c, 13));
            let residual = (k % 4 >= 2).then(|| noise(n, 14));
            let relu = (k / 2) % 2 == 0;
            let y = (0..n).map(|i| {
                let j = i % c;
                let scale = gamma.as_ref().map_or(rstd[j], |gamma| gamma[j] * rstd[j]);
                let normal = Real::mul_add(x[i] - mean[j], scale, beta.as_ref().map_or(0.0, |beta| beta[j]));
                let sum = residual.as_ref().map_or(normal, |residual| normal + residual[i]);
                if relu { Real::relu(sum) } else { sum }
            });
            let y = exactly(y.collect());
            let ((gamma, has_gamma), (beta, has_beta)) = (passed(&gamma), passed(&beta));
            let (residual, has_residual) = passed(&residual);
            let (rows, channels, relu) = (rows as u32, c as u32, u32::from(relu));
            batch_norm_apply::TestCase {
                x,
                mean,
                rstd,
                gamma,
                beta,
                residual,
                y,
                rows,
                channels,
                has_gamma,
                has_beta,
                has_residual,
                relu,
            }
            .named(format!("{rows} x {channels}, variant {k}"))
        };
        ELEMENTS.into_iter().chain(ELEMENTS).enumerate().map(case).collect()
    }

    /// What counts of dy.
    fn counted(dy: &[f32], y: &Option<Vec<f32>>) -> Vec<f32> {
        let counts = |i: usize| y.as_ref().is_none_or(|y| y[i] > 0.0);
        dy.iter().enumerate().map(|(i, &dy)| if counts(i) { dy } else { 0.0 }).collect()
    }

    /// A relu's result.
    fn rectified(n: usize) -> Vec<f32> {
        noise(n, 15).into_iter().map(Real::relu).collect()
    }

    pub(super) fn batch_norm_grad_sums_leaves_cases() -> Vec<Case> {
        let case = |(k, shape): (usize, [usize; 3])| {
            let ([images, rows_per_image, c], n) = (shape, shape.iter().product());
            let (dy, x, y) = (noise(n, 16), noise(n, 17), (k % 2 == 0).then(|| rectified(n)));
            let [mean, rstd] = [18, 19].map(|seed| noise(c, seed));
            let d = counted(&dy, &y);
            let leaf = |(samples, first): (Samples, usize)| {
                let sums = (0..c).map(|j| {
                    let (mut b, mut g) = (Chain::new(), Chain::new());
                    for position in 0..samples.images * samples.rows_per_image {
                        let i = (first + position) * c + j;
                        b.add(position, d[i]);
                        g.fma(position, d[i], (x[i] - mean[j]) * rstd[j]);
                    }
                    (b.finish(), g.finish())
                });
                sums.collect::<Vec<_>>()
            };
            let (dbeta, dgamma) = leaves_of(images, rows_per_image).flat_map(leaf).unzip();
            let (dbeta, dgamma) = (exactly(dbeta), exactly(dgamma));
            let (y, masked) = passed(&y);
            let [images, rows_per_image, channels] = shape.map(|n| n as u32);
            batch_norm_grad_sums_leaves::TestCase {
                dy,
                x,
                y,
                mean,
                rstd,
                dbeta,
                dgamma,
                images,
                rows_per_image,
                channels,
                masked,
            }
            .named(format!("{shape:?}, masked {masked}"))
        };
        SHAPES.into_iter().enumerate().map(case).collect()
    }

    pub(super) fn batch_norm_input_grad_cases() -> Vec<Case> {
        let case = |(k, (rows, c)): (usize, (usize, usize))| {
            let n = rows * c;
            let (dy, x, y) = (noise(n, 20), noise(n, 21), (k % 2 == 0).then(|| rectified(n)));
            let [mean, rstd] = [22, 23].map(|seed| noise(c, seed));
            let gamma = (k % 3 == 0).then(|| noise(c, 24));
            let sums = (k % 4 < 2).then(|| [25, 26].map(|seed| noise(c, seed)));
            let (has_residual, count) = (k % 5 < 2, 3.0 * rows as f32);
            let d = counted(&dy, &y);
            let dx = (0..n).map(|i| {
                let j = i % c;
                let scale = gamma.as_ref().map_or(rstd[j], |gamma| gamma[j] * rstd[j]);
                let [shift, slope] =
                    sums.as_ref().map_or([0.0; 2], |[dy, dy_h]| [dy[j] / count, dy_h[j] / count * rstd[j]]);
                scale * Real::mul_add(mean[j] - x[i], slope, d[i] - shift)
            });
            let dx = exactly(dx.collect());
            let (gamma, has_gamma) = passed(&gamma);
            let (sum_dy, has_sums) = passed(&sums.as_ref().map(|[dy, _]| dy.clone()));
            let (sum_dy_h, _) = passed(&sums.map(|[_, dy_h]| dy_h));
            let (y, masked) = passed(&y);
            let dresidual = exactly(if has_residual { d } else { Vec::new() });
            let (rows, channels, has_residual) = (rows as u32, c as u32, u32::from(has_residual));
            batch_norm_input_grad::TestCase {
                dy,
                x,
                y,
                mean,
                rstd,
                gamma,
                sum_dy,
                sum_dy_h,
                dx,
                dresidual,
                rows,
                channels,
                count,
                masked,
                has_gamma,
                has_sums,
                has_residual,
            }
            .named(format!("{rows} x {channels}, variant {k}"))
        };
        ELEMENTS.into_iter().chain(ELEMENTS).enumerate().map(case).collect()
    }
}
