//! The steps of optimisers and of moving averages, over all parameters at once.
//!
//! Each function is one pass over memory on the CPU and a launch per parameter on a GPU device; sums of squares come
//! with the pass that reads the elements anyway. The element functions are those of [`selfsame_kernels::optim`], sums
//! are in the order of a parameter's norm. Tensors of one call have one element type, f32 or f64, and one device.

use super::{Float, unsupported, with_real};
use crate::cpu::passes::{Slices, over_chunks};
use crate::gpu::{self, GpuDevice};
use crate::profile::{Span, Work};
use crate::{Array, DType, Device, Error, ErrorKind, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::optim::{self as k, AdamW, Average, Lamb, Lars, Sgd};

/// One tensor of a pass: arrays of one shape, some changed in place, some read.
pub struct Tensors<'a, const WRITTEN: usize, const READ: usize> {
    /// A parameter, then its state in the order in which the pass names it. An array that is shared is copied first.
    pub written: [&'a mut Array; WRITTEN],
    /// What the pass reads.
    pub read: [&'a Array; READ],
}

/// The sum of squares of each array, in the element type.
///
/// # Errors
/// When element types or devices differ, or the type is not f32 or f64.
pub fn norms_sq(arrays: &[&Array]) -> Result<Vec<f64>> {
    let tensors: Vec<_> = arrays.iter().map(|x| Tensors { written: [], read: [*x, *x] }).collect();
    let squares = decayed_squares(&tensors, &vec![0.0; arrays.len()])?;
    Ok(squares.into_iter().map(|[x, ..]| x).collect())
}

/// The sums of squares of w, of g and of g + decay w, in the element type. Reads (w, g); one decay per tensor.
///
/// # Errors
/// As for [`sgd_step`].
pub fn decayed_squares(tensors: &[Tensors<'_, 0, 2>], decays: &[f64]) -> Result<Vec<[f64; 3]>> {
    const OP: &str = "decayed_squares";
    let Some(common) = Common::of(OP, tensors, decays.len())? else { return Ok(Vec::new()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::decayed_squares(gpu, tensors, decays);
    }
    with_real!(OP, common.dtype, T, {
        let mut unwritten: Vec<_> = tensors.iter().map(|t| Tensors { written: [], read: t.read }).collect();
        on_cpu::<T, 0, 2, 3>(&common, &mut unwritten, |isa, i, [], [w, g]| {
            k::decayed_squares(isa, <T as Real>::from_f64(decays[i]), w, g)
        })
    })
}

/// A step of gradient descent with momentum: writes (w, v), reads g. The sum of squares of each w before it.
///
/// # Errors
/// When shapes of a tensor, element types or devices differ, the type is not f32 or f64, or the number of steps is not
/// that of the tensors.
pub fn sgd_step(tensors: &mut [Tensors<'_, 2, 1>], steps: &[Sgd<f64>]) -> Result<Vec<f64>> {
    const OP: &str = "sgd_step";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(Vec::new()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::sgd_step(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 2, 1, 1>(&common, tensors, |isa, i, [w, v], [g]| k::sgd_step(isa, steps[i].rounded(), w, v, g))
    })
    .map(only)
}

/// A step of AdamW: writes (w, m, s), reads g. The sum of squares of each w before it.
///
/// # Errors
/// As for [`sgd_step`].
pub fn adamw_step(tensors: &mut [Tensors<'_, 3, 1>], steps: &[AdamW<f64>]) -> Result<Vec<f64>> {
    const OP: &str = "adamw_step";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(Vec::new()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::adamw_step(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 3, 1, 1>(&common, tensors, |isa, i, [w, m, s], [g]| {
            k::adamw_step(isa, steps[i].rounded(), w, m, s, g)
        })
    })
    .map(only)
}

/// A step of LARS whose rates are known: writes (w, v), reads g.
///
/// # Errors
/// As for [`sgd_step`].
pub fn lars_step(tensors: &mut [Tensors<'_, 2, 1>], steps: &[Lars<f64>]) -> Result<()> {
    const OP: &str = "lars_step";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::lars_step(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 2, 1, 0>(&common, tensors, |isa, i, [w, v], [g]| {
            k::lars_step(isa, steps[i].rounded(), w, v, g);
            []
        })
    })
    .map(drop)
}

/// The first half of a step of LARS whose trust ratio is that of the update: writes v of (w, v), reads g. The sum of
/// squares of each direction.
///
/// # Errors
/// As for [`sgd_step`].
pub fn lars_velocity(tensors: &mut [Tensors<'_, 2, 1>], steps: &[Lars<f64>]) -> Result<Vec<f64>> {
    const OP: &str = "lars_velocity";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(Vec::new()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::lars_velocity(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 2, 1, 1>(&common, tensors, |isa, i, [w, v], [g]| k::lars_velocity(isa, steps[i].rounded(), w, v, g))
    })
    .map(only)
}

/// The second half: writes w of (w, v), reads g.
///
/// # Errors
/// As for [`sgd_step`].
pub fn lars_walk(tensors: &mut [Tensors<'_, 2, 1>], steps: &[Lars<f64>]) -> Result<()> {
    const OP: &str = "lars_walk";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::lars_walk(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 2, 1, 0>(&common, tensors, |isa, i, [w, v], [g]| {
            k::lars_walk(isa, steps[i].rounded(), w, v, g);
            []
        })
    })
    .map(drop)
}

/// The first half of a step of LAMB: writes (m, s) of (w, m, s), reads g. The sums of squares of each w and of each
/// direction.
///
/// # Errors
/// As for [`sgd_step`].
pub fn lamb_moments(tensors: &mut [Tensors<'_, 3, 1>], steps: &[Lamb<f64>]) -> Result<Vec<[f64; 2]>> {
    const OP: &str = "lamb_moments";
    let Some(common) = Common::of(OP, tensors, steps.len())? else { return Ok(Vec::new()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::lamb_moments(gpu, tensors, steps);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 3, 1, 2>(&common, tensors, |isa, i, [w, m, s], [g]| {
            k::lamb_moments(isa, steps[i].rounded(), w, m, s, g)
        })
    })
}

/// The second half: w moves by its rate along its direction. Writes w of (w, m, s).
///
/// # Errors
/// As for [`sgd_step`]; the number of rates is that of the steps.
pub fn lamb_walk(tensors: &mut [Tensors<'_, 3, 1>], steps: &[Lamb<f64>], rates: &[f64]) -> Result<()> {
    const OP: &str = "lamb_walk";
    let Some(common) = Common::of(OP, tensors, steps.len().min(rates.len()))? else { return Ok(()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::lamb_walk(gpu, tensors, steps, rates);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 3, 1, 0>(&common, tensors, |isa, i, [w, m, s], _| {
            k::lamb_walk(isa, steps[i].rounded(), <T as Real>::from_f64(rates[i]), w, m, s);
            []
        })
    })
    .map(drop)
}

/// A step of moving averages: writes w, reads x.
///
/// # Errors
/// As for [`sgd_step`].
pub fn average(tensors: &mut [Tensors<'_, 1, 1>], average: Average<f64>) -> Result<()> {
    const OP: &str = "average";
    let Some(common) = Common::of(OP, tensors, tensors.len())? else { return Ok(()) };
    let _span = common.span(OP, tensors);
    if let Some(gpu) = common.kernels() {
        return gpu::optim::average(gpu, tensors, average);
    }
    with_real!(OP, common.dtype, T, {
        on_cpu::<T, 1, 1, 0>(&common, tensors, |isa, _, [w], [x]| {
            k::average(isa, average.rounded(), w, x);
            []
        })
    })
    .map(drop)
}

fn only(sums: Vec<[f64; 1]>) -> Vec<f64> {
    sums.into_iter().map(|[sum]| sum).collect()
}

/// What all arrays of a call have in common.
struct Common {
    dtype: DType,
    device: Device,
}

impl Common {
    /// `None` when there are no tensors.
    #[track_caller]
    fn of<const W: usize, const R: usize>(
        op: &'static str,
        tensors: &[Tensors<'_, W, R>],
        steps: usize,
    ) -> Result<Option<Common>> {
        if steps != tensors.len() {
            return Err(Error::new(ErrorKind::Shape, op, format!("{steps} steps for {} tensors", tensors.len()))
                .expected("one for each"));
        }
        let Some(first) = tensors.iter().flat_map(Tensors::arrays).next() else { return Ok(None) };
        let common = Common { dtype: first.dtype(), device: first.device().clone() };
        if !matches!(common.dtype, DType::F32 | DType::F64) {
            return Err(unsupported(op, common.dtype, "f32 or f64"));
        }
        for tensor in tensors {
            let shape = tensor.arrays().next().expect("every tensor has as many arrays as the first").shape();
            for x in tensor.arrays() {
                if x.shape() != shape {
                    return Err(Error::new(ErrorKind::Shape, op, format!("{:?} and {shape:?}", x.shape()))
                        .expected("equal shapes of a parameter, its state and its gradient"));
                }
                if x.dtype() != common.dtype {
                    return Err(Error::new(ErrorKind::DType, op, format!("{} and {}", x.dtype(), common.dtype))
                        .expected("one element type for all tensors"));
                }
                if !x.device().is(&common.device) {
                    return Err(Error::new(ErrorKind::Device, op, format!("{:?} and {:?}", x.device(), common.device))
                        .expected("one device for all tensors"));
                }
            }
        }
        Ok(Some(common))
    }

    /// Opens the span of the pass, which moves what it reads, and twice what it changes.
    fn span<const W: usize, const R: usize>(&self, op: &'static str, tensors: &[Tensors<'_, W, R>]) -> Span {
        let elements = || tensors.iter().filter_map(|tensor| tensor.arrays().next()).map(Array::numel).sum::<usize>();
        self.device.span(op, || Work::moving((2 * W + R) * self.dtype.size() * elements()))
    }

    /// The device whose kernels compute the pass: on a GPU device, f32 is theirs.
    fn kernels(&self) -> Option<&GpuDevice> {
        self.device.gpu().filter(|_| self.dtype == DType::F32)
    }
}

impl<const W: usize, const R: usize> Tensors<'_, W, R> {
    fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.written.iter().map(|x| &**x).chain(self.read.iter().copied())
    }
}

/// One parallel loop over the chunks of all tensors on the CPU; what `chunk` returns is added up per tensor.
fn on_cpu<T: Float, const W: usize, const R: usize, const SUMS: usize>(
    common: &Common,
    tensors: &mut [Tensors<'_, W, R>],
    chunk: impl Fn(Isa, usize, [&mut [T]; W], [&[T]; R]) -> [T; SUMS] + Sync,
) -> Result<Vec<[f64; SUMS]>> {
    let mut read = Vec::with_capacity(R * tensors.len());
    for x in tensors.iter().flat_map(|tensor| tensor.read) {
        read.push(x.contiguous()?);
    }
    let mut slices = Vec::with_capacity(tensors.len());
    for (i, tensor) in tensors.iter_mut().enumerate() {
        let mut of = Slices {
            len: tensor.arrays().next().map_or(0, Array::numel),
            written: std::array::from_fn(|_| &mut [][..]),
            read: [&[][..]; R],
        };
        for (slice, x) in of.written.iter_mut().zip(&mut tensor.written) {
            *slice = x.make_mut::<T>()?;
        }
        for (slice, x) in of.read.iter_mut().zip(&read[R * i..]) {
            *slice = x.as_slice::<T>()?;
        }
        slices.push(of);
    }
    let sums = over_chunks(common.device.host(), slices, chunk);
    Ok(sums.into_iter().map(|sums| sums.map(Real::to_f64)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, noise};

    #[test]
    fn norms_have_the_bits_of_single_ones() {
        for device in devices() {
            let arrays = [noise(&[50_001], 1, &device), noise(&[0], 2, &device), noise(&[3, 5], 3, &device)];
            let got = norms_sq(&[&arrays[0], &arrays[1], &arrays[2].transpose(0, 1).unwrap()]).unwrap();
            let single = |x: &Array| crate::ops::norm_sq(x).unwrap();
            assert_eq!(got, [single(&arrays[0]), 0.0, single(&arrays[2].transpose(0, 1).unwrap())]);
        }
    }

    #[test]
    fn a_step_copies_what_is_shared_and_mismatches_are_named() {
        let device = Device::cpu_with(2).unwrap();
        let array = |values: &[f64]| Array::from_slice(values, &[values.len()], &device).unwrap();
        let (mut w, mut v, g) = (array(&[1.0, 2.0]), array(&[0.0, 4.0]), array(&[2.0, 2.0]));
        let kept = w.clone();
        let step = Sgd { decay: 0.5, momentum: 0.5, ahead: 0.0, lr: 0.25 };
        let squares = sgd_step(&mut [Tensors { written: [&mut w, &mut v], read: [&g] }], &[step]).unwrap();
        assert_eq!((squares, kept.to_vec::<f64>().unwrap()), (vec![5.0], vec![1.0, 2.0]));
        // v = [0.5·0 + 2.5, 0.5·4 + 3].
        assert_eq!(v.to_vec::<f64>().unwrap(), [2.5, 5.0]);
        assert_eq!(w.to_vec::<f64>().unwrap(), [1.0 - 0.25 * 2.5, 2.0 - 0.25 * 5.0]);

        let kind = |result: Result<()>| result.unwrap_err().kind();
        let towards = Average { momentum: 0.5, share: 0.5 };
        let short = array(&[1.0]);
        assert_eq!(kind(average(&mut [Tensors { written: [&mut w], read: [&short] }], towards)), ErrorKind::Shape);
        let single = Array::zeros(&[2], DType::F32, &device).unwrap();
        assert_eq!(kind(average(&mut [Tensors { written: [&mut w], read: [&single] }], towards)), ErrorKind::DType);
        let other = g.to_device(&Device::cpu_with(1).unwrap()).unwrap();
        assert_eq!(kind(average(&mut [Tensors { written: [&mut w], read: [&other] }], towards)), ErrorKind::Device);
        let steps = sgd_step(&mut [Tensors { written: [&mut w, &mut v], read: [&g] }], &[]);
        assert_eq!(steps.unwrap_err().kind(), ErrorKind::Shape);
    }
}
