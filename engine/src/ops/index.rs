//! Reading and adding at positions given by an index array: `gather`, `scatter_add`, `index_select`, `index_add`,
//! `one_hot`.
//!
//! Additions that meet in one element happen in the order of increasing position along the axis of the source.

use super::cast::Convert;
use super::operand::{check_axis, same_device, same_kind};
use super::update::in_f32;
use super::{cast, is_half, kernels_for, span, unsupported, with_real};
use crate::gpu;
use crate::profile::Work;
use crate::{Array, DType, Device, Element, Error, ErrorKind, Result, with_dtype};

/// Elements per parallel task.
const TASK: usize = 1 << 15;

/// `y[.., i, ..] = x[.., index[.., i, ..], ..]` along `axis`. `index` (i64) has the shape of the result, which equals
/// that of `x` on every other axis.
///
/// # Errors
/// When shapes do not fit, or an index lies outside the axis.
pub fn gather(x: &Array, axis: usize, index: &Array) -> Result<Array> {
    let [outer, n, inner] = around_axis("gather", x, axis)?;
    expect_index_shape("gather", x, axis, index)?;
    let _span = x.device().span("gather", || rearranging(x, index.numel(), index));
    let (x, index) = (x.contiguous()?, checked_index("gather", index, n)?);
    let k = index.shape()[axis];
    if let Some(gpu) = x.device().gpu() {
        return gpu::index::gather(gpu, &x, &index, [outer, n, inner], k);
    }
    let positions = index.as_slice::<i64>()?;
    with_dtype!(x.dtype(), T, {
        let values = x.as_slice::<T>()?;
        Array::build::<T>(x.device(), index.shape(), "gather", |cpu, out| {
            debug_assert_eq!(out.len(), outer * k * inner);
            cpu.workers().run_chunks(out, TASK, |task, out| {
                for (i, out) in out.iter_mut().enumerate() {
                    let at = task * TASK + i;
                    *out = values[(at / (k * inner) * n + positions[at] as usize) * inner + at % inner];
                }
            });
            Ok(())
        })
    })
}

/// `base[.., index[.., i, ..], ..] += src[.., i, ..]` along `axis`, in place when `base` is the only handle; the adjoint
/// of [`gather`]. `index` (i64) and `src` have one shape, which equals that of `base` on every other axis.
///
/// # Errors
/// When shapes or element types do not fit, an index lies outside the axis, or the type is u8 or bool.
pub fn scatter_add(base: Array, axis: usize, index: &Array, src: &Array) -> Result<Array> {
    let lengths @ [_, n, inner] = around_axis("scatter_add", &base, axis)?;
    expect_index_shape("scatter_add", &base, axis, index)?;
    same_kind("scatter_add", &base, src)?;
    if src.shape() != index.shape() {
        return Err(Error::new(
            ErrorKind::Shape,
            "scatter_add",
            format!("source {:?}, index {:?}", src.shape(), index.shape()),
        )
        .expected("equal shapes"));
    }
    if is_half(base.dtype()) {
        return in_f32(base, src, |base, src| scatter_add(base, axis, index, src));
    }
    let _span = span("scatter_add", &[src, &base, index], |n| (base.numel(), n, 0));
    let (index, k) = (checked_index("scatter_add", index, n)?, index.shape()[axis]);
    if let Some(gpu) = kernels_for(src) {
        return gpu::index::scatter_add(gpu, base, (&index, &src.contiguous()?), lengths, k);
    }
    let positions = index.as_slice::<i64>()?;
    add_at("scatter_add", base, src, n * inner, |outer, add| {
        for at in 0..k * inner {
            add(positions[outer * k * inner + at] as usize * inner + at % inner, outer * k * inner + at, 1);
        }
    })
}

