//! Pooling and its gradients as kernels. Operands are f32, contiguous, of shapes that the primitives have checked.

use super::{GpuDevice, extent, join};
use crate::ops::Pool2d;
use crate::{Array, DType, Result};
use selfsame_kernels::device::pool as k;

/// Launches a kernel over windows: its own arguments, then those that every such kernel takes.
macro_rules! launch_windows {
    ($gpu:expr, $kernel:ident { $($arg:ident : $value:expr),+ }, $x_shape:expr, $y_shape:expr, $pool:expr) => {{
        let ([n, h, w, c], [_, oh, ow, _]) = (extents($x_shape)?, extents($y_shape)?);
        let Pool2d { kernel, stride, padding } = $pool;
        let ([kh, kw], [sh, sw], [ph, pw]) = (extents(*kernel)?, extents(*stride)?, extents(*padding)?);
        let args = k::$kernel::Args { $($arg: $value,)+ n, h, w, c, oh, ow, kh, kw, sh, sw, ph, pw };
        $gpu.submit(|launcher| args.launch(launcher))
    }};
}

fn extents<const N: usize>(lengths: [usize; N]) -> Result<[u32; N]> {
    let mut extents = [0; N];
    for (to, length) in extents.iter_mut().zip(lengths) {
        *to = extent(length)?;
    }
    Ok(extents)
}

/// (largest value of each window, its pixel).
pub(crate) fn max_pool2d(gpu: &GpuDevice, x: &Array, pool: &Pool2d, shape: [usize; 4]) -> Result<(Array, Array)> {
    let mut y = gpu.empty(&shape, DType::F32, "max_pool2d")?;
    let mut pixels = gpu.empty(&shape, DType::I32, "max_pool2d")?;
    let (x_cells, y_cells, index) = (x.cells()?, y.cells_mut()?, pixels.cells_mut()?);
    launch_windows!(gpu, max_pool2d { x: x_cells, y: y_cells, index: index }, x.dims()?, shape, pool)?;
    Ok((y, pixels))
}

/// dx from dy and the pixel that each output came from, one of the image.
pub(crate) fn max_pool2d_grad(
    gpu: &GpuDevice,
    (dy, pixels): (&Array, &Array),
    x_shape @ [n, h, w, c]: [usize; 4],
) -> Result<Array> {
    const OP: &str = "max_pool2d_grad";
    let [_, oh, ow, _] = dy.dims()?;
    let mut dx = join::filled(gpu, 0, &x_shape, DType::F32, OP)?;
    let args = k::max_pool2d_grad_by_index::Args {
        dy: dy.cells()?,
        index: pixels.cells()?,
        dx: dx.cells_mut()?,
        n: extent(n)?,
        pixels: extent(h * w)?,
        outputs: extent(oh * ow)?,
        c: extent(c)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}

/// The mean of each window.
pub(crate) fn avg_pool2d(
    gpu: &GpuDevice,
    x: &Array,
    pool: &Pool2d,
    count_padding: bool,
    shape: [usize; 4],
) -> Result<Array> {
    let mut y = gpu.empty(&shape, DType::F32, "avg_pool2d")?;
    let (x_cells, y_cells, count_padding) = (x.cells()?, y.cells_mut()?, u32::from(count_padding));
    let x_shape = x.dims()?;
    launch_windows!(gpu, avg_pool2d { x: x_cells, y: y_cells, count_padding: count_padding }, x_shape, shape, pool)?;
    Ok(y)
}

/// dx of the mean of each window.
pub(crate) fn avg_pool2d_grad(
    gpu: &GpuDevice,
    dy: &Array,
    x_shape: [usize; 4],
    pool: &Pool2d,
    count_padding: bool,
) -> Result<Array> {
    let mut dx = gpu.empty(&x_shape, DType::F32, "avg_pool2d_grad")?;
    let (dy_cells, dx_cells, count_padding) = (dy.cells()?, dx.cells_mut()?, u32::from(count_padding));
    let y_shape = dy.dims()?;
    launch_windows!(
        gpu,
        avg_pool2d_grad { dy: dy_cells, dx: dx_cells, count_padding: count_padding },
        x_shape,
        y_shape,
        pool
    )?;
    Ok(dx)
}

/// The mean over all pixels: x `[n, h, w, c]` to `[n, c]`.
pub(crate) fn global_avg_pool(gpu: &GpuDevice, x: &Array) -> Result<Array> {
    let [n, h, w, c] = x.dims()?;
    let mut y = gpu.empty(&[n, c], DType::F32, "global_avg_pool")?;
    let args = k::global_avg_pool::Args {
        x: x.cells()?,
        y: y.cells_mut()?,
        n: extent(n)?,
        pixels: extent(h * w)?,
        c: extent(c)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// dy `[n, c]` / (h w) at every pixel of `[n, h, w, c]`.
pub(crate) fn global_avg_pool_grad(gpu: &GpuDevice, dy: &Array, x_shape @ [n, h, w, c]: [usize; 4]) -> Result<Array> {
    let mut dx = gpu.empty(&x_shape, DType::F32, "global_avg_pool_grad")?;
    let args = k::global_avg_pool_grad::Args {
        dy: dy.cells()?,
        dx: dx.cells_mut()?,
        n: extent(n)?,
        pixels: extent(h * w)?,
        c: extent(c)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}
