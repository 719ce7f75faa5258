//! Matrix products, convolutions and their gradients as kernels: in canonical order, unless [`fast`] takes them.

use super::{GpuDevice, extent, fast, samples};
use crate::cpu::contract::ConvShape;
use crate::{Array, DType, Result, Rows, SampleSum};
use selfsame_kernels::device::{conv, conv_weight, matmul as k};

/// A batch of matrices, read by strides.
pub(crate) struct Matrices {
    pub(crate) array: Array,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
    pub(crate) batch_stride: usize,
}

/// Tiles of 128 x 128 pay where there are enough of them to fill a large GPU.
pub(super) const ENOUGH_TILES: usize = 132;

fn has_enough_tiles(batch: usize, m: usize, n: usize) -> bool {
    batch * m.div_ceil(128) * n.div_ceil(128) >= ENOUGH_TILES
}

/// C `shape` = A `[batch, m, k]` times B `[batch, k, n]` in f32.
pub(crate) fn matmul(
    gpu: &GpuDevice,
    (a, b): (&Matrices, &Matrices),
    [batch, m, n, depth]: [usize; 4],
    shape: &[usize],
) -> Result<Array> {
    if let Some(c) = fast::matmul(gpu, (a, b), [batch, m, n, depth], shape)? {
        return Ok(c);
    }
    let mut c = gpu.empty(shape, DType::F32, "matmul")?;
    macro_rules! launch {
        ($kernel:ident) => {{
            let args = k::$kernel::Args {
                a: a.array.reached_cells()?,
                b: b.array.reached_cells()?,
                c: c.cells_mut()?,
                m: extent(m)?,
                n: extent(n)?,
                k: extent(depth)?,
                a_row: extent(a.row_stride)?,
                a_col: extent(a.col_stride)?,
                b_row: extent(b.row_stride)?,
                b_col: extent(b.col_stride)?,
                a_batch: extent(a.batch_stride)?,
                b_batch: extent(b.batch_stride)?,
                batch: extent(batch)?,
            };
            gpu.submit(|launcher| args.launch(launcher))
        }};
    }
    if has_enough_tiles(batch, m, n) { launch!(matmul) } else { launch!(matmul_small) }?;
    Ok(c)
}

/// The weight gradient `[k, n]` of a linear layer from x `[images, …, k]` and dy `[images, …, n]`.
pub(crate) fn linear_weight_grad(
    gpu: &GpuDevice,
    x: &Array,
    dy: &Array,
    rows: Rows,
    [depth, n]: [usize; 2],
) -> Result<SampleSum> {
    const OWNER: &str = "linear backward";
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    if let Some(sum) = fast::linear_weight_grad(gpu, &x, &dy, rows, [depth, n], &[depth, n])? {
        return Ok(sum);
    }
    let mut leaves = gpu.empty(&[rows.leaves(), depth, n], DType::F32, OWNER)?;
    macro_rules! launch {
        ($kernel:ident) => {{
            let args = k::$kernel::Args {
                x: x.cells()?,
                dy: dy.cells()?,
                dw: leaves.cells_mut()?,
                images: extent(rows.images)?,
                rows_per_image: extent(rows.rows_per_image)?,
                k: extent(depth)?,
                n: extent(n)?,
            };
            gpu.submit(|launcher| args.launch(launcher))
        }};
    }
    if has_enough_tiles(rows.leaves(), depth, n) {
        launch!(linear_weight_grad_leaves)
    } else {
        launch!(linear_weight_grad_leaves_small)
    }?;
    samples::nodes(gpu, &leaves, rows, &[depth, n], OWNER)
}

