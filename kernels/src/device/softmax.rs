//! Softmax, log-softmax and log-sum-exp of rows, forward and backward.
//!
//! A row is shifted by its largest element, or by 0 where that is infinite or NaN; a row of -infinity alone has
//! log-sum-exp -infinity and a NaN softmax. Rows go by `with_row!`: short ones stay in registers, and of
//! long ones the exponentials are computed by all threads of a block, so that only the additions are the first warp's.

use super::reduce::row::{self, Row, with_row};
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] =
    &[&softmax::SPEC, &softmax_grad::SPEC, &log_softmax::SPEC, &log_softmax_grad::SPEC, &log_sum_exp::SPEC];

/// What a row is shifted by before exponentials.
#[inline(always)]
fn shift(x: &impl Row<1>) -> f32 {
    let max = x.max(|[x]| x);
    if Real::is_finite(max) { max } else { 0.0 }
}

kernel! {
    /// Softmax of each row: exp(x - shift) / the sum of those by lanes.
    softmax(x: In<f32>[rows * cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [row::blocks(rows, cols)] block [row::THREADS]
    cost { flop: 3 * rows * cols, special: 2 * rows * cols }
    cases softmax_cases
    {
        with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |x| {
            let shift = shift(&x);
            let powers = x.map(|_, [x]| [Real::exp(x - shift)]);
            let sum = powers.sum(|[e]| e);
            powers.store(|_, [e]| e / sum, |j, value| y.set(row * cols + j, value));
        });
    }

    /// dx of softmax from its result: y (dy - the sum of y dy by lanes).
    softmax_grad(y: In<f32>[rows * cols], dy: In<f32>[rows * cols], dx: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [row::blocks(rows, cols)] block [row::THREADS]
    cost { flop: 4 * rows * cols }
    cases softmax_grad_cases
    {
        with_row!(rows, cols, |row, j| [y.get(row * cols + j), dy.get(row * cols + j)], |values| {
            let dot = values.dot(|factors| factors);
            values.store(|_, [y, dy]| y * (dy - dot), |j, value| dx.set(row * cols + j, value));
        });
    }

    /// The logarithm of softmax: (x - shift) - log of the sum of exp(x - shift).
    log_softmax(x: In<f32>[rows * cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [row::blocks(rows, cols)] block [row::THREADS]
    cost { flop: 5 * rows * cols, special: rows * cols + rows }
    cases log_softmax_cases
    {
        with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |x| {
            let shift = shift(&x);
            let log_sum = Real::log(x.sum(|[x]| Real::exp(x - shift)));
            x.store(|_, [x]| (x - shift) - log_sum, |j, value| y.set(row * cols + j, value));
        });
    }

    /// dx of log-softmax from its result: fma(-exp(y), the sum of dy by lanes, dy).
    log_softmax_grad(y: In<f32>[rows * cols], dy: In<f32>[rows * cols], dx: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [row::blocks(rows, cols)] block [row::THREADS]
    cost { flop: 3 * rows * cols, special: rows * cols }
    cases log_softmax_grad_cases
    {
        with_row!(rows, cols, |row, j| [y.get(row * cols + j), dy.get(row * cols + j)], |values| {
            let sum = values.sum(|[_, dy]| dy);
            values.store(|_, [y, dy]| Real::mul_add(-Real::exp(y), sum, dy), |j, value| dx.set(row * cols + j, value));
        });
    }

    /// shift + log of the sum of exp(x - shift), of each row; -infinity for rows without elements.
    log_sum_exp(x: In<f32>[rows * cols], y: Out<f32>[rows], rows: u32, cols: u32)
    grid [row::blocks(rows, cols)] block [row::THREADS]
    cost { flop: 3 * rows * cols, special: rows * cols + rows }
    cases log_sum_exp_cases
    {
        with_row!(rows, cols, |row, j| [x.get(row * cols + j)], |x| {
            let shift = shift(&x);
            let sum = x.sum(|[x]| Real::exp(x - shift));
            x.once(|| y.set(row, shift + Real::log(sum)));
        });
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::device::reduce::row::cases::{SHAPES, by_row, extremes, rows_with_edges};
    use crate::reference;

    /// Logits of every shape: noise, and in some rows infinities, NaN and zeros of both signs.
    fn logits() -> impl Iterator<Item = (usize, usize, Vec<f32>)> {
        SHAPES.into_iter().map(|(rows, cols)| (rows, cols, rows_with_edges(rows, cols))).chain(extremes())
    }

    pub(super) fn softmax_cases() -> Vec<Case> {
        let case = |(rows, cols, x): (usize, usize, Vec<f32>)| {
            let y = by_row(&x, rows, cols, reference::softmax);
            softmax::TestCase { x, y: exactly(y), rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        };
        logits().map(case).collect()
    }

    pub(super) fn log_softmax_cases() -> Vec<Case> {
        let case = |(rows, cols, x): (usize, usize, Vec<f32>)| {
            let y = by_row(&x, rows, cols, reference::log_softmax);
            log_softmax::TestCase { x, y: exactly(y), rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        };
        logits().map(case).collect()
    }

    pub(super) fn log_sum_exp_cases() -> Vec<Case> {
        let case = |(rows, cols, x): (usize, usize, Vec<f32>)| {
            let y = by_row(&x, rows, cols, |x| vec![reference::log_sum_exp(x)]);
            log_sum_exp::TestCase { x, y: exactly(y), rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        };
        logits().chain([(3, 0, Vec::new())]).map(case).collect()
    }

    pub(super) fn softmax_grad_cases() -> Vec<Case> {
        let case = |(rows, cols, y, dy): (usize, usize, Vec<f32>, Vec<f32>)| {
            let dx = y.chunks(cols).zip(dy.chunks(cols)).flat_map(|(y, dy)| {
                let dot = reference::lane_dot(y, dy);
                y.iter().zip(dy).map(move |(y, dy)| y * (dy - dot))
            });
            let dx = exactly(dx.collect());
            softmax_grad::TestCase { y, dy, dx, rows: rows as u32, cols: cols as u32 }.named(format!("{rows} x {cols}"))
        };
        let noisy = SHAPES.map(|(rows, cols)| {
            let y = by_row(&noise(rows * cols, 1), rows, cols, reference::softmax);
            (rows, cols, y, noise(rows * cols, 2))
        });
        // Products that underflow to -0: their sum is -0, which zeros among dy show in the result.
        let tiny = [17, 300, 1100].map(|cols| {
            let dy = (0..cols).map(|j| if j % 3 == 0 { -0.0 } else { -1e-30 }).collect();
            (1, cols, vec![1e-30; cols], dy)
        });
        noisy.into_iter().chain(tiny).map(case).collect()
    }

    pub(super) fn log_softmax_grad_cases() -> Vec<Case> {
        let case = |(rows, cols)| {
            let (logits, dy) = (noise(rows * cols, 1), noise(rows * cols, 2));
            let y = by_row(&logits, rows, cols, reference::log_softmax);
            let dx = y.chunks(cols).zip(dy.chunks(cols)).flat_map(|(y, dy)| {
                let sum = reference::lane_sum(dy);
                y.iter().zip(dy).map(move |(&y, &dy)| Real::mul_add(-Real::exp(y), sum, dy))
            });
            let dx = exactly(dx.collect());
            log_softmax_grad::TestCase { y, dy, dx, rows: rows as u32, cols: cols as u32 }
                .named(format!("{rows} x {cols}"))
        };
        SHAPES.map(case).into()
    }
}
