//! Resizing of images and its gradient as kernels. Operands are f32 and contiguous.

use super::{GpuDevice, extent};
use crate::ops::Interpolation;
use crate::{Array, DType, Result};
use selfsame_kernels::device::interpolate as k;

/// What each output position along an axis reads. Positions are u32 in arrays of i32.
struct Taps {
    len: u32,
    out: u32,
    /// Taps per output position.
    count: u32,
    source: Array,
    weight: Array,
}

impl Taps {
    fn new(
        gpu: &GpuDevice,
        op: &'static str,
        (len, out): (usize, usize),
        mode: Interpolation,
        align_corners: bool,
    ) -> Result<Taps> {
        let count = match mode {
            Interpolation::Nearest => k::NEAREST,
            Interpolation::Bilinear => k::BILINEAR,
            Interpolation::Bicubic => k::BICUBIC,
        };
        let shape = [out, count as usize];
        let (source, weight) = (gpu.empty(&shape, DType::I32, op)?, gpu.empty(&shape, DType::F32, op)?);
        let mut taps = Taps { len: extent(len)?, out: extent(out)?, count, source, weight };
        let args = k::interpolate_taps::Args {
            source: taps.source.cells_mut()?,
            weight: taps.weight.cells_mut()?,
            len: taps.len,
            out: taps.out,
            taps: count,
            align_corners: u32::from(align_corners),
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok(taps)
    }

    /// For each input position the outputs, from and below, that may read it.
    fn spans(&self, gpu: &GpuDevice, op: &'static str) -> Result<(Array, Array)> {
        let shape = [self.len as usize];
        let (mut first, mut end) = (gpu.empty(&shape, DType::I32, op)?, gpu.empty(&shape, DType::I32, op)?);
        let args = k::interpolate_spans::Args {
            source: self.source.cells()?,
            first: first.cells_mut()?,
            end: end.cells_mut()?,
            len: self.len,
            out: self.out,
            taps: self.count,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok((first, end))
    }
}

/// x `[n, h, w, c]` resized to `[n, oh, ow, c]`.
pub(crate) fn interpolate(
    gpu: &GpuDevice,
    x: &Array,
    [oh, ow]: [usize; 2],
    mode: Interpolation,
    align_corners: bool,
) -> Result<Array> {
    const OP: &str = "interpolate";
    let [n, h, w, c] = x.dims()?;
    let rows = Taps::new(gpu, OP, (h, oh), mode, align_corners)?;
    let columns = Taps::new(gpu, OP, (w, ow), mode, align_corners)?;
    let mut y = gpu.empty(&[n, oh, ow, c], DType::F32, OP)?;
    let args = k::interpolate::Args {
        x: x.cells()?,
        row_source: rows.source.cells()?,
        row_weight: rows.weight.cells()?,
        column_source: columns.source.cells()?,
        column_weight: columns.weight.cells()?,
        y: y.cells_mut()?,
        n: extent(n)?,
        h: rows.len,
        w: columns.len,
        c: extent(c)?,
        oh: rows.out,
        ow: columns.out,
        taps: rows.count,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// dx `[n, h, w, c]` from dy `[n, oh, ow, c]`.
pub(crate) fn interpolate_grad(
    gpu: &GpuDevice,
    dy: &Array,
    x_shape @ [n, h, w, c]: [usize; 4],
    mode: Interpolation,
    align_corners: bool,
) -> Result<Array> {
    const OP: &str = "interpolate_grad";
    let [_, oh, ow, _] = dy.dims()?;
    let rows = Taps::new(gpu, OP, (h, oh), mode, align_corners)?;
    let columns = Taps::new(gpu, OP, (w, ow), mode, align_corners)?;
    let ((row_first, row_end), (column_first, column_end)) = (rows.spans(gpu, OP)?, columns.spans(gpu, OP)?);
    let mut dx = gpu.empty(&x_shape, DType::F32, OP)?;
    let args = k::interpolate_grad::Args {
        dy: dy.cells()?,
        row_source: rows.source.cells()?,
        row_weight: rows.weight.cells()?,
        column_source: columns.source.cells()?,
        column_weight: columns.weight.cells()?,
        row_first: row_first.cells()?,
        row_end: row_end.cells()?,
        column_first: column_first.cells()?,
        column_end: column_end.cells()?,
        dx: dx.cells_mut()?,
        n: extent(n)?,
        h: rows.len,
        w: columns.len,
        c: extent(c)?,
        oh: rows.out,
        ow: columns.out,
        taps: rows.count,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}
