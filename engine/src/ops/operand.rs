//! Reading operands of any layout, broadcast to a common shape, block by block in row-major order; and the blocks in
//! which element-wise primitives write.

use crate::cpu::CpuDevice;
use crate::{Array, Element, Error, ErrorKind, Result};

/// Elements per inner block: operands that need gathering go through scratch of this size, which stays in the
/// first-level cache.
const BLOCK: usize = 1 << 11;

/// An operand seen under the shape of the result.
pub(crate) struct Operand<'a, T> {
    elements: &'a [T],
    offset: isize,
    /// (length, stride) per axis, outermost first; neighbours that continue each other are merged.
    axes: Vec<(usize, isize)>,
}

impl<'a, T: Element> Operand<'a, T> {
    /// `x` broadcast to `shape`.
    ///
    /// # Errors
    /// When the element type is not `T` or the shape does not broadcast.
    pub(crate) fn new(x: &'a Array, shape: &[usize]) -> Result<Self> {
        let layout = x.layout().broadcast_to(shape)?;
        let mut axes: Vec<(usize, isize)> = Vec::with_capacity(shape.len());
        for (&len, &stride) in layout.shape().iter().zip(layout.strides()) {
            match axes.last_mut() {
                _ if len == 1 => {}
                Some((outer, s)) if *s == stride * len as isize => {
                    *outer *= len;
                    *s = stride;
                }
                _ => axes.push((len, stride)),
            }
        }
        Ok(Operand { elements: x.storage_slice()?, offset: layout.offset() as isize, axes })
    }

    /// The value, when all elements are one and the same.
    pub(crate) fn constant(&self) -> Option<T> {
        match self.axes[..] {
            [] | [(_, 0)] => self.elements.get(self.offset as usize).copied(),
            _ => None,
        }
    }

    /// Elements `start..start + len`, straight from storage where they lie side by side, else gathered into `scratch`.
    pub(crate) fn read<'b>(&self, start: usize, len: usize, scratch: &'b mut Vec<T>) -> &'b [T]
    where
        'a: 'b,
    {
        if len == 0 {
            return &[];
        }
        if let Some((&(inner, 1), outer)) = self.axes.split_last()
            && start % inner + len <= inner
        {
            let row = Odometer::at(outer, start / inner, self.offset);
            let from = row.base as usize + start % inner;
            return &self.elements[from..from + len];
        }
        scratch.resize(len, T::default());
        self.copy_to(start, scratch);
        scratch
    }

    /// Copies the elements from `start` on into `out`.
    pub(crate) fn copy_to(&self, start: usize, mut out: &mut [T]) {
        if out.is_empty() {
            return;
        }
        let ((inner, stride), outer) = match self.axes.split_last() {
            Some((&last, outer)) => (last, outer),
            None => ((1, 1), &[][..]),
        };
        let mut within = start % inner;
        let mut row = Odometer::at(outer, start / inner, self.offset);
        loop {
            let run = (inner - within).min(out.len());
            let (now, later) = out.split_at_mut(run);
            let from = (row.base + within as isize * stride) as usize;
            match stride {
                1 => now.copy_from_slice(&self.elements[from..from + run]),
                0 => now.fill(self.elements[from]),
                _ => {
                    for (i, value) in now.iter_mut().enumerate() {
                        *value = self.elements[(from as isize + i as isize * stride) as usize];
                    }
                }
            }
            if later.is_empty() {
                return;
            }
            out = later;
            within = 0;
            row.step(outer);
        }
    }
}

/// A position on the outer axes of a view, counted in row-major order.
struct Odometer {
    at: Vec<usize>,
    base: isize,
}

impl Odometer {
    fn at(axes: &[(usize, isize)], mut index: usize, offset: isize) -> Odometer {
        let mut odometer = Odometer { at: vec![0; axes.len()], base: offset };
        for (at, &(len, stride)) in odometer.at.iter_mut().zip(axes).rev() {
            *at = index % len;
            index /= len;
            odometer.base += *at as isize * stride;
        }
        odometer
    }

    fn step(&mut self, axes: &[(usize, isize)]) {
        for (at, &(len, stride)) in self.at.iter_mut().zip(axes).rev() {
            *at += 1;
            self.base += stride;
            if *at < len {
                return;
            }
            self.base -= stride * len as isize;
            *at = 0;
        }
    }
}