/// `y[.., i, ..] = x[.., index[i], ..]` along `axis`; `index` is i64 of rank 1.
///
/// # Errors
/// When an index lies outside the axis.
pub fn index_select(x: &Array, axis: usize, index: &Array) -> Result<Array> {
    let lengths @ [_, n, inner] = around_axis("index_select", x, axis)?;
    let [k] = index_dims("index_select", index)?;
    same_device("index_select", x, index)?;
    let _span = x.device().span("index_select", || rearranging(x, x.numel() / n.max(1) * k, index));
    let (x, index) = (x.contiguous()?, checked_index("index_select", index, n)?);
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    if let Some(gpu) = x.device().gpu() {
        return gpu::index::index_select(gpu, &x, &index, lengths, &shape);
    }
    let positions = index.as_slice::<i64>()?;
    with_dtype!(x.dtype(), T, {
        let values = x.as_slice::<T>()?;
        Array::build::<T>(x.device(), &shape, "index_select", |cpu, out| {
            if inner == 0 {
                return Ok(());
            }
            let per_task = (TASK / inner).max(1);
            cpu.workers().run_chunks(out, per_task * inner, |task, out| {
                for (i, out) in out.chunks_mut(inner).enumerate() {
                    let at = task * per_task + i;
                    let from = (at / k * n + positions[at % k] as usize) * inner;
                    out.copy_from_slice(&values[from..from + inner]);
                }
            });
            Ok(())
        })
    })
}

/// `base[.., index[i], ..] += src[.., i, ..]` along `axis`, in place when `base` is the only handle; the adjoint of
/// [`index_select`]. `index` is i64 of rank 1.
///
/// # Errors
/// When shapes or element types do not fit, an index lies outside the axis, or the type is u8 or bool.
pub fn index_add(base: Array, axis: usize, index: &Array, src: &Array) -> Result<Array> {
    let lengths @ [_, n, inner] = around_axis("index_add", &base, axis)?;
    let [k] = index_dims("index_add", index)?;
    same_kind("index_add", &base, src)?;
    same_device("index_add", &base, index)?;
    let mut expected = base.shape().to_vec();
    expected[axis] = k;
    if src.shape() != expected {
        return Err(Error::new(ErrorKind::Shape, "index_add", format!("source {:?}", src.shape()))
            .expected(format!("{expected:?}")));
    }
    if is_half(base.dtype()) {
        return in_f32(base, src, |base, src| index_add(base, axis, index, src));
    }
    let _span = span("index_add", &[src, &base, index], |n| (base.numel(), n, 0));
    let index = checked_index("index_add", index, n)?;
    if let Some(gpu) = kernels_for(src) {
        return gpu::index::index_add(gpu, base, (&index, &src.contiguous()?), lengths);
    }
    let positions = index.as_slice::<i64>()?;
    add_at("index_add", base, src, n * inner, |outer, add| {
        for (i, &to) in positions.iter().enumerate() {
            add(to as usize * inner, (outer * k + i) * inner, inner);
        }
    })
}

/// `[.., classes]`: 1 at the position that `index` (i64, `[..]`) names, 0 elsewhere.
///
/// # Errors
/// When an index is not below `classes`.
pub fn one_hot(index: &Array, classes: usize, dtype: DType) -> Result<Array> {
    let _span = index.device().span("one_hot", || Work::moving(index.numel() * (8 + classes * dtype.size())));
    let index = checked_index("one_hot", index, classes)?;
    let shape: Vec<usize> = index.shape().iter().copied().chain([classes]).collect();
    if let Some(gpu) = index.device().gpu() {
        // 0 and 1 are exact in every type.
        return cast(&gpu::index::one_hot(gpu, &index, classes, &shape)?, dtype);
    }
    let positions = index.as_slice::<i64>()?;
    with_dtype!(dtype, T, {
        Array::build::<T>(index.device(), &shape, "one_hot", |_, out| {
            out.fill(T::default());
            for (row, &position) in out.chunks_mut(classes.max(1)).zip(positions) {
                row[position as usize] = 1u8.convert();
            }
            Ok(())
        })
    })
}

/// 0, 1, … n - 1 as i64.
///
/// # Errors
/// `OutOfMemory`.
pub fn arange(n: usize, device: &Device) -> Result<Array> {
    let _span = device.span("arange", || Work::moving(8 * n));
    if let Some(gpu) = device.gpu() {
        return gpu::index::arange(gpu, n);
    }
    Array::build(device, &[n], "arange", |_, out| {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = i as i64);
        Ok(())
    })
}

/// The identity matrix `[n, n]`.
///
/// # Errors
/// `OutOfMemory`.
pub fn eye(n: usize, dtype: DType, device: &Device) -> Result<Array> {
    let _span = device.span("eye", Work::default);
    match device.gpu() {
        Some(gpu) => cast(&gpu::index::eye(gpu, n)?, dtype),
        None => one_hot(&arange(n, device)?, n, dtype),
    }
}

