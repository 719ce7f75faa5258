//! Copies that follow a layout, as kernels.

use super::{GpuDevice, extent};
use crate::{Array, Error, ErrorKind, Result};
use selfsame_kernels::device::layout as k;
use selfsame_kernels::launch::Slice;

/// Most axes that the kernel takes.
const MOST: usize = 6;

/// A contiguous copy of `x`.
pub(crate) fn contiguous(gpu: &GpuDevice, x: &Array) -> Result<Array> {
    let y = gpu.empty(x.shape(), x.dtype(), "copy")?;
    match axes(x)? {
        Some(axes) => launch(gpu, x, &axes, y),
        // More axes than a launch takes, and no two of them side by side: the outermost is copied part by part.
        None => by_parts(gpu, x, y),
    }
}

/// Length and stride of each axis, those joined that continue each other, behind axes of length 1; `None` when there
/// are more than six.
fn axes(x: &Array) -> Result<Option<[(u32, i32); MOST]>> {
    let mut merged: Vec<(usize, isize)> = Vec::new();
    for (&length, &stride) in x.shape().iter().zip(x.layout().strides()).filter(|(length, _)| **length != 1) {
        match merged.last_mut() {
            Some((outer, last)) if *last == stride * length as isize => {
                *outer *= length;
                *last = stride;
            }
            _ => merged.push((length, stride)),
        }
    }
    let Some(unused) = MOST.checked_sub(merged.len()) else { return Ok(None) };
    let mut axes = [(1, 0); MOST];
    for (axis, (length, stride)) in axes[unused..].iter_mut().zip(merged) {
        let stride = i32::try_from(stride).map_err(|_| {
            Error::new(ErrorKind::Shape, "copy", format!("a stride of {stride}")).expected("a stride of 31 bits")
        })?;
        *axis = (extent(length)?, stride);
    }
    Ok(Some(axes))
}

fn launch(gpu: &GpuDevice, x: &Array, axes: &[(u32, i32); MOST], mut y: Array) -> Result<Array> {
    let [(d0, s0), (d1, s1), (d2, s2), (d3, s3), (d4, s4), (d5, s5)] = *axes;
    let offset = extent(x.layout().offset())?;
    macro_rules! launch {
        ($kernel:ident, $cell:ty) => {{
            let x: Slice<'_, $cell> = x.storage_cells()?;
            let (x_len, y) = (extent(x.len)?, y.cells_mut()?);
            let args = k::$kernel::Args { x, y, x_len, offset, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5 };
            gpu.submit(|launcher| args.launch(launcher))
        }};
    }
    match x.dtype().size() {
        1 => launch!(strided_copy_1, u8),
        2 => launch!(strided_copy_2, u16),
        4 => launch!(strided_copy_4, u32),
        _ => launch!(strided_copy_8, u64),
    }?;
    Ok(y)
}

fn by_parts(gpu: &GpuDevice, x: &Array, mut y: Array) -> Result<Array> {
    for i in 0..x.shape()[0] {
        let part = contiguous(gpu, &x.slice(0, i, i + 1)?)?;
        y.write_part(gpu, i * part.numel(), &part)?;
    }
    Ok(y)
}
