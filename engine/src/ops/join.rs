//! Joining and padding: `concat`, `stack`, `pad`.

use super::cast::Convert;
use super::operand::{Operand, check_axis, same_kind};
use super::{elements, span};
use crate::gpu;
use crate::profile::Work;
use crate::{Array, DType, Element, Error, ErrorKind, Result, bf16, f16, with_dtype};

/// Elements per parallel task.
const TASK: usize = 1 << 16;

/// The arrays one after the other along `axis`. All other axes must have the same length.
///
/// # Errors
/// When there are no arrays, or their element types, devices, ranks or other axes differ.
pub fn concat(parts: &[&Array], axis: usize) -> Result<Array> {
    let [first, rest @ ..] = parts else {
        return Err(Error::new(ErrorKind::Shape, "concat", "no arrays").expected("at least one"));
    };
    check_axis("concat", first, axis)?;
    let _span = first
        .device()
        .span("concat", || Work::moving(2 * parts.iter().map(|p| p.numel() * p.dtype().size()).sum::<usize>()));
    let mut shape = first.shape().to_vec();
    for part in rest {
        same_kind("concat", first, part)?;
        let fits = part.rank() == shape.len() && (0..shape.len()).all(|i| i == axis || part.shape()[i] == shape[i]);
        if !fits {
            return Err(Error::new(
                ErrorKind::Shape,
                "concat",
                format!("{:?} after {:?}", part.shape(), first.shape()),
            )
            .expected(format!("equal lengths on every axis but {axis}")));
        }
        shape[axis] += part.shape()[axis];
    }
    if let Some(gpu) = first.device().gpu() {
        return gpu::join::concat(gpu, parts, axis, &shape);
    }
    with_dtype!(first.dtype(), T, concat_elements::<T>(parts, axis, &shape))
}

fn concat_elements<T: Element>(parts: &[&Array], axis: usize, shape: &[usize]) -> Result<Array> {
    let inner: usize = shape[axis + 1..].iter().product();
    let row = shape[axis] * inner;
    let operands = parts
        .iter()
        .map(|part| Ok((Operand::<T>::new(part, part.shape())?, part.shape()[axis] * inner)))
        .collect::<Result<Vec<_>>>()?;
    Array::build::<T>(parts[0].device(), shape, "concat", |cpu, out| {
        let rows_per_task = (TASK / row.max(1)).max(1);
        cpu.workers().run_chunks(out, (rows_per_task * row).max(1), |task, rows| {
            for (i, mut row) in rows.chunks_mut(row).enumerate() {
                for (operand, len) in &operands {
                    let (now, later) = row.split_at_mut(*len);
                    operand.copy_to((task * rows_per_task + i) * len, now);
                    row = later;
                }
            }
        });
        Ok(())
    })
}

/// The arrays, of one shape, along a new axis before `axis`.
///
/// # Errors
/// When there are no arrays, or their element types, devices or shapes differ.
pub fn stack(parts: &[&Array], axis: usize) -> Result<Array> {
    let Some(first) = parts.first() else {
        return Err(Error::new(ErrorKind::Shape, "stack", "no arrays").expected("at least one"));
    };
    let _span = first.device().span("stack", Work::default);
    if let Some(other) = parts.iter().find(|part| part.shape() != first.shape()) {
        return Err(Error::new(ErrorKind::Shape, "stack", format!("{:?} beside {:?}", other.shape(), first.shape()))
            .expected("equal shapes"));
    }
    if axis > first.rank() {
        return Err(Error::new(ErrorKind::Shape, "stack", format!("axis {axis} for shape {:?}", first.shape()))
            .expected(format!("an axis of at most {}", first.rank())));
    }
    let mut shape = first.shape().to_vec();
    shape.insert(axis, 1);
    let parts = parts.iter().map(|part| part.reshape(&shape)).collect::<Result<Vec<_>>>()?;
    concat(&parts.iter().collect::<Vec<_>>(), axis)
}

/// `x` with `value` around it: `widths[axis]` elements (before, after) along each axis.
///
/// # Errors
/// When `widths` does not name every axis.
pub fn pad(x: &Array, widths: &[(usize, usize)], value: f64) -> Result<Array> {
    if widths.len() != x.rank() {
        return Err(Error::new(ErrorKind::Shape, "pad", format!("{} widths for shape {:?}", widths.len(), x.shape()))
            .expected(format!("{} (before, after) pairs", x.rank())));
    }
    let shape: Vec<usize> = x.shape().iter().zip(widths).map(|(d, (before, after))| d + before + after).collect();
    let _span = span("pad", &[x], |_| (elements(&shape), 0, 0));
    if let Some(gpu) = x.device().gpu() {
        let start: Vec<usize> = widths.iter().map(|(before, _)| *before).collect();
        if let Some(padded) = gpu::join::pad(gpu, x, &start, bits_of(value, x.dtype()), &shape)? {
            return Ok(padded);
        }
    }
    with_dtype!(x.dtype(), T, pad_elements::<T>(x, widths, &shape, value.convert()))
}

/// The bits of `value` as an element.
fn bits_of(value: f64, dtype: DType) -> u64 {
    match dtype {
        DType::F32 => u64::from(Convert::<f32>::convert(value).to_bits()),
        DType::F64 => value.to_bits(),
        DType::BF16 => u64::from(Convert::<bf16>::convert(value).to_bits()),
        DType::F16 => u64::from(Convert::<f16>::convert(value).to_bits()),
        DType::I32 => Convert::<i32>::convert(value) as u64,
        DType::I64 => Convert::<i64>::convert(value) as u64,
        DType::U8 => u64::from(Convert::<u8>::convert(value)),
        DType::Bool => u64::from(Convert::<bool>::convert(value)),
    }
}

