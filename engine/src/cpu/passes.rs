//! Passes over many tensors at once: one parallel loop over the chunks of all of them.

use super::CpuDevice;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::order::NORM_CHUNK;
use selfsame_kernels::tree::fold_tree;
use std::mem::take;

/// The slices of one tensor, all of one length.
pub(crate) struct Slices<'a, T, const W: usize, const R: usize> {
    pub(crate) written: [&'a mut [T]; W],
    pub(crate) read: [&'a [T]; R],
    pub(crate) len: usize,
}

/// A run of chunks of one tensor, and where their sums go.
struct Piece<'a, T, const W: usize, const R: usize, const SUMS: usize> {
    tensor: usize,
    slices: Slices<'a, T, W, R>,
    sums: &'a mut [[T; SUMS]],
}

/// Runs `chunk(isa, tensor, written, read)` once for each 4096 elements of each tensor (the last may be fewer), and
/// adds up per tensor what it returns, in the canonical tree. A tensor without elements has sums of +0.
///
/// Which thread takes a chunk varies; the result must depend on the tensor and the chunk alone.
pub(crate) fn over_chunks<T: Real + Send + Sync, const W: usize, const R: usize, const SUMS: usize>(
    cpu: &CpuDevice,
    tensors: Vec<Slices<'_, T, W, R>>,
    chunk: impl Fn(Isa, usize, [&mut [T]; W], [&[T]; R]) -> [T; SUMS] + Sync,
) -> Vec<[T; SUMS]> {
    let counts: Vec<usize> = tensors.iter().map(|tensor| tensor.len.div_ceil(NORM_CHUNK)).collect();
    let mut sums = vec![[T::ZERO; SUMS]; counts.iter().sum()];
    let task_len = cpu.workers().task_len(tensors.iter().map(|tensor| tensor.len).sum());
    let tasks = cut(tensors, task_len, &mut sums);
    cpu.workers().run_parts(tasks.into_iter(), |_, pieces| {
        for piece in pieces {
            let Piece { tensor, mut slices, sums } = piece;
            for sum in sums {
                let Slices { written, read, .. } = slices.split_off(NORM_CHUNK);
                *sum = chunk(cpu.isa(), tensor, written, read);
            }
        }
    });
    let mut rest = &sums[..];
    counts
        .into_iter()
        .map(|count| {
            let (sums, behind) = rest.split_at(count);
            rest = behind;
            let mut add = |a: [T; SUMS], b: [T; SUMS]| std::array::from_fn(|k| a[k] + b[k]);
            fold_tree(count, &mut |i| sums[i], &mut add).unwrap_or([T::ZERO; SUMS])
        })
        .collect()
}

/// Cuts tensors into pieces of at most `task_len` elements, a multiple of the chunk's, and gathers neighbouring pieces
/// into tasks of about as many.
fn cut<'a, T: Real, const W: usize, const R: usize, const SUMS: usize>(
    tensors: Vec<Slices<'a, T, W, R>>,
    task_len: usize,
    mut sums: &'a mut [[T; SUMS]],
) -> Vec<Vec<Piece<'a, T, W, R, SUMS>>> {
    let (mut tasks, mut task, mut elements) = (Vec::new(), Vec::new(), 0);
    for (tensor, mut rest) in tensors.into_iter().enumerate() {
        while rest.len > 0 {
            let slices = rest.split_off(task_len);
            let (mine, behind) = take(&mut sums).split_at_mut(slices.len.div_ceil(NORM_CHUNK));
            sums = behind;
            elements += slices.len;
            task.push(Piece { tensor, slices, sums: mine });
            if elements >= task_len {
                tasks.push(take(&mut task));
                elements = 0;
            }
        }
    }
    if !task.is_empty() {
        tasks.push(task);
    }
    tasks
}

impl<'a, T, const W: usize, const R: usize> Slices<'a, T, W, R> {
    /// The first `count` elements, or all where there are fewer; the rest stays.
    fn split_off(&mut self, count: usize) -> Slices<'a, T, W, R> {
        let len = count.min(self.len);
        self.len -= len;
        Slices {
            written: self.written.each_mut().map(|slice| {
                let (first, rest) = take(slice).split_at_mut(len);
                *slice = rest;
                first
            }),
            read: self.read.each_mut().map(|slice| {
                let (first, rest) = slice.split_at(len);
                *slice = rest;
                first
            }),
            len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortest task there is.
    const TASK: usize = 4 * NORM_CHUNK;

    /// Lengths around those of chunks and tasks, an empty tensor, many small ones.
    const LENGTHS: [usize; 9] = [1, 0, NORM_CHUNK + 1, 17, 17, 3 * TASK + 5, TASK, 0, 2];

    #[test]
    fn every_chunk_is_met_once_with_its_tensor_and_sums_are_in_the_tree() {
        // Miri takes minutes for each.
        let threads: &[usize] = if cfg!(miri) { &[2] } else { &[1, 2, 3, 8] };
        for &threads in threads {
            let cpu = CpuDevice::new(threads).unwrap();
            let mut written: Vec<Vec<f32>> = LENGTHS.map(|n| vec![0.0; n]).into();
            let read: Vec<Vec<f32>> = LENGTHS.map(|n| (0..n).map(|i| 1.0 / (i as f32 + 3.0)).collect()).into();
            let tensors = written.iter_mut().zip(&read).map(|(w, r)| Slices {
                len: r.len(),
                written: [&mut w[..]],
                read: [&r[..]],
            });
            let sums = over_chunks(&cpu, tensors.collect(), |_, tensor, [w], [r]| {
                assert!(w.len() == r.len() && r.len() <= NORM_CHUNK);
                w.iter_mut().zip(r).for_each(|(w, r)| *w += tensor as f32 + r);
                [r.iter().sum(), r.len() as f32]
            });
            for (tensor, (w, r)) in written.iter().zip(&read).enumerate() {
                assert!(w.iter().zip(r).all(|(w, r)| *w == tensor as f32 + r));
                let chunks: Vec<f32> = r.chunks(NORM_CHUNK).map(|chunk| chunk.iter().sum()).collect();
                let sum = fold_tree(chunks.len(), &mut |i| chunks[i], &mut |a, b| a + b).unwrap_or(0.0);
                assert_eq!(sums[tensor], [sum, r.len() as f32]);
            }
        }
    }

    #[test]
    fn small_tensors_share_a_task() {
        let mut values = vec![vec![0f32; 64]; 1000];
        let slices = values.iter_mut().map(|w| Slices { len: w.len(), written: [&mut w[..]], read: [] });
        let mut sums = vec![[0f32; 0]; 1000];
        assert_eq!(cut(slices.collect(), TASK, &mut sums).len(), (1000 * 64usize).div_ceil(TASK));
    }
}
