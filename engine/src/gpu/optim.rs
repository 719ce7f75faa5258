//! The steps of optimisers as kernels, in f32: a launch per parameter, and one that folds the norms of all.

use super::{GpuDevice, extent};
use crate::ops::Tensors;
use crate::{Array, DType, Result};
use selfsame_kernels::device::optim as k;
use selfsame_kernels::optim::{AdamW, Average, Lamb, Lars, Sgd};
use selfsame_kernels::order::NORM_CHUNK;

/// Sums over the chunks of all tensors, `[rows, chunks]`, filled by a launch per tensor.
struct ChunkSums {
    sums: Array,
    /// Where the chunks of each tensor begin, and behind the last.
    starts: Vec<u32>,
}

/// Where a launch over one tensor puts its sums.
#[derive(Clone, Copy)]
struct Place {
    n: u32,
    first: u32,
    chunks: u32,
}

impl ChunkSums {
    fn new(gpu: &GpuDevice, lengths: impl Iterator<Item = usize>, rows: usize) -> Result<ChunkSums> {
        let mut starts = vec![0];
        let mut chunks = 0;
        for n in lengths {
            chunks += n.div_ceil(NORM_CHUNK);
            starts.push(extent(chunks)?);
        }
        Ok(ChunkSums { sums: gpu.empty(&[rows, chunks], DType::F32, "norms")?, starts })
    }

    fn place(&self, tensor: usize, n: usize) -> Result<Place> {
        Ok(Place { n: extent(n)?, first: self.starts[tensor], chunks: self.starts[self.starts.len() - 1] })
    }

