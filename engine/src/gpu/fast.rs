//! Fast numerics: contractions of f32 on tensor cores, by the device's library where it has one and else by kernels.
//!
//! Operands are rounded to tf32, sums are f32. What has no fast form (weight gradients of convolutions with a window,
//! strided input gradients, operands that overlap or are transposed on both sides without a library) runs in canonical
//! order; each function says so by returning `None`.

use super::contract::Matrices;
use super::{GpuDevice, extent};
use crate::cpu::contract::ConvShape;
use crate::rows::dyadic_blocks;
use crate::{Array, DType, Numerics, Result, Rows, SampleSum, ops};
use selfsame_kernels::device::tensor_core as k;
use selfsame_kernels::launch::{self, Major, Product};
use selfsame_kernels::order::LEAF;

/// Bytes at which the kernels read four numbers at once.
const ALIGNMENT: u64 = 16;

impl Matrices {
    /// How `[rows, columns]` matrices lie in memory, if row by row or column by column: the axis and the pitch.
    fn major(&self, rows: usize, columns: usize) -> Option<(Major, usize)> {
        // An axis of length 1 has no stride to speak of.
        if (self.col_stride == 1 || columns == 1) && (self.row_stride >= columns || rows == 1) {
            return Some((Major::Row, self.row_stride.max(columns)));
        }
        (self.row_stride == 1 && self.col_stride >= rows).then_some((Major::Column, self.col_stride))
    }
}

/// C `shape` = A `[batch, m, k]` times B `[batch, k, n]`.
pub(super) fn matmul(
    gpu: &GpuDevice,
    (a, b): (&Matrices, &Matrices),
    [batch, m, n, depth]: [usize; 4],
    shape: &[usize],
) -> Result<Option<Array>> {
    if gpu.numerics() != Numerics::Fast || [batch, m, n, depth].contains(&0) {
        return Ok(None);
    }
    let (Some(a_major), Some(b_major)) = (a.major(m, depth), b.major(depth, n)) else { return Ok(None) };
    let (a_cells, b_cells) = (a.array.reached_cells::<f32>()?, b.array.reached_cells::<f32>()?);
    let mut c = gpu.empty(shape, DType::F32, "matmul")?;
    let out = c.cells_mut::<f32>()?;
    let [batch, m, n, depth] = [extent(batch)?, extent(m)?, extent(n)?, extent(depth)?];
    let (a_batch, b_batch) = (extent(a.batch_stride)?, extent(b.batch_stride)?);
    let operand = |(major, pitch): (Major, usize), address, batch_stride| {
        Ok::<_, crate::Error>(launch::Matrices { address, major, pitch: extent(pitch)?, batch_stride })
    };
    let product = Product {
        a: operand(a_major, a_cells.address, a_batch)?,
        b: operand(b_major, b_cells.address, b_batch)?,
        c: out.address,
        m,
        n,
        k: depth,
        batch,
    };
    let by_library = gpu.submit(|launcher| match launcher.products() {
        Some(library) => library.multiply(&product).map(|()| true),
        None => Ok(false),
    })?;
    if by_library {
        return Ok(Some(c));
    }
    let stands = [a_cells.address, b_cells.address].iter().all(|address| address.0.is_multiple_of(ALIGNMENT));
    let whole = |(major, pitch): (Major, usize), rows: u32, columns: u32| {
        pitch == if major == Major::Row { columns } else { rows } as usize
    };
    if !stands || !whole(a_major, m, depth) || !whole(b_major, depth, n) {
        return Ok(None);
    }
    macro_rules! launch {
        ($kernel:ident) => {{
            let args = k::$kernel::Args { a: a_cells, b: b_cells, c: out, m, n, k: depth, a_batch, b_batch, batch };
            gpu.submit(|launcher| args.launch(launcher))
        }};
    }
    match (a_major.0, b_major.0) {
        (Major::Row, Major::Row) => launch!(matmul_tf32),
        (Major::Row, Major::Column) => launch!(matmul_tf32_nt),
        (Major::Column, Major::Row) => launch!(matmul_tf32_tn),
        (Major::Column, Major::Column) => return Ok(None),
    }?;
    Ok(Some(c))
}

