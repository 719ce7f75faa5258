//! Updates in place as kernels, in f32: the first operand is written, or copied and then written when it is shared.

use super::{GpuDevice, extent};
use crate::{Array, Result};
use selfsame_kernels::device::update as k;

/// y + x. Both have the same shape.
pub(crate) fn add_assign(gpu: &GpuDevice, mut y: Array, x: &Array) -> Result<Array> {
    let (x, n) = (x.contiguous()?, extent(y.numel())?);
    let args = k::add_assign::Args { x: x.cells()?, y: y.cells_mut()?, n };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// y + alpha x, fused. Both have the same shape.
pub(crate) fn add_scaled(gpu: &GpuDevice, mut y: Array, alpha: f32, x: &Array) -> Result<Array> {
    let (x, n) = (x.contiguous()?, extent(y.numel())?);
    let args = k::axpy::Args { alpha, x: x.cells()?, y: y.cells_mut()?, n };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// alpha y.
pub(crate) fn scale(gpu: &GpuDevice, mut y: Array, alpha: f32) -> Result<Array> {
    let n = extent(y.numel())?;
    let args = k::scale::Args { alpha, y: y.cells_mut()?, n };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}
