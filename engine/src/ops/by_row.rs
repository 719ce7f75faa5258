//! Driving loops over the rows (the last axis) of an array, in parallel.

use crate::cpu::CpuDevice;
use crate::{Array, Element, Error, ErrorKind, Result};

/// The leading axes and the length of a row.
///
/// # Errors
/// For rank 0.
pub(crate) fn split_last<'a>(op: &'static str, x: &'a Array) -> Result<(&'a [usize], usize)> {
    match x.shape() {
        [lead @ .., len] => Ok((lead, *len)),
        [] => Err(Error::new(ErrorKind::Shape, op, "a scalar").expected("at least one axis")),
    }
}

/// Refuses operands of different shapes.
pub(crate) fn expect_shape(op: &'static str, name: &str, x: &Array, shape: &[usize]) -> Result<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{name} {:?}", x.shape())).expected(format!("{name} {shape:?}")))
}

/// Fills `out`, rows of `len` elements: `write(scratch, row, elements)`. Scratch is kept between rows of a task.
pub(crate) fn write_rows<T: Send, S: Default>(
    cpu: &CpuDevice,
    out: &mut [T],
    len: usize,
    write: impl Fn(&mut S, usize, &mut [T]) + Sync,
) {
    write_rows_reading(cpu, len, out, len, write);
}

/// [`write_rows`] where a row of `out` takes `read` elements, more than it has itself.
pub(crate) fn write_rows_reading<T: Send, S: Default>(
    cpu: &CpuDevice,
    read: usize,
    out: &mut [T],
    len: usize,
    write: impl Fn(&mut S, usize, &mut [T]) + Sync,
) {
    let (read, rows) = (read.max(1), out.len() / len.max(1));
    let per_task = (cpu.workers().task_len(rows * read) / read).max(1);
    cpu.workers().run_chunks(out, per_task * len.max(1), |task, part| {
        let mut scratch = S::default();
        for (i, row) in part.chunks_mut(len).enumerate() {
            write(&mut scratch, task * per_task + i, row);
        }
    });
}

/// Fills `out` and, beside each of its rows, `width` elements of `stats`: `write(scratch, row, elements, stats)`.
pub(crate) fn write_rows_and_stats<T: Send, S: Default>(
    cpu: &CpuDevice,
    (out, len): (&mut [T], usize),
    (stats, width): (&mut [T], usize),
    write: impl Fn(&mut S, usize, &mut [T], &mut [T]) + Sync,
) {
    if len == 0 {
        // Rows without elements still have statistics.
        let mut scratch = S::default();
        stats.chunks_mut(width).enumerate().for_each(|(row, stats)| write(&mut scratch, row, &mut [], stats));
        return;
    }
    let per_task = (cpu.workers().task_len(out.len()) / len).max(1);
    cpu.workers().run_chunks2((out, per_task * len), (stats, per_task * width), |task, part, stats| {
        let mut scratch = S::default();
        for (i, (row, stats)) in part.chunks_mut(len).zip(stats.chunks_mut(width)).enumerate() {
            write(&mut scratch, task * per_task + i, row, stats);
        }
    });
}

/// Every `width`-th element from `start` on, as an array of `shape`: one statistic out of interleaved ones.
pub(crate) fn statistic<T: Element>(
    stats: &[T],
    (start, width): (usize, usize),
    shape: &[usize],
    like: &Array,
) -> Result<Array> {
    let values: Vec<T> = stats.iter().skip(start).step_by(width).copied().collect();
    Array::from_slice(&values, shape, like.device())
}
