//! Batch normalisation as kernels.

use super::rows::{contiguous, optional};
use super::{GpuDevice, extent, samples};
use crate::ops::{ChannelStats, StatsTree};
use crate::rows::dyadic_blocks;
use crate::{Array, DType, Result, Rows, SampleSum};
use selfsame_kernels::device::{batch_norm as k, samples as s};
use selfsame_kernels::order::LEAF;

const OWNER: &str = "batch_norm";

/// Mean and squared deviations per leaf, folded to the nodes of the tree.
pub(crate) fn channel_stats(gpu: &GpuDevice, x: &Array, rows: Rows, c: usize) -> Result<StatsTree> {
    let x = x.contiguous()?;
    let mut mean = gpu.empty(&[rows.leaves(), c], DType::F32, OWNER)?;
    let mut m2 = gpu.empty(&[rows.leaves(), c], DType::F32, OWNER)?;
    let args = k::batch_stats_leaves::Args {
        x: x.cells()?,
        mean: mean.cells_mut()?,
        m2: m2.cells_mut()?,
        images: extent(rows.images)?,
        rows_per_image: extent(rows.rows_per_image)?,
        channels: extent(c)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    let mut tree = StatsTree::default();
    for (first, level) in dyadic_blocks(rows.first_leaf(), rows.leaves()) {
        let at = first - rows.first_leaf();
        let part = at..at + (1 << level);
        let count = rows.leaf(part.end - 1).end - rows.leaf(at).start;
        let [mean, m2] = [&mean, &m2].map(|x| x.slice(0, part.start, part.end));
        let (mean, m2) = fold(gpu, mean?, m2?, rows, count)?;
        let own = |x: Array| x.reshape(&[c])?.copy();
        let stats = ChannelStats { count: count as u64, mean: own(mean)?, m2: own(m2)? };
        tree.insert(first, level, stats, &mut ChannelStats::merge)?;
    }
    Ok(tree)
}

/// Leaves `[leaves, c]` with `count` rows in all, merged in the tree: `[1, c]` each.
fn fold(gpu: &GpuDevice, mut mean: Array, mut m2: Array, rows: Rows, count: usize) -> Result<(Array, Array)> {
    let mut rows_per_leaf = LEAF * rows.rows_per_image;
    loop {
        let [leaves, c] = mean.dims()?;
        if leaves <= 1 {
            return Ok((mean, m2));
        }
        let shape = [leaves.div_ceil(s::FOLD as usize), c];
        let mut mean_out = gpu.empty(&shape, DType::F32, OWNER)?;
        let mut m2_out = gpu.empty(&shape, DType::F32, OWNER)?;
        let args = k::batch_stats_fold::Args {
            mean: mean.cells()?,
            m2: m2.cells()?,
            mean_out: mean_out.cells_mut()?,
            m2_out: m2_out.cells_mut()?,
            leaves: extent(leaves)?,
            channels: extent(c)?,
            rows_per_leaf: extent(rows_per_leaf)?,
            rows: extent(count)?,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        (mean, m2) = (mean_out, m2_out);
        rows_per_leaf *= s::FOLD as usize;
    }
}

/// Merges `b`, the rows after those of `a`, into `a`.
pub(crate) fn merge(gpu: &GpuDevice, mut a: ChannelStats, b: &ChannelStats) -> Result<ChannelStats> {
    let channels = extent(a.mean.numel())?;
    let [mean_b, m2_b] = contiguous([&b.mean, &b.m2])?;
    let args = k::batch_stats_merge::Args {
        mean: a.mean.cells_mut()?,
        m2: a.m2.cells_mut()?,
        mean_b: mean_b.cells()?,
        m2_b: m2_b.cells()?,
        channels,
        rows_a: a.count,
        rows_b: b.count,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    a.count += b.count;
    Ok(a)
}

/// The affine pass, with residual and relu if wanted.
pub(crate) fn apply(
    gpu: &GpuDevice,
    x: &Array,
    [mean, rstd]: [&Array; 2],
    [gamma, beta, residual]: [Option<&Array>; 3],
    relu: bool,
    c: usize,
) -> Result<Array> {
    let [x, mean, rstd] = contiguous([x, mean, rstd])?;
    let (gamma, has_gamma) = optional(gpu, gamma)?;
    let (beta, has_beta) = optional(gpu, beta)?;
    let (residual, has_residual) = optional(gpu, residual)?;
    let mut y = gpu.empty(x.shape(), DType::F32, OWNER)?;
    let args = k::batch_norm_apply::Args {
        x: x.cells()?,
        mean: mean.cells()?,
        rstd: rstd.cells()?,
        gamma: gamma.cells()?,
        beta: beta.cells()?,
        residual: residual.cells()?,
        y: y.cells_mut()?,
        rows: extent(x.numel() / c.max(1))?,
        channels: extent(c)?,
        has_gamma,
        has_beta,
        has_residual,
        relu: u32::from(relu),
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// (dbeta, dgamma) as sums over samples; `y` is the result of a fused relu.
pub(crate) fn grad_sums(
    gpu: &GpuDevice,
    [dy, x, mean, rstd]: [&Array; 4],
    y: Option<&Array>,
    rows: Rows,
    c: usize,
) -> Result<(SampleSum, SampleSum)> {
    let [dy, x, mean, rstd] = contiguous([dy, x, mean, rstd])?;
    let (y, masked) = optional(gpu, y)?;
    let mut dbeta = gpu.empty(&[rows.leaves(), c], DType::F32, OWNER)?;
    let mut dgamma = gpu.empty(&[rows.leaves(), c], DType::F32, OWNER)?;
    let args = k::batch_norm_grad_sums_leaves::Args {
        dy: dy.cells()?,
        x: x.cells()?,
        y: y.cells()?,
        mean: mean.cells()?,
        rstd: rstd.cells()?,
        dbeta: dbeta.cells_mut()?,
        dgamma: dgamma.cells_mut()?,
        images: extent(rows.images)?,
        rows_per_image: extent(rows.rows_per_image)?,
        channels: extent(c)?,
        masked,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok((samples::nodes(gpu, &dbeta, rows, &[c], OWNER)?, samples::nodes(gpu, &dgamma, rows, &[c], OWNER)?))
}

/// dx; `sums` are the totals of dbeta and dgamma over `count` rows, absent where the statistics were constants.
pub(crate) fn input_grad(
    gpu: &GpuDevice,
    [dy, x, mean, rstd]: [&Array; 4],
    y: Option<&Array>,
    gamma: Option<&Array>,
    sums: Option<(&Array, &Array, u64)>,
    c: usize,
) -> Result<Array> {
    let [dy, x, mean, rstd] = contiguous([dy, x, mean, rstd])?;
    let (y, masked) = optional(gpu, y)?;
    let (gamma, has_gamma) = optional(gpu, gamma)?;
    let (sum_dy, has_sums) = optional(gpu, sums.map(|(sum, _, _)| sum))?;
    let (sum_dy_h, _) = optional(gpu, sums.map(|(_, sum, _)| sum))?;
    let mut dx = gpu.empty(x.shape(), DType::F32, "batch_norm backward")?;
    let mut no_residual = gpu.empty(&[0], DType::F32, OWNER)?;
    let args = k::batch_norm_input_grad::Args {
        dy: dy.cells()?,
        x: x.cells()?,
        y: y.cells()?,
        mean: mean.cells()?,
        rstd: rstd.cells()?,
        gamma: gamma.cells()?,
        sum_dy: sum_dy.cells()?,
        sum_dy_h: sum_dy_h.cells()?,
        dx: dx.cells_mut()?,
        dresidual: no_residual.cells_mut()?,
        rows: extent(x.numel() / c.max(1))?,
        channels: extent(c)?,
        count: sums.map_or(0.0, |(_, _, count)| count as f32),
        masked,
        has_gamma,
        has_sums,
        has_residual: 0,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}