/// Launches a convolution kernel in the tile that fits: `$rows` x `$cols` is the matrix that a group's tiles cover,
/// `$times` how many such matrices there are.
macro_rules! launch_conv {
    ($gpu:expr, $shape:expr, [$times:expr, $rows:expr, $cols:expr], $module:ident::{$large:ident, $narrow:ident, $small:ident},
        { $($field:ident : $value:expr),+ $(,)? }) => {{
        let (gpu, shape): (&GpuDevice, &ConvShape) = ($gpu, $shape);
        let [oh, ow] = shape.out_size();
        macro_rules! launch {
            ($kernel:ident) => {{
                let args = $module::$kernel::Args {
                    $($field: $value,)+
                    n: extent(shape.n)?, h: extent(shape.h)?, w: extent(shape.w)?, c: extent(shape.c)?,
                    oh: extent(oh)?, ow: extent(ow)?, c_out: extent(shape.c_out)?,
                    kh: extent(shape.kernel[0])?, kw: extent(shape.kernel[1])?,
                    stride_h: extent(shape.stride[0])?, stride_w: extent(shape.stride[1])?,
                    pad_h: extent(shape.padding[0])?, pad_w: extent(shape.padding[1])?,
                    dil_h: extent(shape.dilation[0])?, dil_w: extent(shape.dilation[1])?,
                    groups: extent(shape.groups)?,
                };
                gpu.submit(|launcher| args.launch(launcher))
            }};
        }
        if !has_enough_tiles($times, $rows, $cols) {
            launch!($small)
        } else if $cols <= 64 {
            launch!($narrow)
        } else {
            launch!($large)
        }
    }};
}

/// y of a convolution.
pub(crate) fn conv2d(gpu: &GpuDevice, shape: &ConvShape, x: &Array, weight: &Array, out: &[usize]) -> Result<Array> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    if let Some(y) = fast::conv2d(gpu, shape, &x, &weight, out)? {
        return Ok(y);
    }
    let mut y = gpu.empty(out, DType::F32, "conv2d")?;
    let pixels = out[0] * out[1] * out[2];
    launch_conv!(
        gpu, shape, [shape.groups, pixels, shape.c_out / shape.groups],
        conv::{conv2d, conv2d_narrow, conv2d_small},
        { x: x.cells()?, weight: weight.cells()?, y: y.cells_mut()? }
    )?;
    Ok(y)
}

/// dx of a convolution.
pub(crate) fn conv2d_input_grad(
    gpu: &GpuDevice,
    shape: &ConvShape,
    dy: &Array,
    weight: &Array,
    x_shape: &[usize],
) -> Result<Array> {
    let (dy, weight) = (dy.contiguous()?, weight.contiguous()?);
    if let Some(dx) = fast::conv2d_input_grad(gpu, shape, &dy, &weight, x_shape)? {
        return Ok(dx);
    }
    let mut dx = gpu.empty(x_shape, DType::F32, "conv2d backward")?;
    let pixels = shape.n * shape.h * shape.w;
    launch_conv!(
        gpu, shape, [shape.groups, pixels, shape.c / shape.groups],
        conv::{conv2d_input_grad, conv2d_input_grad_narrow, conv2d_input_grad_small},
        { dy: dy.cells()?, weight: weight.cells()?, dx: dx.cells_mut()? }
    )?;
    Ok(dx)
}

/// dw of a convolution.
pub(crate) fn conv2d_weight_grad(
    gpu: &GpuDevice,
    shape: &ConvShape,
    x: &Array,
    dy: &Array,
    rows: Rows,
    weight_shape: &[usize],
) -> Result<SampleSum> {
    const OWNER: &str = "conv2d backward";
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    if let Some(sum) = fast::conv2d_weight_grad(gpu, shape, &x, &dy, rows, weight_shape)? {
        return Ok(sum);
    }
    let mut leaves = gpu.empty(&[&[rows.leaves()], weight_shape].concat(), DType::F32, OWNER)?;
    let depth = weight_shape[..3].iter().product();
    launch_conv!(
        gpu, shape, [rows.leaves() * shape.groups, depth, shape.c_out / shape.groups],
        conv_weight::{conv2d_weight_grad_leaves, conv2d_weight_grad_leaves_narrow, conv2d_weight_grad_leaves_small},
        { x: x.cells()?, dy: dy.cells()?, dw: leaves.cells_mut()? }
    )?;
    samples::nodes(gpu, &leaves, rows, weight_shape, OWNER)
}
