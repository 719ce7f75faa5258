//! Reductions over samples: leaves of [`LEAF`] images, chunked chains inside, the tree above.

use super::Chain;
use crate::math::Real;
use crate::order::{CHUNK, LEAF};
use crate::tree::fold_tree;
use std::ops::Range;

/// How many images, and how many consecutive rows (pixels, tokens) each has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Images; the first stands on a leaf.
    pub images: usize,
    /// Rows of each image.
    pub rows_per_image: usize,
}

impl Samples {
    /// Leaves; the last may be ragged.
    pub fn leaves(&self) -> usize {
        self.images.div_ceil(LEAF)
    }

    /// The rows of leaf `leaf`.
    pub fn leaf_rows(&self, leaf: usize) -> Range<usize> {
        leaf * LEAF * self.rows_per_image..self.images.min((leaf + 1) * LEAF) * self.rows_per_image
    }
}

/// One sum over samples: `term(sum, position, row)` adds what `row` contributes to the chain of its leaf, `position`
/// being the row counted from the leaf's first. Leaves are added in the tree; no images give +0.
pub(super) fn fold_samples<T: Real>(samples: Samples, mut term: impl FnMut(&mut Chain<T>, usize, usize)) -> T {
    let mut leaf = |leaf| {
        let mut sum = Chain::new();
        for (position, row) in samples.leaf_rows(leaf).enumerate() {
            term(&mut sum, position, row);
        }
        sum.finish()
    };
    fold_tree(samples.leaves(), &mut leaf, &mut |a, b| a + b).unwrap_or(T::ZERO)
}

/// The sum over rows of x `[rows, c]` per channel: bias gradients, loss sums. In a leaf a [`Chain`] of additions.
pub fn rows_sum<T: Real>(samples: Samples, c: usize, x: &[T]) -> Vec<T> {
    (0..c).map(|j| fold_samples(samples, |sum, position, row| sum.add(position, x[row * c + j]))).collect()
}

/// The sum over rows of a b, both `[rows, c]`, per channel. In a leaf a [`Chain`] of fused multiply-adds.
pub fn rows_dot<T: Real>(samples: Samples, c: usize, a: &[T], b: &[T]) -> Vec<T> {
    let term = |j| move |sum: &mut Chain<T>, position, row: usize| sum.fma(position, a[row * c + j], b[row * c + j]);
    (0..c).map(|j| fold_samples(samples, term(j))).collect()
}

/// dw `[k, n]` = sum over rows of x `[rows, k]` times dy `[rows, n]`. In a leaf a [`Chain`] of fused multiply-adds
/// x dy.
pub fn linear_weight_grad<T: Real>(samples: Samples, k: usize, n: usize, x: &[T], dy: &[T]) -> Vec<T> {
    let mut dw = Vec::with_capacity(k * n);
    for i in 0..k {
        for j in 0..n {
            dw.push(fold_samples(samples, |sum, position, row| sum.fma(position, x[row * k + i], dy[row * n + j])));
        }
    }
    dw
}

/// Count, mean and sum of squared deviations of some rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments<T> {
    /// Rows.
    pub count: usize,
    /// Their mean.
    pub mean: T,
    /// Sum of squared deviations from the mean.
    pub m2: T,
}

impl<T: Real> Moments<T> {
    /// The moments of one chunk: mean = (chain of additions from +0) / n, then M2 as a chain of fused multiply-adds
    /// d d from +0 with d = x - mean.
    fn of_chunk(values: &[T]) -> Moments<T> {
        let sum = values.iter().fold(T::ZERO, |sum, &x| sum + x);
        let mean = sum / T::from_usize(values.len());
        let m2 = values.iter().fold(T::ZERO, |m2, &x| Real::mul_add(x - mean, x - mean, m2));
        Moments { count: values.len(), mean, m2 }
    }

    /// The moments of both sets of rows, `self` before `other` (Chan, Golub and LeVeque 1979).
    ///
    /// With share = nb / n and weight = (na nb) / n, computed in f64 and then rounded to T:
    /// delta = mean_b - mean_a; mean = fma(delta, share, mean_a); M2 = fma(delta delta, weight, M2_a + M2_b).
    pub fn merge(self, other: Moments<T>) -> Moments<T> {
        let (na, nb) = (self.count as f64, other.count as f64);
        let n = na + nb;
        let (share, weight) = (T::from_f64(nb / n), T::from_f64(na * nb / n));
        let delta = other.mean - self.mean;
        Moments {
            count: self.count + other.count,
            mean: Real::mul_add(delta, share, self.mean),
            m2: Real::mul_add(delta * delta, weight, self.m2 + other.m2),
        }
    }
}

/// Batch statistics of x `[rows, c]` per channel: in a leaf, the moments of each chunk of [`CHUNK`] rows merged in
/// order; leaves merged in the tree. Without rows: count 0, mean and M2 +0.
pub fn batch_stats<T: Real>(samples: Samples, c: usize, x: &[T]) -> Vec<Moments<T>> {
    let channel = |j: usize| {
        let mut leaf = |leaf| {
            let values: Vec<T> = samples.leaf_rows(leaf).map(|row| x[row * c + j]).collect();
            values.chunks(CHUNK).map(Moments::of_chunk).reduce(Moments::merge)
        };
        let mut merge = |a: Option<Moments<T>>, b: Option<Moments<T>>| a.zip(b).map(|(a, b)| a.merge(b));
        fold_tree(samples.leaves(), &mut leaf, &mut merge).flatten().unwrap_or(Moments {
            count: 0,
            mean: T::ZERO,
            m2: T::ZERO,
        })
    };
    (0..c).map(channel).collect()
}
