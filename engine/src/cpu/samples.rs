//! Loops over the rows of one leaf of a sample tree: sums, products, statistics per channel.
//!
//! Rows are cut into nominal chunks of `CHUNK`; a chunk is one chain per channel, chunk results are combined in order.
//! Channels are independent, so they go in blocks that stay in registers while the rows stream by.

use crate::order::CHUNK;
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;

/// Channels per block: four AVX-512 registers of f32 hide the latency of the chain.
const BLOCK: usize = 64;

/// Folds the rows of the operands `[rows, c]` per channel: `step(acc, row's values, the channel's constants)`.
///
/// Blocks are taken as slices of constant length, so that no bounds are checked inside.
#[inline(always)]
fn chains<T: Real, const N: usize, const M: usize>(
    operands: [&[T]; N],
    constants: [&[T]; M],
    c: usize,
    out: &mut [T],
    step: impl Fn(T, [T; N], [T; M]) -> T,
) {
    let rows = operands[0].len() / c;
    let whole = c - c % BLOCK;
    for first in (0..whole).step_by(BLOCK) {
        let mut acc = [T::ZERO; BLOCK];
        let constants = constants.map(|k| &k[first..first + BLOCK]);
        for row in 0..rows {
            let at = row * c + first;
            let values = operands.map(|x| &x[at..at + BLOCK]);
            for j in 0..BLOCK {
                acc[j] = step(acc[j], values.map(|x| x[j]), constants.map(|k| k[j]));
            }
        }
        out[first..first + BLOCK].copy_from_slice(&acc);
    }
    let (rest, out) = (c - whole, &mut out[whole..c]);
    let constants = constants.map(|k| &k[whole..c]);
    out.fill(T::ZERO);
    for row in 0..rows {
        let at = row * c + whole;
        let values = operands.map(|x| &x[at..at + rest]);
        for j in 0..rest {
            out[j] = step(out[j], values.map(|x| x[j]), constants.map(|k| k[j]));
        }
    }
}

/// Sums a leaf chunk by chunk: the first chunk's chains start `out`, later ones are added.
#[inline(always)]
fn leaf<T: Real, const N: usize>(operands: [&[T]; N], c: usize, out: &mut [T], step: impl Fn(T, [T; N]) -> T) {
    let rows = operands[0].len() / c;
    let chunk = |start: usize| operands.map(|x| &x[start * c..rows.min(start + CHUNK) * c]);
    chains(
        chunk(0),
        [],
        c,
        out,
        #[inline(always)]
        |acc, x, []| step(acc, x),
    );
    let mut part = vec![T::ZERO; if rows > CHUNK { c } else { 0 }];
    for start in (CHUNK..rows).step_by(CHUNK) {
        chains(
            chunk(start),
            [],
            c,
            &mut part,
            #[inline(always)]
            |acc, x, []| step(acc, x),
        );
        for (sum, p) in out.iter_mut().zip(&part) {
            *sum += *p;
        }
    }
}

