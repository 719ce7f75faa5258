//! Reading and adding at indices as kernels. Indices are i64 and were checked ([`first_outside`]); an array is
//! seen as `[outer, n, inner]` around the axis that they count along.

use super::{GpuDevice, extent, join};
use crate::{Array, DType, Result};
use selfsame_kernels::device::index as k;
use std::num::NonZeroU32;

/// The first element of `index`, contiguous, outside 0..`len`. Waits for the device.
pub(crate) fn first_outside(gpu: &GpuDevice, op: &'static str, index: &Array, len: usize) -> Result<Option<usize>> {
    let (length, n) = (extent(len)?, extent(index.numel())?);
    let mut flag = join::filled(gpu, 0, &[1], DType::I32, op)?;
    let args = k::check_index::Args { index: index.cells()?, flag: flag.cells_mut()?, length, n };
    gpu.submit(|launcher| args.launch(launcher))?;
    // The flag of element i is u32::MAX - i, so that the first element's is the largest; 0 is none.
    Ok(NonZeroU32::new(flag.item::<i32>()? as u32).map(|flag| (u32::MAX - flag.get()) as usize))
}

/// Launches the kernel for elements of x's type that reads x at `index` into an array of `shape`.
macro_rules! read_at {
    ($gpu:expr, $op:literal, $x:expr, $index:expr, [$outer:expr, $n:expr, $inner:expr], $count:expr, $shape:expr,
        [$f32:ident $f64:ident $u16:ident $i32:ident $i64:ident $u8:ident]) => {{
        let mut result = $gpu.empty($shape, $x.dtype(), $op)?;
        let (outer, n, inner, k) = (extent($outer)?, extent($n)?, extent($inner)?, extent($count)?);
        macro_rules! launch {
            ($kernel:ident) => {{
                let args = k::$kernel::Args {
                    x: $x.cells()?,
                    index: $index.cells()?,
                    y: result.cells_mut()?,
                    outer,
                    n,
                    inner,
                    k,
                };
                $gpu.submit(|launcher| args.launch(launcher))
            }};
        }
        match $x.dtype() {
            DType::F32 => launch!($f32),
            DType::F64 => launch!($f64),
            DType::BF16 | DType::F16 => launch!($u16),
            DType::I32 => launch!($i32),
            DType::I64 => launch!($i64),
            DType::U8 | DType::Bool => launch!($u8),
        }?;
        Ok(result)
    }};
}

/// `y[o, j, i] = x[o, index[o, j, i], i]`: of the index's shape, `count` long along the axis. Both are contiguous.
pub(crate) fn gather(
    gpu: &GpuDevice,
    x: &Array,
    index: &Array,
    [outer, n, inner]: [usize; 3],
    count: usize,
) -> Result<Array> {
    read_at!(gpu, "gather", x, index, [outer, n, inner], count, index.shape(),
        [gather gather_f64 gather_u16 gather_i32 gather_i64 gather_u8])
}

/// `y[o, j, i] = x[o, index[j], i]`, of shape `shape`. Both are contiguous.
pub(crate) fn index_select(
    gpu: &GpuDevice,
    x: &Array,
    index: &Array,
    [outer, n, inner]: [usize; 3],
    shape: &[usize],
) -> Result<Array> {
    read_at!(gpu, "index_select", x, index, [outer, n, inner], index.numel(), shape,
        [index_select index_select_f64 index_select_u16 index_select_i32 index_select_i64 index_select_u8])
}

/// Launches a kernel that adds the elements of a source to `base` at indices.
macro_rules! add_at {
    ($gpu:expr, $kernel:ident, $base:expr, $index:expr, $src:expr, [$outer:expr, $n:expr, $inner:expr], $k:expr) => {{
        let args = k::$kernel::Args {
            base: $base.cells_mut()?,
            index: $index.cells()?,
            src: $src.cells()?,
            outer: extent($outer)?,
            n: extent($n)?,
            inner: extent($inner)?,
            k: extent($k)?,
        };
        $gpu.submit(|launcher| args.launch(launcher))?;
        Ok($base)
    }};
}

/// `base[o, index[o, j, i], i] += src[o, j, i]` for j = 0, 1, … `count` - 1; f32. Index and source are contiguous.
pub(crate) fn scatter_add(
    gpu: &GpuDevice,
    mut base: Array,
    (index, src): (&Array, &Array),
    [outer, n, inner]: [usize; 3],
    count: usize,
) -> Result<Array> {
    add_at!(gpu, scatter_add, base, index, src, [outer, n, inner], count)
}

/// `base[o, index[j], i] += src[o, j, i]` for j = 0, 1, …; f32. Index and source are contiguous.
pub(crate) fn index_add(
    gpu: &GpuDevice,
    mut base: Array,
    (index, src): (&Array, &Array),
    [outer, n, inner]: [usize; 3],
) -> Result<Array> {
    add_at!(gpu, index_add, base, index, src, [outer, n, inner], index.numel())
}

/// `[.., classes]` of f32: 1 at the position that `index`, contiguous, names, else 0.
pub(crate) fn one_hot(gpu: &GpuDevice, index: &Array, classes: usize, shape: &[usize]) -> Result<Array> {
    let mut y = gpu.empty(shape, DType::F32, "one_hot")?;
    let args = k::one_hot::Args {
        index: index.cells()?,
        y: y.cells_mut()?,
        rows: extent(index.numel())?,
        classes: extent(classes)?,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// 0, 1, … n - 1 as i64.
pub(crate) fn arange(gpu: &GpuDevice, n: usize) -> Result<Array> {
    let mut y = gpu.empty(&[n], DType::I64, "arange")?;
    let args = k::arange::Args { y: y.cells_mut()?, n: extent(n)? };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// The identity matrix `[n, n]` of f32.
pub(crate) fn eye(gpu: &GpuDevice, n: usize) -> Result<Array> {
    let mut y = gpu.empty(&[n, n], DType::F32, "eye")?;
    let args = k::eye::Args { y: y.cells_mut()?, n: extent(n)? };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}
