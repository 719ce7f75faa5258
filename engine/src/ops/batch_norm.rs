//! Batch normalisation over the channels of `[images, …, c]`: statistics as a sample tree, the affine pass, and both
//! backward passes. Relu and a residual addition can ride along without a pass of their own and without changing a bit.

use super::rows_sum::{channels, fold_leaves, folded_tree};
use super::{Binary, Float, Unary, binary_scalar, expect_same_shape, kernels_for, mul, span, unary, with_real};
use crate::cpu::past::Writing;
use crate::cpu::samples::{leaf_norm_grads, leaf_stats, merge_moments, norm_input_grad, normalize_rows};
use crate::gpu;
use crate::rows::Tree;
use crate::{Array, Device, Error, ErrorKind, Result, Rows, SampleSum};

/// Moments per channel of some rows.
#[derive(Clone, Debug)]
pub struct ChannelStats {
    /// Number of rows.
    pub count: u64,
    /// Mean, `[c]`.
    pub mean: Array,
    /// Sum of squared deviations from the mean, `[c]`.
    pub m2: Array,
}

impl ChannelStats {
    /// The moments of both sets of rows, `self` first in the batch (Chan's formula, see `NUMERICS.md`).
    ///
    /// # Errors
    /// `OutOfMemory`, or when the channels differ.
    pub fn merge(mut self, other: ChannelStats) -> Result<ChannelStats> {
        expect_same_shape("batch_norm", &self.mean, &other.mean)?;
        if let Some(gpu) = kernels_for(&self.mean).cloned() {
            return gpu::batch_norm::merge(&gpu, self, &other);
        }
        let (na, nb) = (self.count as f64, other.count as f64);
        with_real!("batch_norm", self.mean.dtype(), T, {
            let (mean, m2) = (self.mean.make_mut::<T>()?, self.m2.make_mut::<T>()?);
            merge_moments(na, mean, m2, nb, other.mean.as_slice()?, other.m2.as_slice()?);
            Ok(())
        })?;
        self.count += other.count;
        Ok(self)
    }

    /// Variance divided by the number of rows, `[c]`: what normalisation uses.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn variance(&self) -> Result<Array> {
        binary_scalar(Binary::Div, &self.m2, self.count as f64)
    }

    /// Variance divided by one less than the number of rows, `[c]`: what running statistics keep.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn unbiased_variance(&self) -> Result<Array> {
        binary_scalar(Binary::Div, &self.m2, (self.count.max(2) - 1) as f64)
    }
}

/// The moments seen so far of a batch.
pub type StatsTree = Tree<ChannelStats>;

impl StatsTree {
    /// Adds another micro-batch's or rank's nodes.
    ///
    /// # Errors
    /// `Numerics` when leaves repeat.
    pub fn merge(&mut self, other: StatsTree) -> Result<()> {
        other
            .into_blocks()
            .try_for_each(|(first, level, value)| self.insert(first, level, value, &mut ChannelStats::merge))
    }

    /// The moments of the whole batch.
    ///
    /// # Errors
    /// `Numerics` when leaves are missing.
    pub fn total(self) -> Result<ChannelStats> {
        self.finish(&mut ChannelStats::merge)
    }
}

