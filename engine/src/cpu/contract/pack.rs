//! The right operand in the order in which the micro-kernels read it.
#![allow(unsafe_code)]

use super::lanes::Real;
use super::micro::{Kernels, Right};
use super::scratch::Lease;
use super::transpose::transpose;
use super::{Context, SharedMut};
use crate::order::CHUNK;
use std::ops::Range;

/// A right operand `[k, n]` in memory: element (k, j) lies at
/// `(k / inner) * outer_stride + (k % inner) * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Operand<'a, T> {
    pub(in crate::cpu) data: &'a [T],
    pub(in crate::cpu) k: usize,
    pub(in crate::cpu) n: usize,
    pub(in crate::cpu) inner: usize,
    pub(in crate::cpu) outer_stride: usize,
    pub(in crate::cpu) row_stride: usize,
    pub(in crate::cpu) col_stride: usize,
}

impl<T> Operand<'_, T> {
    /// Whether kernels can read its rows as they lie: one after another, in whole vectors of `width`.
    fn is_in_rows(&self, width: usize) -> bool {
        self.col_stride == 1 && self.inner >= self.k && self.n.is_multiple_of(width)
    }

    /// One past the largest offset that is read.
    fn extent(&self) -> usize {
        if self.k == 0 || self.n == 0 {
            return 0;
        }
        let last_inner = self.inner.min(self.k) - 1;
        (self.k - 1) / self.inner * self.outer_stride
            + last_inner * self.row_stride
            + (self.n - 1) * self.col_stride
            + 1
    }
}

/// How `n` columns are cut into panels: all two vectors wide, the last one if that is enough one vector.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Panels {
    n: usize,
    width: usize,
}

/// One panel: `columns` real ones, from `first`, in `vectors` vectors.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Panel {
    pub(in crate::cpu) first: usize,
    pub(in crate::cpu) columns: usize,
    pub(in crate::cpu) vectors: usize,
}

impl Panels {
    pub(super) fn new<T>(n: usize, kernels: &Kernels<T>) -> Panels {
        Panels { n, width: kernels.width }
    }

    pub(in crate::cpu) fn count(&self) -> usize {
        self.n.div_ceil(2 * self.width)
    }

    pub(in crate::cpu) fn get(&self, i: usize) -> Panel {
        let first = i * 2 * self.width;
        let columns = (self.n - first).min(2 * self.width);
        Panel { first, columns, vectors: columns.div_ceil(self.width) }
    }

    /// Columns with their padding.
    pub(in crate::cpu) fn padded(&self) -> usize {
        self.n.next_multiple_of(self.width)
    }
}

/// Fewer left rows than that do not repay the copy of a right operand. Two cores of an AMD EPYC, copied and in place, medians
/// of ratios of pairs: forward 3 x 3 of 512 channels at 4 x 4, 1024 rows, 1.09; at 7 x 7, 784 rows, 1.07; at 4 x 4, 4096
/// rows, 0.95, since its rows share sets of the first-level cache.
pub(super) const FEW_ROWS: usize = 2048;

/// A right operand in panels.
pub(in crate::cpu) struct Packed<'a, T: Real> {
    operand: Operand<'a, T>,
    kernels: &'static Kernels<T>,
    memory: Memory<'a, T>,
    pub(in crate::cpu) panels: Panels,
}

/// Where the panels are.
enum Memory<'a, T: Real> {
    /// In the operand, whose rows are read as they lie.
    InPlace,
    /// In a copy that all tasks share: chunk by chunk of k, panel by panel, `[k of the chunk][columns of the panel]`, padding
    /// columns zero.
    Ahead(Lease<'a, T>),
    /// Each task copies the blocks it works on right before it reads them, while they are in its second-level cache; that
    /// is for tasks that share no columns.
    OnDemand,
}

