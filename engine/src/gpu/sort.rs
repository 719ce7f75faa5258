//! Order along an axis as kernels: sort and top-k of rows, extreme positions, running sums. Operands are f32.

use super::{GpuDevice, extent};
use crate::{Array, DType, Result};
use selfsame_kernels::device::sort as k;

/// (values, positions) of the first `kept` of each row of x `[.., cols]`, in ascending or descending order; the results
/// have the shape `shape`.
pub(crate) fn ranked(
    gpu: &GpuDevice,
    op: &'static str,
    x: &Array,
    (cols, kept): (usize, usize),
    descending: bool,
    shape: &[usize],
) -> Result<(Array, Array)> {
    let x = x.contiguous()?;
    let mut values = gpu.empty(shape, DType::F32, op)?;
    let mut positions = gpu.empty(shape, DType::I64, op)?;
    if values.numel() == 0 {
        return Ok((values, positions));
    }
    let (rows, descending) = (extent(values.numel() / kept)?, u32::from(descending));
    let (columns, kept) = (extent(cols)?, extent(kept)?);
    if columns <= k::RUN {
        let args = k::sort_rows::Args {
            x: x.cells()?,
            values: values.cells_mut()?,
            positions: positions.cells_mut()?,
            rows,
            cols: columns,
            k: kept,
            descending,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        return Ok((values, positions));
    }
    let Ranks { array: ranks, run, .. } = Ranks::sorted(gpu, op, &x, [rows, columns, kept], descending)?;
    let args = k::unpack_ranks::Args {
        x: x.cells()?,
        ranks: ranks.cells()?,
        values: values.cells_mut()?,
        positions: positions.cells_mut()?,
        rows,
        cols: columns,
        len: run,
        k: kept,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok((values, positions))
}

/// `runs` runs of `run` ranks in order for each of `rows` rows. The 64-bit ranks lie in an i64 array.
struct Ranks {
    array: Array,
    rows: u32,
    runs: u32,
    run: u32,
}

impl Ranks {
    /// The first ranks of each row, at least `kept`, as one run.
    fn sorted(
        gpu: &GpuDevice,
        op: &'static str,
        x: &Array,
        [rows, cols, kept]: [u32; 3],
        descending: u32,
    ) -> Result<Ranks> {
        let mut ranks = Ranks::empty(gpu, op, rows, cols.div_ceil(k::RUN), kept.min(k::RUN))?;
        let args = k::sort_runs::Args {
            x: x.cells()?,
            ranks: ranks.array.cells_mut()?,
            rows,
            cols,
            kept: ranks.run,
            descending,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        while ranks.runs > 1 {
            ranks = ranks.merged(gpu, op, kept)?;
        }
        Ok(ranks)
    }

    fn empty(gpu: &GpuDevice, op: &'static str, rows: u32, runs: u32, run: u32) -> Result<Ranks> {
        let array = gpu.empty(&[rows as usize, runs as usize, run as usize], DType::I64, op)?;
        Ok(Ranks { array, rows, runs, run })
    }

    /// Pairs of runs as one, each cut to `kept` ranks.
    fn merged(&self, gpu: &GpuDevice, op: &'static str, kept: u32) -> Result<Ranks> {
        let mut to = Ranks::empty(gpu, op, self.rows, self.runs.div_ceil(2), kept.min(2 * self.run))?;
        let args = k::merge_runs::Args {
            from: self.array.cells()?,
            to: to.array.cells_mut()?,
            rows: self.rows,
            runs: self.runs,
            run: self.run,
            kept: to.run,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok(to)
    }
}

/// The lengths of x before, at and behind `axis`.
fn around([before, at, behind]: [usize; 3]) -> Result<[u32; 3]> {
    Ok([extent(before)?, extent(at)?, extent(behind)?])
}

/// The position of the largest (else the smallest) element along the middle axis of x, seen as `lengths`; the result
/// has the shape `shape`.
pub(crate) fn arg_extremum(
    gpu: &GpuDevice,
    (op, largest): (&'static str, bool),
    x: &Array,
    lengths: [usize; 3],
    shape: &[usize],
) -> Result<Array> {
    let x = x.contiguous()?;
    let [outer, len, inner] = around(lengths)?;
    let mut y = gpu.empty(shape, DType::I64, op)?;
    let (x, position) = (x.cells()?, y.cells_mut()?);
    gpu.submit(|launcher| match largest {
        true => k::argmax::Args { x, position, outer, len, inner }.launch(launcher),
        false => k::argmin::Args { x, position, outer, len, inner }.launch(launcher),
    })?;
    Ok(y)
}

/// Running sums along the middle axis of x, seen as `lengths`.
pub(crate) fn cumsum(gpu: &GpuDevice, x: &Array, lengths: [usize; 3]) -> Result<Array> {
    let x = x.contiguous()?;
    let [outer, len, inner] = around(lengths)?;
    let mut sums = gpu.empty(x.shape(), DType::F32, "cumsum")?;
    let (x, y) = (x.cells()?, sums.cells_mut()?);
    gpu.submit(|launcher| match inner {
        1 => k::cumsum_rows::Args { x, y, rows: outer, cols: len }.launch(launcher),
        _ => k::cumsum::Args { x, y, outer, len, inner }.launch(launcher),
    })?;
    Ok(sums)
}