stamp! {
    /// Per channel, the sum over the rows of a leaf: `x` is `[rows, c]`, `out` is `[c]`.
    pub(crate) fn leaf_sum<T: Real>(x: &[T], c: usize, out: &mut [T]) {
        leaf([x], c, out, #[inline(always)] |acc, [x]| acc + x);
    }

    /// Per channel, the sum over the rows of a leaf of `a · b`: a chain of fused multiply-adds.
    pub(crate) fn leaf_dot<T: Real>(a: &[T], b: &[T], c: usize, out: &mut [T]) {
        leaf([a, b], c, out, #[inline(always)] |acc, [a, b]| Real::mul_add(a, b, acc));
    }

    /// Per channel, mean and sum of squared deviations of the rows of a leaf, merged chunk by chunk.
    pub(crate) fn leaf_stats<T: Real>(x: &[T], c: usize, mean: &mut [T], m2: &mut [T]) {
        let rows = x.len() / c;
        let (mut chunk_mean, mut chunk_m2) = (vec![T::ZERO; c], vec![T::ZERO; c]);
        for start in (0..rows).step_by(CHUNK) {
            let end = rows.min(start + CHUNK);
            let count = T::from_f64((end - start) as f64);
            let chunk = &x[start * c..end * c];
            chains([chunk], [], c, &mut chunk_mean, #[inline(always)] |acc, [x], []| acc + x);
            for m in &mut chunk_mean {
                *m /= count;
            }
            chains([chunk], [&chunk_mean], c, &mut chunk_m2, #[inline(always)] |acc, [x], [mean]| {
                Real::mul_add(x - mean, x - mean, acc)
            });
            if start == 0 {
                mean.copy_from_slice(&chunk_mean);
                m2.copy_from_slice(&chunk_m2);
            } else {
                let (before, here) = (start as f64, (end - start) as f64);
                merge_moments(before, mean, m2, here, &chunk_mean, &chunk_m2);
            }
        }
    }

    /// y = (x - mean) · scale + beta per channel, then + residual, then relu, over whole rows.
    ///
    /// `residual` is empty when there is none.
    pub(crate) fn normalize_rows<T: Real>(
        x: &[T],
        mean: &[T],
        scale: &[T],
        beta: &[T],
        residual: &[T],
        relu: bool,
        y: &mut [T],
    ) {
        match (residual.is_empty(), relu) {
            (true, false) => affine_rows(x, mean, scale, beta, x, y, #[inline(always)] |v, _| v),
            (true, true) => affine_rows(x, mean, scale, beta, x, y, #[inline(always)] |v, _| Real::relu(v)),
            (false, false) => affine_rows(x, mean, scale, beta, residual, y, #[inline(always)] |v, r| v + r),
            (false, true) => affine_rows(x, mean, scale, beta, residual, y, #[inline(always)] |v, r| Real::relu(v + r)),
        }
    }

    /// Per channel over the rows of a leaf: the sums of `dy` and of `dy · (x - mean) · rstd`.
    ///
    /// `dy` counts only where `y > 0` when `y` is given (the backward of a fused relu); `y` is empty when there is none.
    pub(crate) fn leaf_norm_grads<T: Real>(
        dy: &[T],
        x: &[T],
        y: &[T],
        mean: &[T],
        rstd: &[T],
        dbeta: &mut [T],
        dgamma: &mut [T],
    ) {
        let c = mean.len();
        let rows = dy.len() / c;
        let (mut db, mut dg) = (vec![T::ZERO; c], vec![T::ZERO; c]);
        for start in (0..rows).step_by(CHUNK) {
            let range = start * c..rows.min(start + CHUNK) * c;
            let (dy, x) = (&dy[range.clone()], &x[range.clone()]);
            if y.is_empty() {
                norm_grad_chains(dy, x, x, mean, rstd, &mut db, &mut dg, #[inline(always)] |d, _| d);
            } else {
                norm_grad_chains(dy, x, &y[range], mean, rstd, &mut db, &mut dg,
                    #[inline(always)] |d, y| if y > T::ZERO { d } else { T::ZERO });
            }
            if start == 0 {
                dbeta.copy_from_slice(&db);
                dgamma.copy_from_slice(&dg);
            } else {
                for ((b, &p), (g, &q)) in dbeta.iter_mut().zip(&db).zip(dgamma.iter_mut().zip(&dg)) {
                    *b += p;
                    *g += q;
                }
            }
        }
        if rows == 0 {
            dbeta.fill(T::ZERO);
            dgamma.fill(T::ZERO);
        }
    }

    /// dx = scale · ((dy - shift) - (x - mean) · slope) per channel, over whole rows; `dy` masked by `y > 0` when `y`
    /// is given.
    pub(crate) fn norm_input_grad<T: Real>(
        dy: &[T],
        x: &[T],
        y: &[T],
        mean: &[T],
        scale: &[T],
        shift: &[T],
        slope: &[T],
        dx: &mut [T],
    ) {
        let c = mean.len();
        let [scale, shift, slope] = [scale, shift, slope].map(|k| &k[..c]);
        let rows = dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)).enumerate();
        for (r, ((dx, dy), x)) in rows {
            if y.is_empty() {
                for j in 0..c {
                    dx[j] = scale[j] * Real::mul_add(mean[j] - x[j], slope[j], dy[j] - shift[j]);
                }
            } else {
                let y = &y[r * c..(r + 1) * c];
                for j in 0..c {
                    let d = if y[j] > T::ZERO { dy[j] } else { T::ZERO };
                    dx[j] = scale[j] * Real::mul_add(mean[j] - x[j], slope[j], d - shift[j]);
                }
            }
        }
    }
}

/// One row at a time: `finish(value, residual)`; the residual is the row of `x` itself where there is none.
#[inline(always)]
fn affine_rows<T: Real>(
    x: &[T],
    mean: &[T],
    scale: &[T],
    beta: &[T],
    residual: &[T],
    y: &mut [T],
    finish: impl Fn(T, T) -> T,
) {
    let c = mean.len();
    let [scale, beta] = [scale, beta].map(|k| &k[..c]);
    for ((y, x), residual) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(residual.chunks_exact(c)) {
        for j in 0..c {
            y[j] = finish(Real::mul_add(x[j] - mean[j], scale[j], beta[j]), residual[j]);
        }
    }
}

/// The chains of one chunk of both backward sums; `mask(dy, y)` is the gradient that counts.
#[inline(always)]
fn norm_grad_chains<T: Real>(
    dy: &[T],
    x: &[T],
    y: &[T],
    mean: &[T],
    rstd: &[T],
    dbeta: &mut [T],
    dgamma: &mut [T],
    mask: impl Fn(T, T) -> T,
) {
    const HALF: usize = BLOCK / 2;
    let c = mean.len();
    let whole = c - c % HALF;
    for first in (0..whole).step_by(HALF) {
        let (mut b, mut g) = ([T::ZERO; HALF], [T::ZERO; HALF]);
        let (mean, rstd) = (&mean[first..first + HALF], &rstd[first..first + HALF]);
        for at in (first..dy.len()).step_by(c) {
            let [dy, x, y] = [dy, x, y].map(|v| &v[at..at + HALF]);
            for j in 0..HALF {
                let d = mask(dy[j], y[j]);
                b[j] += d;
                g[j] = Real::mul_add(d, (x[j] - mean[j]) * rstd[j], g[j]);
            }
        }
        dbeta[first..first + HALF].copy_from_slice(&b);
        dgamma[first..first + HALF].copy_from_slice(&g);
    }
    dbeta[whole..].fill(T::ZERO);
    dgamma[whole..].fill(T::ZERO);
    for row in (0..dy.len()).step_by(c) {
        for j in whole..c {
            let d = mask(dy[row + j], y[row + j]);
            dbeta[j] += d;
            dgamma[j] = Real::mul_add(d, (x[row + j] - mean[j]) * rstd[j], dgamma[j]);
        }
    }
}

/// Merges the moments of `nb` rows into those of `na` rows before them (Chan, Golub and LeVeque 1979).
#[inline(always)]
pub(crate) fn merge_moments<T: Real>(na: f64, mean: &mut [T], m2: &mut [T], nb: f64, mean_b: &[T], m2_b: &[T]) {
    let n = na + nb;
    let (share, weight) = (T::from_f64(nb / n), T::from_f64(na * nb / n));
    for ((mean, m2), (&mb, &qb)) in mean.iter_mut().zip(m2).zip(mean_b.iter().zip(m2_b)) {
        let delta = mb - *mean;
        *mean = Real::mul_add(delta, share, *mean);
        *m2 = Real::mul_add(delta * delta, weight, *m2 + qb);
    }
}
