//! Fills, joins and pads as kernels. Elements are moved as bits, by their size.

use super::{Axes, GpuDevice, extent};
use crate::layout::Layout;
use crate::{Array, DType, Result};
use selfsame_kernels::device::layout as k;

/// Runs an expression with the module of a kernel bound to `$k`: the one for the elements' size.
macro_rules! by_size {
    ($dtype:expr, $k:ident = [$one:ident, $two:ident, $four:ident, $eight:ident], $body:expr) => {
        match $dtype.size() {
            1 => {
                use k::$one as $k;
                $body
            }
            2 => {
                use k::$two as $k;
                $body
            }
            4 => {
                use k::$four as $k;
                $body
            }
            _ => {
                use k::$eight as $k;
                $body
            }
        }
    };
}

/// An array with one value everywhere, given by its bits.
pub(crate) fn filled(gpu: &GpuDevice, bits: u64, shape: &[usize], dtype: DType, owner: &'static str) -> Result<Array> {
    let mut y = gpu.empty(shape, dtype, owner)?;
    let n = extent(y.numel())?;
    by_size!(dtype, kernel = [fill_1, fill_2, fill_4, fill_8], {
        // A value that is narrower than its argument lies in the low bits.
        let args = kernel::Args { y: y.cells_mut()?, value: bits as _, n };
        gpu.submit(|launcher| args.launch(launcher))
    })?;
    Ok(y)
}

/// Arrays, one after the other along `axis`, as one of `shape`.
pub(crate) fn concat(gpu: &GpuDevice, parts: &[&Array], axis: usize, shape: &[usize]) -> Result<Array> {
    let mut whole = gpu.empty(shape, parts[0].dtype(), "concat")?;
    let layout = Layout::contiguous(shape);
    let mut start = 0;
    for part in parts {
        let end = start + part.shape()[axis];
        if part.numel() == 0 {
            continue;
        }
        let place = layout.slice(axis, start, end, 1)?;
        // Axes around one that is cut: at most two after merging.
        let axes = Axes::merged(part.shape(), [&place]).expect("two axes with the strides of a contiguous array");
        write(gpu, &part.contiguous()?, &mut whole, place.offset(), &axes)?;
        start = end;
    }
    Ok(whole)
}

/// x inside an array of `shape` that holds `bits` elsewhere; its first element comes to `start`. `None` when too many
/// axes are padded for one write.
pub(crate) fn pad(gpu: &GpuDevice, x: &Array, start: &[usize], bits: u64, shape: &[usize]) -> Result<Option<Array>> {
    let mut place = Layout::contiguous(shape);
    for (axis, (&start, &len)) in start.iter().zip(x.shape()).enumerate() {
        place = place.slice(axis, start, start + len, 1)?;
    }
    let Some(axes) = Axes::merged(x.shape(), [&place]) else { return Ok(None) };
    let mut padded = filled(gpu, bits, shape, x.dtype(), "pad")?;
    if x.numel() > 0 {
        write(gpu, &x.contiguous()?, &mut padded, place.offset(), &axes)?;
    }
    Ok(Some(padded))
}

/// Writes the elements of x, contiguous, to the places of `axes` in y.
fn write(gpu: &GpuDevice, x: &Array, y: &mut Array, offset: usize, axes: &Axes<1>) -> Result<()> {
    let (y_len, offset) = (extent(y.numel())?, extent(offset)?);
    let ([d2, d3, d4, d5], [strides]) = (axes.lengths, axes.strides);
    let [s2, s3, s4, s5] = strides.map(|stride| stride as i32);
    by_size!(x.dtype(), kernel = [strided_write_1, strided_write_2, strided_write_4, strided_write_8], {
        let (x, y) = (x.cells()?, y.cells_mut()?);
        let args = kernel::Args { x, y, y_len, offset, d0: 1, d1: 1, d2, d3, d4, d5, s0: 0, s1: 0, s2, s3, s4, s5 };
        gpu.submit(|launcher| args.launch(launcher))
    })
}
