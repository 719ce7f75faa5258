//! Normalisation of rows: layer norm, group norm, division by the Euclidean norm; forward and backward.
//!
//! A row of layer norm is a row of memory. A row of group norm is a group of channels of an image, x being
//! `[images, pixels, groups, width]`: its elements are pixels, then channels of the group. Both do the same to a row.
//! An absent gamma is 1, an absent beta +0; their argument is then not read. Rows go by `with_row!`.

use super::reduce::row::{self, Row, THREADS, with_row};
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &layer_norm::SPEC,
    &layer_norm_grad::SPEC,
    &group_norm::SPEC,
    &group_norm_grad::SPEC,
    &normalized::SPEC,
    &l2_normalize::SPEC,
    &l2_normalize_grad::SPEC,
];

/// Element `i` of a parameter, or `absent` where there is none.
#[inline(always)]
fn parameter(values: In<f32>, present: u32, i: u32, absent: f32) -> f32 {
    if present != 0 { values.get(i) } else { absent }
}

/// mean = sum / n, variance = sum of (x - mean)^2 / n, both by lanes; rstd = 1 / sqrt(variance + eps);
/// y = fma((x - mean) rstd, gamma, beta). `affine` gives gamma and beta of a position, `stats` takes mean and rstd,
/// `put` the result.
#[inline(always)]
fn normalize_row(
    x: impl Row<1>,
    n: u32,
    eps: f32,
    affine: impl Fn(u32) -> [f32; 2],
    stats: impl FnOnce(f32, f32),
    put: impl Fn(u32, f32),
) {
    let mean = x.sum(|[x]| x) / n as f32;
    let variance = x.sum_sq(|[x]| x - mean) / n as f32;
    let rstd = Real::rsqrt(variance + eps);
    x.once(|| stats(mean, rstd));
    let normalize = |j, [x]: [f32; 1]| {
        let [gamma, beta] = affine(j);
        Real::mul_add((x - mean) * rstd, gamma, beta)
    };
    x.store(normalize, put);
}

/// dx = rstd fma(-h, mean of g h, g - mean of g) of elements (g, h) = (dy gamma, (x - mean) rstd); the means are sums
/// by lanes divided by n.
#[inline(always)]
fn normalize_row_grad(values: impl Row<2>, n: u32, rstd: f32, put: impl Fn(u32, f32)) {
    let mean_g = values.sum(|[g, _]| g) / n as f32;
    let mean_gh = values.dot(|factors| factors) / n as f32;
    values.store(|_, [g, h]| rstd * Real::mul_add(-h, mean_gh, g - mean_g), put);
}

/// Where the elements of this thread's group lie in `[images, pixels, groups, width]`.
#[derive(Clone, Copy)]
struct Group {
    /// The first element.
    first: u32,
    /// The first channel.
    channel: u32,
    channels: u32,
    width: u32,
}

impl Group {
    #[inline(always)]
    fn here([images, pixels, groups, width]: [u32; 4]) -> Group {
        let row = row::existing(images * groups, pixels * width);
        // Divisors that cannot be 0 spare the test for it; without groups or channels there is nothing to place.
        let (groups, width) = (groups.max(1), width.max(1));
        let (channels, channel) = (groups * width, row % groups * width);
        Group { first: row / groups * pixels * channels + channel, channel, channels, width }
    }

    /// Where element `j` lies.
    #[inline(always)]
    fn at(self, j: u32) -> u32 {
        self.first + j / self.width * self.channels + j % self.width
    }

    /// Its channel.
    #[inline(always)]
    fn channel(self, j: u32) -> u32 {
        self.channel + j % self.width
    }
}