/// Mean and squared deviations per channel of `x` `[images, …, c]`.
///
/// # Errors
/// `Shape` when `rows` does not describe `x`; `DType` unless f32 or f64.
pub fn channel_stats(x: &Array, rows: Rows) -> Result<StatsTree> {
    let _span = span("channel_stats", &[x], |n| (2 * rows.leaves() * n.checked_div(rows.len()).unwrap_or(0), 4 * n, 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::batch_norm::channel_stats(gpu, x, rows, channels("channel_stats", x, rows)?);
    }
    with_real!("channel_stats", x.dtype(), T, stats::<T>(x, rows))
}

fn stats<T: Float>(x: &Array, rows: Rows) -> Result<StatsTree> {
    let c = channels("channel_stats", x, rows)?;
    let x = x.contiguous()?;
    let values = x.as_slice::<T>()?;
    let leaves = rows.leaves();
    let mut m2 = Array::zeros(&[leaves, c], T::DTYPE, x.device())?;
    let mean = Array::build::<T>(x.device(), &[leaves, c], "batch_norm", |cpu, mean| {
        if c > 0 {
            cpu.workers().run_chunks2((mean, c), (m2.make_mut::<T>()?, c), |i, mean, m2| {
                let range = rows.leaf(i);
                leaf_stats(cpu.isa(), &values[range.start * c..range.end * c], c, mean, m2);
            });
        }
        Ok(())
    })?;
    let mut tree = StatsTree::default();
    for i in 0..leaves {
        let row = |a: &Array| a.slice(0, i, i + 1)?.reshape(&[c])?.copy();
        let value = ChannelStats { count: rows.leaf(i).len() as u64, mean: row(&mean)?, m2: row(&m2)? };
        tree.insert(rows.first_leaf() + i, 0, value, &mut ChannelStats::merge)?;
    }
    Ok(tree)
}

/// 1 / sqrt(variance + eps), `[c]`.
///
/// # Errors
/// `OutOfMemory`.
pub fn reciprocal_std(variance: &Array, eps: f64) -> Result<Array> {
    let _span = span("reciprocal_std", &[variance], |_| (0, 0, 0));
    let shifted = binary_scalar(Binary::Add, variance, eps)?;
    unary(Unary::Rsqrt, &shifted)
}

/// y = relu((x - mean) · (gamma · rstd) + beta + residual), the last two steps only when asked for.
///
/// `x`, `residual` and the result are `[images, …, c]`; the others `[c]`. Without `gamma` the scale is `rstd`, without
/// `beta` nothing is added.
///
/// # Errors
/// `Shape` or `DType` when operands do not fit.
pub fn batch_norm_apply(
    x: &Array,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
    beta: Option<&Array>,
    residual: Option<&Array>,
    relu: bool,
) -> Result<Array> {
    let c = expect_channels(x, [Some(mean), Some(rstd), gamma, beta])?;
    let reads: &[&Array] = match residual {
        Some(residual) => &[x, residual],
        None => &[x],
    };
    let _span = span("batch_norm", reads, |n| (n, 5 * n, 0));
    if let Some(residual) = residual {
        expect_same_shape("batch_norm residual", x, residual)?;
    }
    if let Some(gpu) = kernels_for(x) {
        return gpu::batch_norm::apply(gpu, x, [mean, rstd], [gamma, beta, residual], relu, c);
    }
    with_real!("batch_norm", x.dtype(), T, apply::<T>(x, mean, rstd, gamma, beta, residual, relu, c))
}

fn apply<T: Float>(
    x: &Array,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
    beta: Option<&Array>,
    residual: Option<&Array>,
    relu: bool,
    c: usize,
) -> Result<Array> {
    let x = x.contiguous()?;
    let residual = residual.map(Array::contiguous).transpose()?;
    let scale = channel_scale(rstd, gamma)?;
    let beta = match beta {
        Some(beta) => beta.contiguous()?,
        None => Array::zeros(&[c], T::DTYPE, x.device())?,
    };
    let mean = mean.contiguous()?;
    let (values, mean, scale, beta) =
        (x.as_slice::<T>()?, mean.as_slice::<T>()?, scale.as_slice::<T>()?, beta.as_slice::<T>()?);
    let residual = residual.as_ref().map_or(Ok(&[][..]), |r| r.as_slice::<T>())?;
    Array::build(x.device(), x.shape(), "batch_norm", |cpu, y| {
        let writing = Writing::of_rows(y, c);
        let chunk = (cpu.workers().task_len(y.len()) / c.max(1)).max(1) * c.max(1);
        cpu.workers().run_chunks(y, chunk, |i, y| {
            let here = i * chunk..i * chunk + y.len();
            let residual = if residual.is_empty() { residual } else { &residual[here.clone()] };
            let values = &values[here];
            writing.write(y, |first, y| {
                let part = first..first + y.len();
                let residual = if residual.is_empty() { residual } else { &residual[part.clone()] };
                normalize_rows(cpu.isa(), &values[part], mean, scale, beta, residual, relu, y);
            });
        });
        Ok(())
    })
}

/// gamma · rstd, `[c]`; `rstd` itself without gamma.
fn channel_scale(rstd: &Array, gamma: Option<&Array>) -> Result<Array> {
    match gamma {
        Some(gamma) => mul(gamma, rstd)?.contiguous(),
        None => rstd.contiguous(),
    }
}

fn expect_channels<const N: usize>(x: &Array, vectors: [Option<&Array>; N]) -> Result<usize> {
    let c = *x
        .shape()
        .last()
        .ok_or_else(|| Error::new(ErrorKind::Shape, "batch_norm", "a scalar").expected("[images, …, channels]"))?;
    for vector in vectors.into_iter().flatten() {
        if vector.shape() != [c] || vector.dtype() != x.dtype() {
            let got = format!("x {}{:?} with {}{:?}", x.dtype(), x.shape(), vector.dtype(), vector.shape());
            return Err(Error::new(ErrorKind::Shape, "batch_norm", got)
                .expected(format!("statistics and parameters {}[{c}]", x.dtype())));
        }
    }
    Ok(c)
}

/// The backward sums of batch norm, per channel over rows: (Σ dy, Σ dy · (x - mean) · rstd).
///
/// These are the gradients of beta and gamma. `y` is the output of a fused relu: `dy` counts only where `y > 0`.
///
/// # Errors
/// `Shape` or `DType` when operands do not fit.
pub fn batch_norm_grad_sums(
    dy: &Array,
    x: &Array,
    y: Option<&Array>,
    mean: &Array,
    rstd: &Array,
    rows: Rows,
) -> Result<(SampleSum, SampleSum)> {
    expect_same_shape("batch_norm backward", dy, x)?;
    let _span = span("batch_norm_grad_sums", &[dy, x], |n| (0, 5 * n, 0));
    let c = channels("batch_norm backward", x, rows)?;
    expect_channels(x, [Some(mean), Some(rstd)])?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::batch_norm::grad_sums(gpu, [dy, x, mean, rstd], y, rows, c);
    }
    with_real!("batch_norm backward", x.dtype(), T, grad_sums::<T>(dy, x, y, mean, rstd, rows, c))
}