/// Writes `out` in parallel, block by block: `write(scratch, start, block)` fills the block that starts at element
/// `start`; what it leaves in the scratch is seen by other blocks of the same task.
pub(crate) fn write_blocks<T: Send, S: Default>(
    cpu: &CpuDevice,
    out: &mut [T],
    write: impl Fn(&mut S, usize, &mut [T]) + Sync,
) {
    let task_len = cpu.workers().task_len(out.len());
    cpu.workers().run_chunks(out, task_len, |task, part| {
        let mut scratch = S::default();
        for (i, block) in part.chunks_mut(BLOCK).enumerate() {
            write(&mut scratch, task * task_len + i * BLOCK, block);
        }
    });
}

/// out[i] = f(x[i]) without an instruction-set dispatch: for copies, conversions and integers.
pub(crate) fn map1<A: Element, U: Element>(cpu: &CpuDevice, x: &Operand<A>, out: &mut [U], f: impl Fn(A) -> U + Sync) {
    write_blocks(cpu, out, |scratch, start, out| {
        let x = x.read(start, out.len(), scratch);
        for (out, &x) in out.iter_mut().zip(x) {
            *out = f(x);
        }
    });
}

/// out[i] = f(a[i], b[i]), as [`map1`].
pub(crate) fn map2<A: Element, B: Element, U: Element>(
    cpu: &CpuDevice,
    (a, b): (&Operand<A>, &Operand<B>),
    out: &mut [U],
    f: impl Fn(A, B) -> U + Sync,
) {
    write_blocks(cpu, out, |(scratch_a, scratch_b), start, out| {
        let a = a.read(start, out.len(), scratch_a);
        let b = b.read(start, out.len(), scratch_b);
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = f(a, b);
        }
    });
}

/// Refuses operands that live on different devices.
pub(crate) fn same_device(op: &'static str, a: &Array, b: &Array) -> Result<()> {
    if a.device().is(b.device()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Device, op, format!("operands on {:?} and {:?}", a.device(), b.device()))
        .expected("one device")
        .hint("move one of them with to_device"))
}

/// Refuses operands of different element types or devices.
pub(crate) fn same_kind(op: &'static str, a: &Array, b: &Array) -> Result<()> {
    if a.dtype() != b.dtype() {
        return Err(Error::new(
            ErrorKind::DType,
            op,
            format!("{} {:?} and {} {:?}", a.dtype(), a.shape(), b.dtype(), b.shape()),
        )
        .expected("one element type")
        .hint("nothing is converted silently; use cast"));
    }
    same_device(op, a, b)
}

/// Refuses an axis that `x` does not have.
pub(crate) fn check_axis(op: &'static str, x: &Array, axis: usize) -> Result<()> {
    if axis < x.rank() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("axis {axis} of shape {:?}", x.shape()))
        .expected(format!("an axis below {}", x.rank())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_at_any_start_match_the_view(
            (d0, d1, d2) in (1usize..5, 1usize..6, 1usize..7),
            view in 0usize..6,
            start in 0usize..200,
            len in 0usize..200,
        ) {
            let device = Device::cpu_with(1).unwrap();
            let values: Vec<i32> = (0..(d0 * d1 * d2) as i32).collect();
            let x = Array::from_slice(&values, &[d0, d1, d2], &device).unwrap();
            let x = match view {
                0 => x,
                1 => x.permute(&[2, 0, 1]).unwrap(),
                2 => x.flip(2).unwrap().transpose(0, 1).unwrap(),
                3 => x.slice_step(2, 0, d2, 2).unwrap(),
                4 => x.slice(1, d1 / 2, d1).unwrap().flip(1).unwrap(),
                _ => x.slice(1, 0, 1).unwrap(),
            };
            let mut shape = vec![2];
            shape.extend(x.shape());
            if view == 5 {
                shape[2] = 3;
            }
            let expected = x.broadcast_to(&shape).unwrap().to_vec::<i32>().unwrap();
            let start = start.min(expected.len() - 1);
            let len = len.min(expected.len() - start);
            let operand = Operand::<i32>::new(&x, &shape).unwrap();
            let mut scratch = Vec::new();
            prop_assert_eq!(operand.read(start, len, &mut scratch), &expected[start..start + len]);
        }
    }
}