kernel! {
    /// Layer norm of each row of x `[rows, cols]`; gamma and beta are `[cols]`, mean and rstd `[rows]`.
    layer_norm(
        x: In<f32>[rows * cols],
        gamma: In<f32>[has_gamma.min(1) * cols],
        beta: In<f32>[has_beta.min(1) * cols],
        y: Out<f32>[rows * cols],
        mean: Out<f32>[rows],
        rstd: Out<f32>[rows],
        rows: u32,
        cols: u32,
        eps: f32,
        has_gamma: u32,
        has_beta: u32,
    )
    grid [row::blocks(rows, cols)] block [THREADS]
    cost { flop: 8 * rows * cols, special: 4 * rows }
    cases layer_norm_cases
    {
        with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |values| {
            let affine = |j| [parameter(gamma, has_gamma, j, 1.0), parameter(beta, has_beta, j, 0.0)];
            let stats = |m, r| {
                mean.set(row, m);
                rstd.set(row, r);
            };
            normalize_row(values, cols, eps, affine, stats, |j, value| y.set(row * cols + j, value));
        });
    }

    /// dx of layer norm.
    layer_norm_grad(
        dy: In<f32>[rows * cols],
        x: In<f32>[rows * cols],
        mean: In<f32>[rows],
        rstd: In<f32>[rows],
        gamma: In<f32>[has_gamma.min(1) * cols],
        dx: Out<f32>[rows * cols],
        rows: u32,
        cols: u32,
        has_gamma: u32,
    )
    grid [row::blocks(rows, cols)] block [THREADS]
    cost { flop: 10 * rows * cols, special: 2 * rows }
    cases layer_norm_grad_cases
    {
        let row = row::existing(rows, cols);
        let stats = [mean.get(row), rstd.get(row)];
        let load = |i, j| {
            [dy.get(i) * parameter(gamma, has_gamma, j, 1.0), (x.get(i) - stats[0]) * stats[1]]
        };
        with_row!(rows, cols, |row, j| load(row * cols + j, j), |values| {
            normalize_row_grad(values, cols, stats[1], |j, value| dx.set(row * cols + j, value));
        });
    }

    /// Group norm of x `[images, pixels, groups, width]`; gamma and beta are `[groups, width]`, mean and rstd
    /// `[images, groups]`.
    group_norm(
        x: In<f32>[images * pixels * groups * width],
        gamma: In<f32>[has_gamma.min(1) * groups * width],
        beta: In<f32>[has_beta.min(1) * groups * width],
        y: Out<f32>[images * pixels * groups * width],
        mean: Out<f32>[images * groups],
        rstd: Out<f32>[images * groups],
        images: u32,
        pixels: u32,
        groups: u32,
        width: u32,
        eps: f32,
        has_gamma: u32,
        has_beta: u32,
    )
    grid [row::blocks(images * groups, pixels * width)] block [THREADS]
    cost { flop: 8 * images * pixels * groups * width, special: 4 * images * groups }
    cases group_norm_cases
    {
        let (rows, cols) = (images * groups, pixels * width);
        let group = Group::here([images, pixels, groups, width]);
        with_row!(rows, cols, |row, j| [x.get(group.at(j))], |values| {
            let affine = |j| {
                let c = group.channel(j);
                [parameter(gamma, has_gamma, c, 1.0), parameter(beta, has_beta, c, 0.0)]
            };
            let stats = |m, r| {
                mean.set(row, m);
                rstd.set(row, r);
            };
            normalize_row(values, cols, eps, affine, stats, |j, value| y.set(group.at(j), value));
        });
    }

    /// dx of group norm.
    group_norm_grad(
        dy: In<f32>[images * pixels * groups * width],
        x: In<f32>[images * pixels * groups * width],
        mean: In<f32>[images * groups],
        rstd: In<f32>[images * groups],
        gamma: In<f32>[has_gamma.min(1) * groups * width],
        dx: Out<f32>[images * pixels * groups * width],
        images: u32,
        pixels: u32,
        groups: u32,
        width: u32,
        has_gamma: u32,
    )
    grid [row::blocks(images * groups, pixels * width)] block [THREADS]
    cost { flop: 10 * images * pixels * groups * width, special: 2 * images * groups }
    cases group_norm_grad_cases
    {
        let (rows, cols) = (images * groups, pixels * width);
        let group = Group::here([images, pixels, groups, width]);
        let row = row::existing(rows, cols);
        let stats = [mean.get(row), rstd.get(row)];
        let load = |j| {
            let (i, c) = (group.at(j), group.channel(j));
            [dy.get(i) * parameter(gamma, has_gamma, c, 1.0), (x.get(i) - stats[0]) * stats[1]]
        };
        with_row!(rows, cols, |row, j| load(j), |values| {
            normalize_row_grad(values, cols, stats[1], |j, value| dx.set(group.at(j), value));
        });
    }

    /// h = (x - mean) rstd of x `[images, pixels, groups, width]`, mean and rstd `[images, groups]`; rows of layer norm
    /// are images of one pixel and one group.
    normalized(
        x: In<f32>[images * pixels * groups * width],
        mean: In<f32>[images * groups],
        rstd: In<f32>[images * groups],
        h: Out<f32>[images * pixels * groups * width],
        images: u32,
        pixels: u32,
        groups: u32,
        width: u32,
    )
    grid [(images * pixels * groups * width).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 2 * images * pixels * groups * width }
    cases normalized_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, images * pixels * groups * width) {
            // Divisors that cannot be 0 spare the test for it.
            let (image, groups, width) = ((pixels * groups * width).max(1), groups.max(1), width.max(1));
            let row = i / image * groups + i / width % groups;
            h.set(i, (x.get(i) - mean.get(row)) * rstd.get(row));
        }
    }

    /// y = x / norm of each row, norm = max(sqrt(sum of squares by lanes), eps).
    l2_normalize(
        x: In<f32>[rows * cols],
        y: Out<f32>[rows * cols],
        norm: Out<f32>[rows],
        rows: u32,
        cols: u32,
        eps: f32,
    )
    grid [row::blocks(rows, cols)] block [THREADS]
    cost { flop: 2 * rows * cols, special: rows * cols + rows }
    cases l2_normalize_cases
    {
        with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |values| {
            let divisor = Real::max(Real::sqrt(values.sum_sq(|[x]| x)), eps);
            values.once(|| norm.set(row, divisor));
            values.store(|_, [x]| x / divisor, |j, value| y.set(row * cols + j, value));
        });
    }

    /// dx of l2_normalize from its results: fma(-y, the sum of y dy by lanes, dy) / norm; dy / norm in rows whose norm
    /// was raised to `eps`.
    l2_normalize_grad(
        dy: In<f32>[rows * cols],
        y: In<f32>[rows * cols],
        norm: In<f32>[rows],
        dx: Out<f32>[rows * cols],
        rows: u32,
        cols: u32,
        eps: f32,
    )
    grid [row::blocks(rows, cols)] block [THREADS]
    cost { flop: 4 * rows * cols, special: rows * cols }
    cases l2_normalize_grad_cases
    {
        let norm = norm.get(row::existing(rows, cols));
        with_row!(rows, cols, |row, j| [y.get(row * cols + j), dy.get(row * cols + j)], |values| {
            let dot = values.dot(|factors| factors);
            let project = |_, [y, dy]: [f32; 2]| (if norm <= eps { dy } else { Real::mul_add(-y, dot, dy) }) / norm;
            values.store(project, |j, value| dx.set(row * cols + j, value));
        });
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::super::reduce::row::cases::{SHAPES, extremes, rows_with_edges};
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::reference;

    const EPS: f32 = 1e-5;

    /// Rows in memory: where element `j` of row `r` lies, and its channel.
    type Place<'a> = &'a dyn Fn(usize, usize) -> (usize, usize);

    /// (y, means, rstds) of rows of `cols` elements at `place`.
    fn normalize(x: &[f32], rows: usize, cols: usize, place: Place<'_>, affine: [&[f32]; 2]) -> [Vec<f32>; 3] {
        let mut y = vec![0.0; x.len()];
        let (mut means, mut rstds) = (Vec::new(), Vec::new());
        for r in 0..rows {
            let row: Vec<f32> = (0..cols).map(|j| x[place(r, j).0]).collect();
            let [gamma, beta] = affine.map(|p| (0..cols).map(|j| p[place(r, j).1]).collect::<Vec<_>>());
            let normalized = reference::layer_norm(&row, &gamma, &beta, EPS);
            normalized.y.into_iter().enumerate().for_each(|(j, v)| y[place(r, j).0] = v);
            means.push(normalized.mean);
            rstds.push(normalized.rstd);
        }
        [y, means, rstds]
    }

    /// dx of rows of `cols` elements at `place`.
    fn normalize_grad(
        [dy, x]: [&[f32]; 2],
        [means, rstds]: [&[f32]; 2],
        cols: usize,
        place: Place<'_>,
        gamma: &[f32],
    ) -> Vec<f32> {
        let mut dx = vec![0.0; x.len()];
        for (r, (&mean, &rstd)) in means.iter().zip(rstds).enumerate() {
            let at = |j: usize| place(r, j);
            let g: Vec<f32> = (0..cols).map(|j| dy[at(j).0] * gamma[at(j).1]).collect();
            let h: Vec<f32> = (0..cols).map(|j| (x[at(j).0] - mean) * rstd).collect();
            let mean_g = reference::lane_sum(&g) / cols as f32;
            let mean_gh = reference::lane_dot(&g, &h) / cols as f32;
            (0..cols).for_each(|j| dx[at(j).0] = rstd * Real::mul_add(-h[j], mean_gh, g[j] - mean_g));
        }
        dx
    }

    /// A parameter of noise, or what stands for an absent one with its flag.
    fn optional(present: bool, n: usize, seed: u64, absent: f32) -> (Vec<f32>, Vec<f32>, u32) {
        let values = if present { noise(n, seed) } else { vec![absent; n] };
        (if present { values.clone() } else { vec![f32::NAN] }, values, u32::from(present))
    }

    pub(super) fn layer_norm_cases() -> Vec<Case> {
        let case = |(i, (rows, cols)): (usize, (usize, usize))| {
            let x = rows_with_edges(rows, cols);
            let (gamma, g, has_gamma) = optional(i % 2 == 0, cols, 1, 1.0);
            let (beta, b, has_beta) = optional(i % 3 == 0, cols, 2, 0.0);
            let place = |r, j| (r * cols + j, j);
            let [y, mean, rstd] = normalize(&x, rows, cols, &place, [&g, &b]).map(exactly);
            let (rows, cols) = (rows as u32, cols as u32);
            layer_norm::TestCase { x, gamma, beta, y, mean, rstd, rows, cols, eps: EPS, has_gamma, has_beta }
                .named(format!("{rows} x {cols}, gamma {has_gamma}, beta {has_beta}"))
        };
        SHAPES.into_iter().enumerate().map(case).collect()
    }

    pub(super) fn layer_norm_grad_cases() -> Vec<Case> {
        let case = |(i, (rows, cols)): (usize, (usize, usize))| {
            let (x, dy) = (noise(rows * cols, 3), noise(rows * cols, 4));
            let (gamma, g, has_gamma) = optional(i % 2 == 1, cols, 1, 1.0);
            let place = |r, j| (r * cols + j, j);
            let [_, mean, rstd] = normalize(&x, rows, cols, &place, [&g, &g]);
            let dx = exactly(normalize_grad([&dy, &x], [&mean, &rstd], cols, &place, &g));
            let (rows, cols) = (rows as u32, cols as u32);
            layer_norm_grad::TestCase { dy, x, mean, rstd, gamma, dx, rows, cols, has_gamma }
                .named(format!("{rows} x {cols}, gamma {has_gamma}"))
        };
        SHAPES.into_iter().enumerate().map(case).collect()
    }

    /// [images, pixels, groups, width]: rows held (several blocks) and in batches, one group and groups of one channel, a
    /// last batch of one element.
    const GROUPS: [[usize; 4]; 5] = [[2, 9, 3, 5], [5, 3, 7, 1], [1, 70, 2, 4], [3, 1, 1, 17], [1, 257, 1, 1]];

    /// Where element `j` of row (image, group) lies, and its channel.
    fn group_place([_, pixels, groups, width]: [usize; 4]) -> impl Fn(usize, usize) -> (usize, usize) {
        move |r, j| {
            let (image, group, pixel, channel) = (r / groups, r % groups, j / width, j % width);
            (((image * pixels + pixel) * groups + group) * width + channel, group * width + channel)
        }
    }

    pub(super) fn group_norm_cases() -> Vec<Case> {
        let case = |(i, shape): (usize, [usize; 4])| {
            let [images, pixels, groups, width] = shape;
            let x = noise(shape.iter().product(), 5);
            let (gamma, g, has_gamma) = optional(i % 2 == 0, groups * width, 1, 1.0);
            let (beta, b, has_beta) = optional(i % 3 == 0, groups * width, 2, 0.0);
            let results = normalize(&x, images * groups, pixels * width, &group_place(shape), [&g, &b]);
            let [y, mean, rstd] = results.map(exactly);
            let [images, pixels, groups, width] = shape.map(|n| n as u32);
            group_norm::TestCase {
                x,
                gamma,
                beta,
                y,
                mean,
                rstd,
                images,
                pixels,
                groups,
                width,
                eps: EPS,
                has_gamma,
                has_beta,
            }
            .named(format!("{shape:?}, gamma {has_gamma}, beta {has_beta}"))
        };
        GROUPS.into_iter().enumerate().map(case).collect()
    }

    pub(super) fn group_norm_grad_cases() -> Vec<Case> {
        let case = |(i, shape): (usize, [usize; 4])| {
            let [images, pixels, groups, width] = shape;
            let n = shape.iter().product();
            let (x, dy, cols) = (noise(n, 6), noise(n, 7), pixels * width);
            let (gamma, g, has_gamma) = optional(i % 2 == 0, groups * width, 1, 1.0);
            let place = group_place(shape);
            let [_, mean, rstd] = normalize(&x, images * groups, cols, &place, [&g, &g]);
            let dx = exactly(normalize_grad([&dy, &x], [&mean, &rstd], cols, &place, &g));
            let [images, pixels, groups, width] = shape.map(|n| n as u32);
            group_norm_grad::TestCase { dy, x, mean, rstd, gamma, dx, images, pixels, groups, width, has_gamma }
                .named(format!("{shape:?}, gamma {has_gamma}"))
        };
        GROUPS.into_iter().enumerate().map(case).collect()
    }

    pub(super) fn normalized_cases() -> Vec<Case> {
        let case = |shape: [usize; 4]| {
            let [images, pixels, groups, width] = shape;
            let x = noise(shape.iter().product(), 8);
            let (mean, rstd) = (noise(images * groups, 9), noise(images * groups, 10));
            let place = group_place(shape);
            let mut h = vec![0.0; x.len()];
            for r in 0..images * groups {
                for at in (0..pixels * width).map(|j| place(r, j).0) {
                    h[at] = (x[at] - mean[r]) * rstd[r];
                }
            }
            let [images, pixels, groups, width] = shape.map(|n| n as u32);
            normalized::TestCase { x, mean, rstd, h: exactly(h), images, pixels, groups, width }
                .named(format!("{shape:?}"))
        };
        GROUPS.map(case).into()
    }

    /// Rows with one far below the eps of the cases.
    fn rows_with_a_short_one(rows: usize, cols: usize) -> Vec<f32> {
        let mut x = rows_with_edges(rows, cols);
        x[(rows - 1) * cols..].iter_mut().for_each(|x| *x *= 1e-9);
        x
    }

    pub(super) fn l2_normalize_cases() -> Vec<Case> {
        let case = |(rows, cols, x): (usize, usize, Vec<f32>)| {
            let y = exactly(x.chunks(cols).flat_map(|x| reference::l2_normalize(x, EPS)).collect());
            let norm = x.chunks(cols).map(|x| Real::max(Real::sqrt(reference::lane_sum_sq(x)), EPS));
            let norm = exactly(norm.collect());
            l2_normalize::TestCase { x, y, norm, rows: rows as u32, cols: cols as u32, eps: EPS }
                .named(format!("{rows} x {cols}"))
        };
        let with_short = SHAPES.into_iter().map(|(rows, cols)| (rows, cols, rows_with_a_short_one(rows, cols)));
        with_short.chain(extremes()).map(case).collect()
    }

    pub(super) fn l2_normalize_grad_cases() -> Vec<Case> {
        let case = |(rows, cols): (usize, usize)| {
            let (y, dy) = (noise(rows * cols, 11), noise(rows * cols, 12));
            // Every third row has the norm that eps gave it.
            let norm: Vec<f32> = (0..rows).map(|r| if r % 3 == 1 { EPS } else { 0.5 + r as f32 }).collect();
            let rows_of = y.chunks(cols).zip(dy.chunks(cols)).zip(&norm);
            let dx = rows_of.flat_map(|((y, dy), &norm)| {
                let dot = reference::lane_dot(y, dy);
                let project = move |(&y, &dy): (&f32, &f32)| {
                    if norm <= EPS { dy / norm } else { Real::mul_add(-y, dot, dy) / norm }
                };
                y.iter().zip(dy).map(project)
            });
            let dx = exactly(dx.collect());
            l2_normalize_grad::TestCase { dy, y, norm, dx, rows: rows as u32, cols: cols as u32, eps: EPS }
                .named(format!("{rows} x {cols}"))
        };
        SHAPES.map(case).into()
    }
}