fn grad_sums<T: Float>(
    dy: &Array,
    x: &Array,
    y: Option<&Array>,
    mean: &Array,
    rstd: &Array,
    rows: Rows,
    c: usize,
) -> Result<(SampleSum, SampleSum)> {
    let [dy, x, mean, rstd] = [dy, x, mean, rstd].map(Array::contiguous);
    let (dy, x, mean, rstd) = (dy?, x?, mean?, rstd?);
    let y = y.map(Array::contiguous).transpose()?;
    let (dys, xs, mean, rstd) = (dy.as_slice::<T>()?, x.as_slice::<T>()?, mean.as_slice::<T>()?, rstd.as_slice::<T>()?);
    let ys = y.as_ref().map_or(Ok(&[][..]), |y| y.as_slice::<T>())?;
    let mut dgamma = Array::zeros(&[rows.leaves(), c], T::DTYPE, x.device())?;
    let dbeta = Array::build::<T>(x.device(), &[rows.leaves(), c], "batch_norm", |cpu, dbeta| {
        if c > 0 {
            let dgamma = dgamma.make_mut::<T>()?;
            cpu.workers().run_chunks2((&mut *dbeta, c), (&mut *dgamma, c), |i, dbeta, dgamma| {
                let leaf = rows.leaf(i);
                let range = leaf.start * c..leaf.end * c;
                let ys = if ys.is_empty() { ys } else { &ys[range.clone()] };
                leaf_norm_grads(cpu.isa(), &dys[range.clone()], &xs[range], ys, mean, rstd, dbeta, dgamma);
            });
            for sums in [dbeta, dgamma] {
                fold_leaves(cpu.isa(), sums, c, rows);
            }
        }
        Ok(())
    })?;
    Ok((folded_tree(&dbeta, rows)?, folded_tree(&dgamma, rows)?))
}