/// What moving `made` elements of `x` to where `index` says costs: they are read and written, and the index read.
fn rearranging(x: &Array, made: usize, index: &Array) -> Work {
    Work::moving(2 * made * x.dtype().size() + index.numel() * index.dtype().size())
}

/// Lengths before, at and behind `axis`.
pub(super) fn around_axis(op: &'static str, x: &Array, axis: usize) -> Result<[usize; 3]> {
    check_axis(op, x, axis)?;
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    Ok([before.iter().product(), x.shape()[axis], after.iter().product()])
}

fn index_dims<const N: usize>(op: &'static str, index: &Array) -> Result<[usize; N]> {
    index.shape().try_into().map_err(|_| {
        Error::new(ErrorKind::Shape, op, format!("index {:?}", index.shape())).expected(format!("{N} axes"))
    })
}

fn expect_index_shape(op: &'static str, x: &Array, axis: usize, index: &Array) -> Result<()> {
    same_device(op, x, index)?;
    let fits = index.rank() == x.rank() && (0..x.rank()).all(|i| i == axis || index.shape()[i] == x.shape()[i]);
    if fits {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("index {:?} for {:?}", index.shape(), x.shape()))
        .expected(format!("equal lengths on every axis but {axis}")))
}

/// The index, contiguous, of type i64 and with no element outside 0..`len`.
fn checked_index(op: &'static str, index: &Array, len: usize) -> Result<Array> {
    if index.dtype() != DType::I64 {
        return Err(unsupported(op, index.dtype(), "an index of type i64"));
    }
    let index = index.contiguous()?;
    check_positions(op, &index, len)?;
    Ok(index)
}

/// Refuses an index (i64, contiguous) with an element outside 0..`len`. Where only a GPU has the elements, this waits
/// for it: a kernel must not read where there is nothing.
pub(super) fn check_positions(op: &'static str, index: &Array, len: usize) -> Result<()> {
    let first = match index.device().gpu() {
        Some(gpu) if !index.is_on_host() => gpu::index::first_outside(gpu, op, index, len)?,
        _ => index.as_slice::<i64>()?.iter().position(|&p| p < 0 || p as u64 >= len as u64),
    };
    let Some(at) = first else { return Ok(()) };
    Err(Error::new(ErrorKind::Shape, op, format!("index {} (element {at})", index.as_slice::<i64>()?[at]))
        .expected(format!("indices from 0 to below {len}")))
}