impl<'a, T: Real> Packed<'a, T> {
    /// An operand that is packed on demand.
    pub(super) fn on_demand(cx: &Context<'a>, operand: &Operand<'a, T>) -> Packed<'a, T> {
        assert!(operand.extent() <= operand.data.len(), "operand larger than its memory");
        let kernels = T::kernels(cx.isa);
        Packed { operand: *operand, kernels, memory: Memory::OnDemand, panels: Panels::new(operand.n, kernels) }
    }

    /// An operand for so many left rows: where it lies if that is possible and they are few, else packed now.
    pub(super) fn for_rows(cx: &Context<'a>, operand: &Operand<'a, T>, rows: usize) -> Packed<'a, T> {
        let packed = Packed::on_demand(cx, operand);
        if rows < FEW_ROWS && operand.is_in_rows(packed.kernels.width) {
            return Packed { memory: Memory::InPlace, ..packed };
        }
        Packed::ahead(cx, operand)
    }

    /// An operand that is packed now, in parallel.
    pub(in crate::cpu) fn ahead(cx: &Context<'a>, operand: &Operand<'a, T>) -> Packed<'a, T> {
        let packed = Packed::on_demand(cx, operand);
        let Packed { kernels, panels, .. } = packed;
        let k = operand.k;
        let mut data = cx.scratch.lease(k * panels.padded());
        let to = SharedMut::new(&mut data);
        let count = panels.count();
        cx.run(k.div_ceil(CHUNK) * count, |task| {
            let (chunk, panel) = (task / count, panels.get(task % count));
            let rows = chunk * CHUNK..k.min((chunk + 1) * CHUNK);
            let width = panel.vectors * kernels.width;
            let at = rows.start * panels.padded() + rows.len() * panel.first;
            // SAFETY: panels are disjoint parts of the buffer, which outlives the call.
            let to = unsafe { to.slice(at, rows.len() * width) };
            pack_panel(kernels, operand, rows.start, panel, to);
        });
        Packed { memory: Memory::Ahead(data), ..packed }
    }

    /// An operand that is packed now if its memory is `most` bytes at most, else on demand.
    pub(in crate::cpu) fn ahead_within(cx: &Context<'a>, operand: &Operand<'a, T>, most: usize) -> Packed<'a, T> {
        let bytes = operand.k * operand.n * size_of::<T>();
        if bytes <= most { Packed::ahead(cx, operand) } else { Packed::on_demand(cx, operand) }
    }

    /// Whether each task packs for itself.
    pub(super) fn is_on_demand(&self) -> bool {
        matches!(self.memory, Memory::OnDemand)
    }

    /// Elements of scratch that [`Packed::block`] needs for `panels` panels.
    pub(in crate::cpu) fn block_len(&self, panels: usize) -> usize {
        if self.is_on_demand() { self.operand.k.min(CHUNK) * panels * 2 * self.kernels.width } else { 0 }
    }

    /// The rows of `chunk` of the panels in `block`, packed; in `scratch`, where they are not yet.
    pub(in crate::cpu) fn block<'b>(&'b self, chunk: usize, block: Range<usize>, scratch: &'b mut [T]) -> Block<'b, T> {
        let start = chunk * CHUNK;
        let rows = (self.operand.k - start).min(CHUNK);
        let first = self.panels.get(block.start).first;
        let width = self.kernels.width;
        let data = match &self.memory {
            Memory::InPlace => {
                let Operand { data, row_stride, .. } = self.operand;
                let data = &data[start * row_stride + first..];
                return Block { data, first, column_len: 1, width, pitch: Some(row_stride) };
            }
            Memory::Ahead(data) => &data[start * self.panels.padded() + rows * first..],
            Memory::OnDemand => {
                for panel in block.map(|i| self.panels.get(i)) {
                    let width = panel.vectors * width;
                    let to = &mut scratch[rows * (panel.first - first)..][..rows * width];
                    pack_panel(self.kernels, &self.operand, start, panel, to);
                }
                scratch
            }
        };
        Block { data, first, column_len: rows, width, pitch: None }
    }
}

/// Some neighbouring panels of one chunk.
pub(in crate::cpu) struct Block<'a, T> {
    data: &'a [T],
    /// The block's first column.
    first: usize,
    /// Elements between the starts of panels, for each column between them.
    column_len: usize,
    /// Of a vector.
    width: usize,
    /// Elements between rows, where that is more than the panel is wide.
    pitch: Option<usize>,
}

impl<T> Block<'_, T> {
    /// The rows of a panel of the block.
    #[inline]
    pub(in crate::cpu) fn panel(&self, panel: Panel) -> Right<T> {
        let rows = &self.data[self.column_len * (panel.first - self.first)..];
        Right::new(rows, self.pitch.unwrap_or(panel.vectors * self.width))
    }
}

/// Fills `to`, `[rows][width]`, with rows `first_k ..` of the operand's panel.
fn pack_panel<T: Real>(kernels: &Kernels<T>, operand: &Operand<'_, T>, first_k: usize, panel: Panel, to: &mut [T]) {
    let width = panel.vectors * kernels.width;
    let &Operand { data, inner, outer_stride, row_stride, col_stride, .. } = operand;
    let rows = to.len() / width;
    let mut done = 0;
    while done < rows {
        let k = first_k + done;
        let len = (inner - k % inner).min(rows - done);
        let from = &data[k / inner * outer_stride + k % inner * row_stride + panel.first * col_stride..];
        let to = &mut to[done * width..(done + len) * width];
        if col_stride == 1 {
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                copy_row(&from[i * row_stride..i * row_stride + panel.columns], &mut to[..panel.columns]);
            }
        } else {
            transpose(kernels, from, [row_stride, col_stride], [len, panel.columns], to, width);
        }
        if panel.columns < width {
            to.chunks_exact_mut(width).for_each(|to| to[panel.columns..].fill(T::ZERO));
        }
        done += len;
    }
}

/// Copies a short row without the cost of a call to `memcpy`.
#[inline(always)]
pub(super) fn copy_row<T: Real>(from: &[T], to: &mut [T]) {
    let (from_blocks, from_rest) = from.as_chunks::<8>();
    let (to_blocks, to_rest) = to.as_chunks_mut::<8>();
    for (to, from) in to_blocks.iter_mut().zip(from_blocks) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}