/// The input gradient of batch norm: (gamma · rstd) · (dy - Σdy/n - (x - mean) · rstd · Σ(dy · x̂)/n).
///
/// `sum_dy` and `sum_dy_xhat` are the totals of [`batch_norm_grad_sums`] over the `count` rows that were normalised
/// together; with `count` of `None` the statistics were constants, and dx = (gamma · rstd) · dy. `y` as there.
///
/// # Errors
/// `Shape` or `DType` when operands do not fit.
pub fn batch_norm_input_grad(
    dy: &Array,
    x: &Array,
    y: Option<&Array>,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
    sums: Option<(&Array, &Array, u64)>,
) -> Result<Array> {
    expect_same_shape("batch_norm backward", dy, x)?;
    let _span = span("batch_norm_input_grad", &[dy, x], |n| (n, 6 * n, 0));
    let c = expect_channels(x, [Some(mean), Some(rstd), gamma])?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::batch_norm::input_grad(gpu, [dy, x, mean, rstd], y, gamma, sums, c);
    }
    with_real!("batch_norm backward", x.dtype(), T, input_grad::<T>(dy, x, y, mean, rstd, gamma, sums, c))
}

fn input_grad<T: Float>(
    dy: &Array,
    x: &Array,
    y: Option<&Array>,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
    sums: Option<(&Array, &Array, u64)>,
    c: usize,
) -> Result<Array> {
    let device: &Device = x.device();
    let (shift, slope) = match sums {
        Some((sum_dy, sum_dy_xhat, count)) => {
            let shift = binary_scalar(Binary::Div, sum_dy, count as f64)?;
            let slope = binary_scalar(Binary::Div, sum_dy_xhat, count as f64)?;
            (shift.contiguous()?, mul(&slope, rstd)?.contiguous()?)
        }
        None => (Array::zeros(&[c], T::DTYPE, device)?, Array::zeros(&[c], T::DTYPE, device)?),
    };
    let scale = channel_scale(rstd, gamma)?;
    let (dy, x, mean) = (dy.contiguous()?, x.contiguous()?, mean.contiguous()?);
    let y = y.map(Array::contiguous).transpose()?;
    let (dys, xs, mean) = (dy.as_slice::<T>()?, x.as_slice::<T>()?, mean.as_slice::<T>()?);
    let (scale, shift, slope) = (scale.as_slice::<T>()?, shift.as_slice::<T>()?, slope.as_slice::<T>()?);
    let ys = y.as_ref().map_or(Ok(&[][..]), |y| y.as_slice::<T>())?;
    Array::build(device, x.shape(), "batch_norm backward", |cpu, dx| {
        let writing = Writing::of_rows(dx, c);
        let chunk = (cpu.workers().task_len(dx.len()) / c.max(1)).max(1) * c.max(1);
        cpu.workers().run_chunks(dx, chunk, |i, dx| {
            let here = i * chunk..i * chunk + dx.len();
            let ys = if ys.is_empty() { ys } else { &ys[here.clone()] };
            let (dys, xs) = (&dys[here.clone()], &xs[here]);
            writing.write(dx, |first, dx| {
                let part = first..first + dx.len();
                let ys = if ys.is_empty() { ys } else { &ys[part.clone()] };
                norm_input_grad(cpu.isa(), &dys[part.clone()], &xs[part], ys, mean, scale, shift, slope, dx);
            });
        });
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use selfsame_kernels::reference::{self, Samples};

    fn values(n: usize, seed: u32) -> Vec<f64> {
        (0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f64 * 1e-6 - 5.).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn stats_are_the_definition_whatever_the_cut(
            leaves in 1usize..5, ragged in 1usize..16, pixels in prop_oneof![Just(1usize), Just(40)], c in 1usize..70,
            seed in any::<u32>(),
        ) {
            let device = Device::cpu_with(2).unwrap();
            let images = leaves * 16 + ragged;
            let data = values(images * pixels * c, seed);
            let x = Array::from_slice(&data, &[images, pixels, c], &device).unwrap();
            let whole = channel_stats(&x, Rows::of(x.shape(), 0).unwrap()).unwrap().total().unwrap();
            let expected = reference::batch_stats(Samples { images, rows_per_image: pixels }, c, &data);
            for (j, moments) in expected.iter().enumerate() {
                prop_assert_eq!(whole.mean.as_slice::<f64>().unwrap()[j], moments.mean);
                prop_assert_eq!(whole.m2.as_slice::<f64>().unwrap()[j], moments.m2);
                prop_assert_eq!(whole.count, moments.count as u64);
            }
            let mut cut = StatsTree::default();
            for (from, to) in [(16, images), (0, 16)] {
                let part = x.slice(0, from, to).unwrap();
                cut.merge(channel_stats(&part, Rows::of(part.shape(), from).unwrap()).unwrap()).unwrap();
            }
            let cut = cut.total().unwrap();
            prop_assert_eq!(cut.mean.as_slice::<f64>().unwrap(), whole.mean.as_slice::<f64>().unwrap());
            prop_assert_eq!(cut.m2.as_slice::<f64>().unwrap(), whole.m2.as_slice::<f64>().unwrap());
        }
    }

    #[test]
    fn fused_forms_equal_composed_forms() {
        let device = Device::cpu_with(2).unwrap();
        let [x, r, dy] = [1, 2, 3].map(|seed| {
            let data: Vec<f32> = values(20 * 9 * 37, seed).iter().map(|v| *v as f32).collect();
            Array::from_slice(&data, &[20, 9, 37], &device).unwrap()
        });
        let vector = |seed| {
            let data: Vec<f32> = values(37, seed).iter().map(|v| *v as f32 * 0.1 + 1.2).collect();
            Array::from_slice(&data, &[37], &device).unwrap()
        };
        let (mean, rstd, gamma, beta) = (vector(4), vector(5), vector(6), vector(7));
        let plain = batch_norm_apply(&x, &mean, &rstd, Some(&gamma), Some(&beta), None, false).unwrap();
        let composed = super::super::unary(super::super::Unary::Relu, &super::super::add(&plain, &r).unwrap()).unwrap();
        let fused = batch_norm_apply(&x, &mean, &rstd, Some(&gamma), Some(&beta), Some(&r), true).unwrap();
        assert_eq!(fused.as_slice::<f32>().unwrap(), composed.as_slice::<f32>().unwrap());

        let rows = Rows::of(x.shape(), 0).unwrap();
        let masked = crate::ops::binary(Binary::ReluGrad, &fused, &dy).unwrap();
        let total = |s: (SampleSum, SampleSum)| (s.0.total().unwrap(), s.1.total().unwrap());
        let a = total(batch_norm_grad_sums(&dy, &x, Some(&fused), &mean, &rstd, rows).unwrap());
        let b = total(batch_norm_grad_sums(&masked, &x, None, &mean, &rstd, rows).unwrap());
        assert_eq!(a.0.as_slice::<f32>().unwrap(), b.0.as_slice::<f32>().unwrap());
        assert_eq!(a.1.as_slice::<f32>().unwrap(), b.1.as_slice::<f32>().unwrap());
        let sums = Some((&a.0, &a.1, rows.len() as u64));
        let one = batch_norm_input_grad(&dy, &x, Some(&fused), &mean, &rstd, Some(&gamma), sums).unwrap();
        let two = batch_norm_input_grad(&masked, &x, None, &mean, &rstd, Some(&gamma), sums).unwrap();
        assert_eq!(one.as_slice::<f32>().unwrap(), two.as_slice::<f32>().unwrap());
    }
}