/// Runs `visit(outer, add)` for each block of `block` elements of `base`; `add(to, from, len)` adds that many source
/// elements to elements of the block.
fn add_at(
    op: &'static str,
    base: Array,
    src: &Array,
    block: usize,
    visit: impl Fn(usize, &mut dyn FnMut(usize, usize, usize)) + Sync,
) -> Result<Array> {
    fn run<T: Element>(
        mut base: Array,
        src: &Array,
        block: usize,
        visit: impl Fn(usize, &mut dyn FnMut(usize, usize, usize)) + Sync,
        sum: impl Fn(T, T) -> T + Sync,
    ) -> Result<Array> {
        let (device, src) = (base.device().clone(), src.contiguous()?);
        let (cpu, source) = (device.host(), src.as_slice::<T>()?);
        cpu.workers().run_chunks(base.make_mut::<T>()?, block.max(1), |outer, out| {
            visit(outer, &mut |to, from, len| {
                for (out, &x) in out[to..to + len].iter_mut().zip(&source[from..from + len]) {
                    *out = sum(*out, x);
                }
            });
        });
        Ok(base)
    }
    match base.dtype() {
        DType::I32 => run(base, src, block, visit, i32::wrapping_add),
        DType::I64 => run(base, src, block, visit, i64::wrapping_add),
        dtype => with_real!(op, dtype, T, run(base, src, block, visit, |a: T, b: T| a + b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, noise};
    use proptest::prelude::*;

    fn index_like(shape: &[usize], below: usize, seed: u64, device: &Device) -> Array {
        let n: usize = shape.iter().product();
        let values: Vec<i64> = (0..n as u64).map(|i| ((i * 7919 + seed * 31) % 1009 % below as u64) as i64).collect();
        Array::from_slice(&values, shape, device).unwrap()
    }

    /// Position in a row-major array of the element with `index` at `axis` in place of that of element `at` of `shape`.
    fn moved(at: usize, shape: &[usize], axis: usize, n: usize, index: i64) -> usize {
        let inner: usize = shape[axis + 1..].iter().product();
        (at / (shape[axis] * inner) * n + index as usize) * inner + at % inner
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn gather_and_scatter_match_a_scalar_loop(
            dims in proptest::collection::vec(1usize..6, 1..4),
            axis in 0usize..3,
            k in 0usize..9,
            seed in 0u64..100,
        ) {
            let axis = axis % dims.len();
            let mut shape = dims.clone();
            shape[axis] = k;
            for device in devices() {
                let x = noise(&dims, 1, &device);
                let index = index_like(&shape, dims[axis], seed, &device);
                let values = x.to_vec::<f32>().unwrap();
                let positions = index.to_vec::<i64>().unwrap();
                let to: Vec<usize> = (0..index.numel())
                    .map(|at| moved(at, &shape, axis, dims[axis], positions[at]))
                    .collect();
                let expected: Vec<f32> = to.iter().map(|&p| values[p]).collect();
                prop_assert_eq!(gather(&x, axis, &index).unwrap().to_vec::<f32>().unwrap(), expected);

                let src = noise(&shape, 2, &device);
                let mut expected = values.clone();
                for (&to, v) in to.iter().zip(src.to_vec::<f32>().unwrap()) {
                    expected[to] += v;
                }
                prop_assert_eq!(scatter_add(x, axis, &index, &src).unwrap().to_vec::<f32>().unwrap(), expected);
            }
        }

        #[test]
        fn index_select_is_a_gather_and_index_add_its_adjoint(
            dims in proptest::collection::vec(1usize..6, 1..4),
            axis in 0usize..3,
            k in 0usize..9,
            seed in 0u64..100,
        ) {
            let axis = axis % dims.len();
            for device in devices() {
                let x = noise(&dims, 3, &device).flip(axis).unwrap();
                let index = index_like(&[k], dims[axis], seed, &device);
                let mut column = vec![1; dims.len()];
                column[axis] = k;
                let mut shape = dims.clone();
                shape[axis] = k;
                let wide = index.reshape(&column).unwrap().broadcast_to(&shape).unwrap();
                let selected = index_select(&x, axis, &index).unwrap();
                prop_assert_eq!(
                    selected.to_vec::<f32>().unwrap(),
                    gather(&x, axis, &wide).unwrap().to_vec::<f32>().unwrap()
                );
                let src = noise(&shape, 4, &device);
                prop_assert_eq!(
                    index_add(x.clone(), axis, &index, &src).unwrap().to_vec::<f32>().unwrap(),
                    scatter_add(x, axis, &wide, &src).unwrap().to_vec::<f32>().unwrap()
                );
            }
        }
    }

    #[test]
    fn one_hot_and_eye_have_one_one_per_row() {
        let device = Device::cpu_with(1).unwrap();
        let index = Array::from_slice(&[2i64, 0], &[2], &device).unwrap();
        let hot = one_hot(&index, 3, DType::F32).unwrap();
        assert_eq!(hot.to_vec::<f32>().unwrap(), [0., 0., 1., 1., 0., 0.]);
        assert_eq!(eye(2, DType::Bool, &device).unwrap().to_vec::<bool>().unwrap(), [true, false, false, true]);
        assert!(one_hot(&index, 2, DType::F32).unwrap_err().sentence().contains("index 2 (element 0)"));
    }

    #[test]
    fn indices_outside_are_refused() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[3, 2], 1, &device);
        for bad in [-1i64, 3] {
            let index = Array::from_slice(&[0, bad], &[2], &device).unwrap();
            assert_eq!(index_select(&x, 0, &index).unwrap_err().kind(), ErrorKind::Shape);
        }
        let floats = noise(&[2], 1, &device);
        assert_eq!(index_select(&x, 0, &floats).unwrap_err().kind(), ErrorKind::DType);
        assert!(gather(&x, 0, &Array::zeros(&[1, 3], DType::I64, &device).unwrap()).is_err());
    }
}