    /// The sums of each tensor, in the tree; +0 for a tensor without elements.
    fn fold<const ROWS: usize>(mut self, gpu: &GpuDevice) -> Result<Vec<[f64; ROWS]>> {
        let segments = self.starts.len() - 1;
        let chunks = self.starts[segments];
        if chunks == 0 {
            return Ok(vec![[0.0; ROWS]; segments]);
        }
        let starts: Vec<i32> = self.starts.iter().map(|start| *start as i32).collect();
        let starts = Array::from_slice(&starts, &[starts.len()], &crate::Device::Gpu(gpu.clone()))?;
        let mut totals = gpu.empty(&[ROWS, segments], DType::F32, "norms")?;
        let args = k::fold_segments::Args {
            sums: self.sums.cells_mut()?,
            starts: starts.cells()?,
            totals: totals.cells_mut()?,
            rows: extent(ROWS)?,
            segments: extent(segments)?,
            chunks,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        let totals = totals.to_vec::<f32>()?;
        Ok((0..segments).map(|s| std::array::from_fn(|row| f64::from(totals[row * segments + s]))).collect())
    }
}

/// The sums of squares of w, of g and of g + decay w.
pub(crate) fn decayed_squares(gpu: &GpuDevice, tensors: &[Tensors<'_, 0, 2>], decays: &[f64]) -> Result<Vec<[f64; 3]>> {
    let mut table = ChunkSums::new(gpu, tensors.iter().map(|t| t.read[0].numel()), 3)?;
    for (i, (Tensors { read: [w, g], .. }, decay)) in tensors.iter().zip(decays).enumerate() {
        let (w, g) = (w.contiguous()?, g.contiguous()?);
        if w.numel() > 0 {
            let Place { n, first, chunks } = table.place(i, w.numel())?;
            let (w, g, sums) = (w.cells()?, g.cells()?, table.sums.cells_mut()?);
            let args = k::decayed_squares::Args { w, g, sums, decay: *decay as f32, n, first, chunks };
            gpu.submit(|launcher| args.launch(launcher))?;
        }
    }
    table.fold(gpu)
}

/// Runs `launch(i, written, read, n)` for each tensor that has elements; what is read is contiguous.
fn for_each<const W: usize>(
    tensors: &mut [Tensors<'_, W, 1>],
    mut launch: impl FnMut(usize, &mut [&mut Array; W], &Array, usize) -> Result<()>,
) -> Result<()> {
    for (i, Tensors { written, read: [x] }) in tensors.iter_mut().enumerate() {
        let n = x.numel();
        if n > 0 {
            launch(i, written, &x.contiguous()?, n)?;
        }
    }
    Ok(())
}

/// The sums of squares of the parameters: the first of what is written.
fn parameter_squares<const W: usize>(gpu: &GpuDevice, tensors: &[Tensors<'_, W, 1>]) -> Result<Vec<f64>> {
    let parameters: Vec<_> =
        tensors.iter().map(|t| Tensors { written: [], read: [&*t.written[0], &*t.written[0]] }).collect();
    let squares = decayed_squares(gpu, &parameters, &vec![0.0; parameters.len()])?;
    Ok(squares.into_iter().map(|[w, ..]| w).collect())
}

/// A step of gradient descent; the sums of squares before it.
pub(crate) fn sgd_step(gpu: &GpuDevice, tensors: &mut [Tensors<'_, 2, 1>], steps: &[Sgd<f64>]) -> Result<Vec<f64>> {
    let squares = parameter_squares(gpu, tensors)?;
    for_each(tensors, |i, [w, v], g, n| {
        let Sgd { decay, momentum, ahead, lr } = steps[i].rounded();
        let (w, v, g, n) = (w.cells_mut()?, v.cells_mut()?, g.cells()?, extent(n)?);
        let args = k::sgd_step::Args { w, v, g, decay, momentum, ahead, lr, n };
        gpu.submit(|launcher| args.launch(launcher))
    })?;
    Ok(squares)
}

/// A step of AdamW; the sums of squares before it.
pub(crate) fn adamw_step(gpu: &GpuDevice, tensors: &mut [Tensors<'_, 3, 1>], steps: &[AdamW<f64>]) -> Result<Vec<f64>> {
    let squares = parameter_squares(gpu, tensors)?;
    for_each(tensors, |i, [w, m, s], g, n| {
        let AdamW { b1, b2, keep, rate, correction, eps } = steps[i].rounded();
        let (w, m, s, g, n) = (w.cells_mut()?, m.cells_mut()?, s.cells_mut()?, g.cells()?, extent(n)?);
        let args = k::adamw_step::Args { w, m, s, g, b1, b2, keep, rate, correction, eps, n };
        gpu.submit(|launcher| args.launch(launcher))
    })?;
    Ok(squares)
}

/// A step of LARS with known rates.
pub(crate) fn lars_step(gpu: &GpuDevice, tensors: &mut [Tensors<'_, 2, 1>], steps: &[Lars<f64>]) -> Result<()> {
    for_each(tensors, |i, [w, v], g, n| {
        let Lars { decay, momentum, ahead, before, after } = steps[i].rounded();
        let (w, v, g, n) = (w.cells_mut()?, v.cells_mut()?, g.cells()?, extent(n)?);
        let args = k::lars_step::Args { w, v, g, decay, momentum, ahead, before, after, n };
        gpu.submit(|launcher| args.launch(launcher))
    })
}

/// The buffers of LARS, and the sums of squares of the directions.
pub(crate) fn lars_velocity(
    gpu: &GpuDevice,
    tensors: &mut [Tensors<'_, 2, 1>],
    steps: &[Lars<f64>],
) -> Result<Vec<f64>> {
    let mut table = ChunkSums::new(gpu, tensors.iter().map(|t| t.read[0].numel()), 1)?;
    for_each(tensors, |i, [w, v], g, n| {
        let Lars { decay, momentum, ahead, before, .. } = steps[i].rounded();
        let Place { n, first, chunks } = table.place(i, n)?;
        let w = w.contiguous()?;
        let (w, v, g, sums) = (w.cells()?, v.cells_mut()?, g.cells()?, table.sums.cells_mut()?);
        let args = k::lars_velocity::Args { w, v, g, sums, decay, momentum, ahead, before, n, first, chunks };
        gpu.submit(|launcher| args.launch(launcher))
    })?;
    Ok(table.fold(gpu)?.into_iter().map(|[u]| u).collect())
}

/// The parameters of LARS, once their buffers are written.
pub(crate) fn lars_walk(gpu: &GpuDevice, tensors: &mut [Tensors<'_, 2, 1>], steps: &[Lars<f64>]) -> Result<()> {
    for_each(tensors, |i, [w, v], g, n| {
        let Lars { decay, ahead, before, after, .. } = steps[i].rounded();
        let v = v.contiguous()?;
        let (w, v, g, n) = (w.cells_mut()?, v.cells()?, g.cells()?, extent(n)?);
        let args = k::lars_walk::Args { w, v, g, decay, ahead, before, after, n };
        gpu.submit(|launcher| args.launch(launcher))
    })
}

/// The moments of LAMB, and the sums of squares of the parameters and of the directions.
pub(crate) fn lamb_moments(
    gpu: &GpuDevice,
    tensors: &mut [Tensors<'_, 3, 1>],
    steps: &[Lamb<f64>],
) -> Result<Vec<[f64; 2]>> {
    let mut table = ChunkSums::new(gpu, tensors.iter().map(|t| t.read[0].numel()), 2)?;
    for_each(tensors, |i, [w, m, s], g, n| {
        let Lamb { b1, b2, b3, scale, l2, decay, correction1, correction2, eps } = steps[i].rounded();
        let Place { n, first, chunks } = table.place(i, n)?;
        let w = w.contiguous()?;
        let (w, g, sums) = (w.cells()?, g.cells()?, table.sums.cells_mut()?);
        let (m, s) = (m.cells_mut()?, s.cells_mut()?);
        let args = k::lamb_moments::Args {
            w,
            m,
            s,
            g,
            sums,
            b1,
            b2,
            b3,
            scale,
            l2,
            decay,
            correction1,
            correction2,
            eps,
            n,
            first,
            chunks,
        };
        gpu.submit(|launcher| args.launch(launcher))
    })?;
    table.fold(gpu)
}

/// The parameters of LAMB, once their moments are written.
pub(crate) fn lamb_walk(
    gpu: &GpuDevice,
    tensors: &mut [Tensors<'_, 3, 1>],
    steps: &[Lamb<f64>],
    rates: &[f64],
) -> Result<()> {
    for_each(tensors, |i, [w, m, s], _, n| {
        let Lamb { decay, correction1, correction2, eps, .. } = steps[i].rounded();
        let (m, s, n) = (m.contiguous()?, s.contiguous()?, extent(n)?);
        let (w, m, s) = (w.cells_mut()?, m.cells()?, s.cells()?);
        let args = k::lamb_walk::Args { w, m, s, decay, correction1, correction2, eps, rate: rates[i] as f32, n };
        gpu.submit(|launcher| args.launch(launcher))
    })
}

/// A step of moving averages.
pub(crate) fn average(gpu: &GpuDevice, tensors: &mut [Tensors<'_, 1, 1>], average: Average<f64>) -> Result<()> {
    let Average { momentum, share } = average.rounded();
    for_each(tensors, |_, [w], x, n| {
        let args = k::average::Args { w: w.cells_mut()?, x: x.cells()?, momentum, share, n: extent(n)? };
        gpu.submit(|launcher| args.launch(launcher))
    })
}