fn pad_elements<T: Element>(x: &Array, widths: &[(usize, usize)], shape: &[usize], value: T) -> Result<Array> {
    let operand = Operand::<T>::new(x, x.shape())?;
    Array::build::<T>(x.device(), shape, "pad", |cpu, out| {
        let (row, row_in) = (shape.last().copied().unwrap_or(1), x.shape().last().copied().unwrap_or(1));
        let before = widths.last().map_or(0, |(before, _)| *before);
        let rows_per_task = (TASK / row.max(1)).max(1);
        cpu.workers().run_chunks(out, (rows_per_task * row).max(1), |task, rows| {
            for (i, out) in rows.chunks_mut(row).enumerate() {
                out.fill(value);
                if let Some(source) = source_row(task * rows_per_task + i, shape, x.shape(), widths) {
                    operand.copy_to(source * row_in, &mut out[before..before + row_in]);
                }
            }
        });
        Ok(())
    })
}

/// The row (index over all axes but the last) of the input that fills `row` of the padded output, if any.
fn source_row(mut row: usize, shape: &[usize], inner: &[usize], widths: &[(usize, usize)]) -> Option<usize> {
    let (mut source, mut stride) = (0, 1);
    for axis in (0..shape.len().saturating_sub(1)).rev() {
        let at = (row % shape[axis]).checked_sub(widths[axis].0).filter(|at| *at < inner[axis])?;
        row /= shape[axis];
        source += at * stride;
        stride *= inner[axis];
    }
    Some(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};
    use proptest::prelude::*;

    fn iota(shape: &[usize], from: i32, device: &Device) -> Array {
        let n: usize = shape.iter().product();
        Array::from_slice(&(from..from + n as i32).collect::<Vec<_>>(), shape, device).unwrap()
    }

    proptest! {
        #[test]
        fn slices_of_a_concat_are_its_parts(
            dims in proptest::collection::vec(0usize..5, 3),
            lens in proptest::collection::vec(0usize..4, 1..5),
            axis in 0usize..3,
            threads in 1usize..4,
        ) {
            let device = Device::cpu_with(threads).unwrap();
            let parts: Vec<Array> = lens
                .iter()
                .enumerate()
                .map(|(i, &len)| {
                    let mut shape = dims.clone();
                    shape[axis] = len;
                    // Reversed axes: the parts are not contiguous.
                    shape.reverse();
                    iota(&shape, 1000 * i as i32, &device).permute(&[2, 1, 0]).unwrap()
                })
                .collect();
            let whole = concat(&parts.iter().collect::<Vec<_>>(), axis).unwrap();
            let mut at = 0;
            for part in &parts {
                let len = part.shape()[axis];
                let slice = whole.slice(axis, at, at + len).unwrap();
                prop_assert_eq!(slice.to_vec::<i32>().unwrap(), part.to_vec::<i32>().unwrap());
                at += len;
            }
            prop_assert_eq!(whole.shape()[axis], at);
        }

        #[test]
        fn pad_surrounds_its_input(
            dims in proptest::collection::vec(0usize..5, 0..4),
            widths in proptest::collection::vec((0usize..3, 0usize..3), 4),
        ) {
            let device = Device::cpu_with(2).unwrap();
            let x = iota(&dims, 1, &device);
            let widths = &widths[..dims.len()];
            let padded = pad(&x, widths, -7.0).unwrap();
            let mut inside = padded.clone();
            for (axis, &(before, _)) in widths.iter().enumerate() {
                inside = inside.slice(axis, before, before + dims[axis]).unwrap();
            }
            prop_assert_eq!(inside.to_vec::<i32>().unwrap(), x.to_vec::<i32>().unwrap());
            let filled = padded.to_vec::<i32>().unwrap().into_iter().filter(|v| *v == -7).count();
            prop_assert_eq!(filled, padded.numel() - x.numel());
        }
    }

    #[test]
    fn stack_adds_an_axis() {
        let device = Device::cpu_with(1).unwrap();
        let (a, b) = (iota(&[2, 3], 0, &device), iota(&[2, 3], 10, &device));
        let s = stack(&[&a, &b], 1).unwrap();
        assert_eq!(s.shape(), [2, 2, 3]);
        assert_eq!(s.to_vec::<i32>().unwrap(), [0, 1, 2, 10, 11, 12, 3, 4, 5, 13, 14, 15]);
        assert_eq!(stack(&[&a, &b], 2).unwrap().to_vec::<i32>().unwrap()[..4], [0, 10, 1, 11]);
    }

    #[test]
    fn unlike_parts_are_refused() {
        let device = Device::cpu_with(1).unwrap();
        let a = iota(&[2, 3], 0, &device);
        assert!(concat(&[], 0).is_err());
        assert!(concat(&[&a, &iota(&[2, 4], 0, &device)], 0).is_err());
        assert!(concat(&[&a], 2).is_err());
        let floats = Array::zeros(&[2, 3], DType::F32, &device).unwrap();
        assert_eq!(concat(&[&a, &floats], 0).unwrap_err().kind(), ErrorKind::DType);
        let elsewhere = iota(&[2, 3], 0, &Device::cpu_with(1).unwrap());
        assert_eq!(concat(&[&a, &elsewhere], 0).unwrap_err().kind(), ErrorKind::Device);
        assert!(pad(&a, &[(0, 1)], 0.0).is_err());
    }
}