/// The weight gradient `[k, n]` of a linear layer, in the given shape, one product per aligned block of leaves:
/// micro-batches and ranks still add up in the tree.
pub(super) fn linear_weight_grad(
    gpu: &GpuDevice,
    x: &Array,
    dy: &Array,
    rows: Rows,
    [depth, n]: [usize; 2],
    shape: &[usize],
) -> Result<Option<SampleSum>> {
    if gpu.numerics() != Numerics::Fast || rows.is_empty() || depth == 0 || n == 0 {
        return Ok(None);
    }
    let (x, dy) = (x.reshape(&[rows.len(), depth])?, dy.reshape(&[rows.len(), n])?);
    let mut tree = SampleSum::default();
    for (first, level) in dyadic_blocks(rows.first_leaf(), rows.leaves()) {
        let start = (first - rows.first_leaf()) * LEAF * rows.rows_per_image;
        let end = (start + (LEAF << level) * rows.rows_per_image).min(rows.len());
        let node = ops::matmul(&x.slice(0, start, end)?.transpose(0, 1)?, &dy.slice(0, start, end)?)?;
        tree.add(first, level, node.reshape(shape)?)?;
    }
    Ok(Some(tree))
}

/// y of a convolution.
pub(super) fn conv2d(
    gpu: &GpuDevice,
    shape: &ConvShape,
    x: &Array,
    weight: &Array,
    out: &[usize],
) -> Result<Option<Array>> {
    if gpu.numerics() != Numerics::Fast || x.numel() == 0 || weight.numel() == 0 {
        return Ok(None);
    }
    let (x_cells, weight_cells) = (x.cells::<f32>()?, weight.cells::<f32>()?);
    if ![x_cells.address, weight_cells.address].iter().all(|address| address.0.is_multiple_of(ALIGNMENT)) {
        return Ok(None);
    }
    let mut y = gpu.empty(out, DType::F32, "conv2d")?;
    let [oh, ow] = shape.out_size();
    let args = k::conv2d_tf32::Args {
        x: x_cells,
        weight: weight_cells,
        y: y.cells_mut()?,
        n: extent(shape.n)?,
        h: extent(shape.h)?,
        w: extent(shape.w)?,
        c: extent(shape.c)?,
        oh: extent(oh)?,
        ow: extent(ow)?,
        c_out: extent(shape.c_out)?,
        kh: extent(shape.kernel[0])?,
        kw: extent(shape.kernel[1])?,
        stride_h: extent(shape.stride[0])?,
        stride_w: extent(shape.stride[1])?,
        pad_h: extent(shape.padding[0])?,
        pad_w: extent(shape.padding[1])?,
        dil_h: extent(shape.dilation[0])?,
        dil_w: extent(shape.dilation[1])?,
        groups: extent(shape.groups)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(Some(y))
}

/// dx of a convolution of stride 1 in one group: the convolution of dy with the taps turned round and the channels
/// exchanged.
pub(super) fn conv2d_input_grad(
    gpu: &GpuDevice,
    shape: &ConvShape,
    dy: &Array,
    weight: &Array,
    x_shape: &[usize],
) -> Result<Option<Array>> {
    let reach = [0, 1].map(|axis| (shape.kernel[axis] - 1) * shape.dilation[axis]);
    let fits = shape.stride == [1, 1] && shape.groups == 1 && (0..2).all(|axis| shape.padding[axis] <= reach[axis]);
    if gpu.numerics() != Numerics::Fast || !fits || shape.out_size().contains(&0) {
        return Ok(None);
    }
    let turned = weight.flip(0)?.flip(1)?.permute(&[0, 1, 3, 2])?.contiguous()?;
    let [h, w] = shape.out_size();
    let padding = [0, 1].map(|axis| reach[axis] - shape.padding[axis]);
    let back = ConvShape { h, w, c: shape.c_out, c_out: shape.c, padding, ..*shape };
    conv2d(gpu, &back, dy, &turned, x_shape)
}

/// dw of a convolution with a window of one pixel and stride 1: a linear layer on pixels.
pub(super) fn conv2d_weight_grad(
    gpu: &GpuDevice,
    shape: &ConvShape,
    x: &Array,
    dy: &Array,
    rows: Rows,
    weight_shape: &[usize],
) -> Result<Option<SampleSum>> {
    let pointwise = shape.kernel == [1, 1] && shape.stride == [1, 1] && shape.padding == [0, 0] && shape.groups == 1;
    if !pointwise {
        return Ok(None);
    }
    linear_weight_grad(gpu, x, dy, rows, [shape.c, shape.c_out], weight_shape)
}
