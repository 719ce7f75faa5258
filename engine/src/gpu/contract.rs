//! Matrix products and their gradients as kernels, in canonical order.

use super::{GpuDevice, extent};
use crate::{Array, DType, Result};
use selfsame_kernels::device::matmul as k;

/// A batch of matrices, read by strides.
pub(crate) struct Matrices {
    pub(crate) array: Array,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
    pub(crate) batch_stride: usize,
}

/// Tiles of 128 x 128 pay where there are enough of them to fill a large GPU.
const ENOUGH_TILES: usize = 132;

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
