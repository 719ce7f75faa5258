//! Sums over samples and norms of parameters as kernels: leaves or chunks first, then the tree over them.

use super::{GpuDevice, extent};
use crate::rows::dyadic_blocks;
use crate::{Array, DType, Result, Rows, SampleSum};
use selfsame_kernels::device::{reduce as r, samples as s};
use selfsame_kernels::order::NORM_CHUNK;

/// x `[leaves, width]` added up in the tree over its leaves: `[1, width]`.
pub(super) fn fold(gpu: &GpuDevice, x: Array, owner: &'static str) -> Result<Array> {
    let mut x = x;
    loop {
        let [leaves, width] = x.dims()?;
        if leaves <= 1 {
            return Ok(x);
        }
        let mut y = gpu.empty(&[leaves.div_ceil(s::FOLD as usize), width], DType::F32, owner)?;
        let args =
            s::tree_fold::Args { x: x.cells()?, y: y.cells_mut()?, leaves: extent(leaves)?, width: extent(width)? };
        gpu.submit(|launcher| args.launch(launcher))?;
        x = y;
    }
}

/// The tree of sums whose leaves are the rows of `leaves` `[leaves of rows, …]`: a node of `shape` for each aligned
/// dyadic block.
pub(crate) fn nodes(
    gpu: &GpuDevice,
    leaves: &Array,
    rows: Rows,
    shape: &[usize],
    owner: &'static str,
) -> Result<SampleSum> {
    let flat = leaves.reshape(&[rows.leaves(), shape.iter().product()])?;
    let mut tree = SampleSum::default();
    for (first, level) in dyadic_blocks(rows.first_leaf(), rows.leaves()) {
        let at = first - rows.first_leaf();
        // A node of its own: siblings are added in place.
        let node = fold(gpu, flat.slice(0, at, at + (1 << level))?, owner)?.reshape(shape)?;
        tree.add(first, level, if level == 0 { node.copy()? } else { node })?;
    }
    Ok(tree)
}

/// The sum over rows per channel, or with `b` of the products.
pub(crate) fn rows_sum(gpu: &GpuDevice, a: &Array, b: Option<&Array>, rows: Rows, c: usize) -> Result<SampleSum> {
    let a = a.contiguous()?;
    let b = b.map(Array::contiguous).transpose()?;
    let owner = if b.is_some() { "rows_dot" } else { "rows_sum" };
    let mut sums = gpu.empty(&[rows.leaves(), c], DType::F32, owner)?;
    let (images, rows_per_image, channels) = (extent(rows.images)?, extent(rows.rows_per_image)?, extent(c)?);
    let out = sums.cells_mut()?;
    match &b {
        Some(b) => {
            let (a, b) = (a.cells()?, b.cells()?);
            let args = s::rows_dot_leaves::Args { a, b, sums: out, images, rows_per_image, channels };
            gpu.submit(|launcher| args.launch(launcher))
        }
        None => {
            let args = s::rows_sum_leaves::Args { x: a.cells()?, sums: out, images, rows_per_image, channels };
            gpu.submit(|launcher| args.launch(launcher))
        }
    }?;
    nodes(gpu, &sums, rows, &[c], owner)
}

/// The inner product of two contiguous arrays, or with one of it with itself: chunks by lanes, then the tree.
pub(crate) fn dot(gpu: &GpuDevice, a: &Array, b: Option<&Array>) -> Result<f32> {
    let owner = if b.is_some() { "dot" } else { "norm_sq" };
    let n = a.numel();
    if n == 0 {
        return Ok(0.0);
    }
    let mut sums = gpu.empty(&[n.div_ceil(NORM_CHUNK), 1], DType::F32, owner)?;
    let (n, out) = (extent(n)?, sums.cells_mut()?);
    match b {
        Some(b) => {
            let args = r::dot_chunks::Args { a: a.cells()?, b: b.cells()?, sums: out, n };
            gpu.submit(|launcher| args.launch(launcher))
        }
        None => {
            let args = r::norm_sq_chunks::Args { x: a.cells()?, sums: out, n };
            gpu.submit(|launcher| args.launch(launcher))
        }
    }?;
    fold(gpu, sums, owner)?.item()
}
