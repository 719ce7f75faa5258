//! Element-wise functions: one and two operands, with broadcasting; `select`, `clamp`, `is_finite`.
//!
//! Operands broadcast by NumPy's rule: trailing axes are equal or 1.

use super::cast::Convert;
use super::operand::{Operand, map1, map2, same_device, same_kind, write_blocks};
use super::{cast, elements, is_half, kernels_for, span, through_f32, unsupported, with_real};
use crate::cpu::past::Writing;
use crate::gpu;
use crate::layout::broadcast_shape;
use crate::{Array, DType, Element, Error, ErrorKind, Result, with_dtype};
use selfsame_kernels::elementwise;
pub use selfsame_kernels::elementwise::{Binary, Unary};
use selfsame_kernels::math::Real;
use std::sync::atomic::{AtomicBool, Ordering};

/// op(x), element by element. Integers have `Neg`, `Abs`, `Sign`, `Square`, wrapping.
///
/// # Errors
/// When the operation does not take the element type.
pub fn unary(op: Unary, x: &Array) -> Result<Array> {
    let (flop, special) = unary_cost(op);
    let _span = (!is_half(x.dtype())).then(|| span(op.name(), &[x], |n| (n, flop * n, special * n)));
    if let Some(gpu) = kernels_for(x) {
        return gpu::elementwise::unary(gpu, op, x);
    }
    if let Some(gpu) = x.device().gpu().filter(|_| !x.dtype().is_float())
        && let Some(y) = gpu::elementwise::unary_integer(gpu, op, x)?
    {
        return Ok(y);
    }
    match x.dtype() {
        DType::I32 => unary_integer::<i32>(op, x),
        DType::I64 => unary_integer::<i64>(op, x),
        dtype if is_half(dtype) => through_f32(x, |x| unary(op, x)),
        dtype => with_real!(op.name(), dtype, T, {
            let operand = Operand::<T>::new(x, x.shape())?;
            Array::build::<T>(x.device(), x.shape(), op.name(), |cpu, out| {
                let writing = writing(out, special);
                write_blocks(cpu, out, |scratch, start, out| {
                    let x = operand.read(start, out.len(), scratch);
                    writing.write(out, |first, out| elementwise::unary(cpu.isa(), op, &x[first..], out));
                });
                Ok(())
            })
        }),
    }
}

/// op(a, b) with broadcasting. Integers have `Add`, `Sub`, `Mul` (wrapping), `Min`, `Max`.
///
/// # Errors
/// When shapes do not broadcast, element types or devices differ, or the operation does not take the type.
pub fn binary(op: Binary, a: &Array, b: &Array) -> Result<Array> {
    same_kind(op.name(), a, b)?;
    let shape = broadcast_shape(op.name(), a.shape(), b.shape())?;
    let (flop, special) = binary_cost(op);
    let _span = (!is_half(a.dtype()))
        .then(|| span(op.name(), &[a, b], |_| (elements(&shape), flop * elements(&shape), special * elements(&shape))));
    if let Some(gpu) = kernels_for(a) {
        return gpu::elementwise::binary(gpu, op, a, b, &shape);
    }
    if let Some(gpu) = a.device().gpu().filter(|_| !a.dtype().is_float())
        && let Some(y) = gpu::elementwise::binary_integer(gpu, op, a, b, &shape)?
    {
        return Ok(y);
    }
    match a.dtype() {
        DType::I32 => binary_integer::<i32>(op, a, b, &shape),
        DType::I64 => binary_integer::<i64>(op, a, b, &shape),
        DType::U8 => binary_integer::<u8>(op, a, b, &shape),
        dtype if is_half(dtype) => cast(&binary(op, &cast(a, DType::F32)?, &cast(b, DType::F32)?)?, dtype),
        dtype => with_real!(op.name(), dtype, T, {
            let (a_operand, b_operand) = (Operand::<T>::new(a, &shape)?, Operand::<T>::new(b, &shape)?);
            let scalar = b_operand.constant();
            Array::build::<T>(a.device(), &shape, op.name(), |cpu, out| {
                let writing = writing(out, special);
                write_blocks(cpu, out, |(scratch_a, scratch_b), start, out| {
                    let a = a_operand.read(start, out.len(), scratch_a);
                    let b = if scalar.is_none() { b_operand.read(start, out.len(), scratch_b) } else { &[] };
                    writing.write(out, |first, out| match scalar {
                        Some(b) => elementwise::binary_scalar(cpu.isa(), op, &a[first..], b, out),
                        None => elementwise::binary(cpu.isa(), op, &a[first..], &b[first..], out),
                    });
                });
                Ok(())
            })
        }),
    }
}

/// How to write the result of functions with so many exponentials and their like in an element.
fn writing<T>(out: &[T], special: usize) -> Writing {
    if special == 0 { Writing::of(out) } else { Writing::Cached }
}

/// (floating-point operations, exponentials and their like) of one element.
fn unary_cost(op: Unary) -> (usize, usize) {
    match op {
        Unary::Neg | Unary::Abs | Unary::Sign | Unary::Floor | Unary::Square | Unary::Relu => (1, 0),
        _ => (0, 1),
    }
}

/// As [`unary_cost`].
fn binary_cost(op: Binary) -> (usize, usize) {
    match op {
        Binary::Div | Binary::Pow | Binary::SqrtGrad | Binary::SoftplusGrad | Binary::GeluGrad => (0, 1),
        _ => (1, 0),
    }
}

/// op(a, s), with `s` rounded to the element type (f32 for bf16 and f16).
///
/// # Errors
/// When the operation does not take the element type.
pub fn binary_scalar(op: Binary, a: &Array, s: f64) -> Result<Array> {
    if is_half(a.dtype()) {
        return through_f32(a, |a| binary_scalar(op, a, s));
    }
    binary(op, a, &scalar_like(s, a)?)
}

/// op(s, a), as [`binary_scalar`].
///
/// # Errors
/// When the operation does not take the element type.
pub fn scalar_binary(op: Binary, s: f64, a: &Array) -> Result<Array> {
    if is_half(a.dtype()) {
        return through_f32(a, |a| scalar_binary(op, s, a));
    }
    binary(op, &scalar_like(s, a)?, a)
}

/// A rank-0 array of the device and element type of `like`.
fn scalar_like(s: f64, like: &Array) -> Result<Array> {
    with_dtype!(like.dtype(), T, Array::scalar::<T>(Convert::<T>::convert(s), like.device()))
}

/// a + b with broadcasting.
///
/// # Errors
/// As for [`binary`].
pub fn add(a: &Array, b: &Array) -> Result<Array> {
    binary(Binary::Add, a, b)
}

/// a - b with broadcasting.
///
/// # Errors
/// As for [`binary`].
pub fn sub(a: &Array, b: &Array) -> Result<Array> {
    binary(Binary::Sub, a, b)
}

/// a b with broadcasting.
///
/// # Errors
/// As for [`binary`].
pub fn mul(a: &Array, b: &Array) -> Result<Array> {
    binary(Binary::Mul, a, b)
}

/// a / b with broadcasting.
///
/// # Errors
/// As for [`binary`].
pub fn div(a: &Array, b: &Array) -> Result<Array> {
    binary(Binary::Div, a, b)
}

/// a where `cond` (bool) holds, elsewhere b; all three broadcast.
///
/// # Errors
/// When `cond` is not bool, `a` and `b` differ in element type, or shapes do not broadcast.
pub fn select(cond: &Array, a: &Array, b: &Array) -> Result<Array> {
    same_kind("select", a, b)?;
    same_device("select", cond, a)?;
    if cond.dtype() != DType::Bool {
        return Err(unsupported("select", cond.dtype(), "a condition of type bool"));
    }
    let shape = broadcast_shape("select", &broadcast_shape("select", cond.shape(), a.shape())?, b.shape())?;
    let _span = span("select", &[a, b, cond], |_| (elements(&shape), 0, 0));
    if let Some(gpu) = a.device().gpu() {
        return gpu::elementwise::select(gpu, cond, a, b, &shape);
    }
    with_dtype!(a.dtype(), T, {
        let cond = Operand::<bool>::new(cond, &shape)?;
        let (x, y) = (Operand::<T>::new(a, &shape)?, Operand::<T>::new(b, &shape)?);
        Array::build::<T>(a.device(), &shape, "select", |cpu, out| {
            write_blocks(cpu, out, |(scratch_cond, scratch_x, scratch_y), start, out| {
                let cond = cond.read(start, out.len(), scratch_cond);
                let x = x.read(start, out.len(), scratch_x);
                let y = y.read(start, out.len(), scratch_y);
                for (((out, &cond), &x), &y) in out.iter_mut().zip(cond).zip(x).zip(y) {
                    *out = if cond { x } else { y };
                }
            });
            Ok(())
        })
    })
}

/// `lo` where x < lo, `hi` where x > hi, else x; NaN stays NaN.
///
/// # Errors
/// When the type is not a float, or `lo` is not at most `hi`.
pub fn clamp(x: &Array, lo: f64, hi: f64) -> Result<Array> {
    if lo.is_nan() || hi.is_nan() || lo > hi {
        return Err(Error::new(ErrorKind::Config, "clamp", format!("bounds {lo} and {hi}")).expected("lo <= hi"));
    }
    if is_half(x.dtype()) {
        return through_f32(x, |x| clamp(x, lo, hi));
    }
    let _span = span("clamp", &[x], |n| (n, 2 * n, 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::elementwise::clamp(gpu, x, lo as f32, hi as f32);
    }
    with_real!("clamp", x.dtype(), T, {
        let (lo, hi) = (<T as Real>::from_f64(lo), <T as Real>::from_f64(hi));
        let operand = Operand::<T>::new(x, x.shape())?;
        Array::build::<T>(x.device(), x.shape(), "clamp", |cpu, out| {
            write_blocks(cpu, out, |scratch, start, out| {
                elementwise::clamp(cpu.isa(), lo, hi, operand.read(start, out.len(), scratch), out);
            });
            Ok(())
        })
    })
}

/// Whether no element is NaN or infinite.
///
/// # Errors
/// When the type is not a float.
pub fn is_finite(x: &Array) -> Result<bool> {
    if is_half(x.dtype()) {
        return is_finite(&cast(x, DType::F32)?);
    }
    let _span = span("is_finite", &[x], |n| (0, n, 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::elementwise::is_finite(gpu, x);
    }
    with_real!("is_finite", x.dtype(), T, {
        const BLOCK: usize = 1 << 14;
        let cpu = x.device().host();
        let x = x.contiguous()?;
        let values = x.as_slice::<T>()?;
        let finite = AtomicBool::new(true);
        cpu.workers().run(values.len().div_ceil(BLOCK), |i| {
            let block = &values[i * BLOCK..values.len().min((i + 1) * BLOCK)];
            // Without an early exit, so that the loop vectorises.
            if !block.iter().fold(true, |finite, &x| finite & Real::is_finite(x)) {
                finite.store(false, Ordering::Relaxed);
            }
        });
        Ok(finite.into_inner())
    })
}

/// The integer arithmetic that primitives need; overflow wraps.
trait Integer: Element + Ord {
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Integer for $type {
            #[inline(always)]
            fn add(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            #[inline(always)]
            fn sub(self, b: Self) -> Self {
                self.wrapping_sub(b)
            }
            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                self.wrapping_mul(b)
            }
        }
    )*};
}
integers!(i32 i64 u8);

fn unary_integer<T: Integer + From<bool>>(op: Unary, x: &Array) -> Result<Array> {
    let f: fn(T) -> T = match op {
        Unary::Neg => |x| T::default().sub(x),
        Unary::Abs => |x| if x < T::default() { T::default().sub(x) } else { x },
        Unary::Sign => |x| T::from(x > T::default()).sub(T::from(x < T::default())),
        Unary::Square => |x| x.mul(x),
        _ => return Err(unsupported(op.name(), T::DTYPE, "a float")),
    };
    let operand = Operand::<T>::new(x, x.shape())?;
    Array::build(x.device(), x.shape(), op.name(), |cpu, out: &mut [T]| {
        map1(cpu, &operand, out, f);
        Ok(())
    })
}

fn binary_integer<T: Integer>(op: Binary, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let f: fn(T, T) -> T = match op {
        Binary::Add => T::add,
        Binary::Sub => T::sub,
        Binary::Mul => T::mul,
        Binary::Min => Ord::min,
        Binary::Max => Ord::max,
        _ => return Err(unsupported(op.name(), T::DTYPE, "a float")),
    };
    let (a_operand, b_operand) = (Operand::<T>::new(a, shape)?, Operand::<T>::new(b, shape)?);
    Array::build(a.device(), shape, op.name(), |cpu, out: &mut [T]| {
        map2(cpu, (&a_operand, &b_operand), out, f);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, noise};
    use crate::{Device, bf16};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn binary_is_its_definition_under_any_broadcast(
            dims in proptest::collection::vec(prop_oneof![1usize..6, Just(70)], 0..4),
            ones in any::<[u8; 2]>(),
            cut in 0usize..4,
            reversed in any::<bool>(),
            op in proptest::sample::select(Binary::ALL),
        ) {
            for device in devices() {
                let operand = |ones: u8, seed| {
                    let mut shape: Vec<usize> =
                        dims.iter().enumerate().map(|(i, &d)| if ones >> i & 1 == 1 { 1 } else { d }).collect();
                    shape.reverse();
                    let axes: Vec<usize> = (0..shape.len()).rev().collect();
                    let reversed = noise(&shape, seed, &device).permute(&axes).unwrap();
                    if seed == 1 { reversed } else { reversed.contiguous().unwrap() }
                };
                let a = operand(ones[0], 1);
                let mut b = operand(ones[1], 2);
                for _ in 0..cut.min(b.rank()) {
                    b = b.slice(0, 0, 1).unwrap().reshape(&b.shape()[1..]).unwrap();
                }
                let (a, b) = if reversed { (b, a) } else { (a, b) };
                let y = binary(op, &a, &b).unwrap();
                let a = a.broadcast_to(y.shape()).unwrap().to_vec::<f32>().unwrap();
                let b = b.broadcast_to(y.shape()).unwrap().to_vec::<f32>().unwrap();
                for ((y, a), b) in y.to_vec::<f32>().unwrap().into_iter().zip(a).zip(b) {
                    prop_assert_eq!(Real::canonical_bits(y), Real::canonical_bits(op.apply(a, b)));
                }
            }
        }
    }

    #[test]
    fn unary_is_its_definition_on_long_and_strided_inputs() {
        for device in devices() {
            let x = noise(&[300, 257], 3, &device);
            for x in [x.clone(), x.transpose(0, 1).unwrap()] {
                for &op in Unary::ALL {
                    let y = unary(op, &x).unwrap().to_vec::<f32>().unwrap();
                    for (y, x) in y.into_iter().zip(x.to_vec::<f32>().unwrap()) {
                        assert_eq!(Real::canonical_bits(y), Real::canonical_bits(op.apply(x)), "{op:?} {x}");
                    }
                }
            }
        }
    }

    #[test]
    fn scalars_stand_on_either_side() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[1f32, 2., 4.], &[3], &device).unwrap();
        assert_eq!(binary_scalar(Binary::Sub, &x, 1.0).unwrap().to_vec::<f32>().unwrap(), [0., 1., 3.]);
        assert_eq!(scalar_binary(Binary::Div, 1.0, &x).unwrap().to_vec::<f32>().unwrap(), [1., 0.5, 0.25]);
        let h = Array::scalar(bf16::from_f32(3.0), &device).unwrap();
        assert_eq!(scalar_binary(Binary::Sub, 1.0, &h).unwrap().item::<bf16>().unwrap().to_f32(), -2.0);
    }

    #[test]
    fn integers_wrap_and_refuse_what_they_lack() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[i32::MIN, -3, 0, 7], &[4], &device).unwrap();
        assert_eq!(unary(Unary::Neg, &x).unwrap().to_vec::<i32>().unwrap(), [i32::MIN, 3, 0, -7]);
        assert_eq!(unary(Unary::Sign, &x).unwrap().to_vec::<i32>().unwrap(), [-1, -1, 0, 1]);
        assert_eq!(sub(&x, &x.flip(0).unwrap()).unwrap().to_vec::<i32>().unwrap(), [2147483641, -3, 3, -2147483641]);
        assert_eq!(unary(Unary::Exp, &x).unwrap_err().kind(), ErrorKind::DType);
        assert_eq!(div(&x, &x).unwrap_err().kind(), ErrorKind::DType);
    }

    #[test]
    fn select_broadcasts_all_three() {
        let device = Device::cpu_with(2).unwrap();
        let cond = Array::from_slice(&[true, false, true], &[3, 1], &device).unwrap();
        let a = Array::from_slice(&[1i64, 2], &[2], &device).unwrap();
        let b = Array::scalar(9i64, &device).unwrap();
        assert_eq!(select(&cond, &a, &b).unwrap().to_vec::<i64>().unwrap(), [1, 2, 9, 9, 1, 2]);
        assert_eq!(select(&a, &a, &b).unwrap_err().kind(), ErrorKind::DType);
    }

    #[test]
    fn clamp_keeps_nan_and_refuses_crossed_bounds() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[f64::NAN, -3.0, 0.25, f64::INFINITY], &[4], &device).unwrap();
        let y = clamp(&x, -1.0, 1.0).unwrap().to_vec::<f64>().unwrap();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [-1.0, 0.25, 1.0]);
        assert!(clamp(&x, 1.0, -1.0).is_err() && clamp(&x, f64::NAN, 1.0).is_err());
    }

    #[test]
    fn is_finite_sees_every_element() {
        for device in devices() {
            for at in [0, 1, 16_384, 69_999] {
                for bad in [f32::NAN, f32::NEG_INFINITY] {
                    let mut values = vec![f32::MAX; 70_000];
                    assert!(is_finite(&Array::from_slice(&values, &[70_000], &device).unwrap()).unwrap());
                    values[at] = bad;
                    assert!(!is_finite(&Array::from_slice(&values, &[700, 100], &device).unwrap()).unwrap());
                }
            }
        }
    }

    #[test]
    fn errors_name_operation_and_shapes() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::zeros(&[2, 3], DType::F32, &device).unwrap();
        let b = Array::zeros(&[4], DType::F32, &device).unwrap();
        assert!(add(&a, &b).unwrap_err().sentence().contains("add: [2, 3] and [4]"));
        let c = Array::zeros(&[3], DType::F64, &device).unwrap();
        assert!(mul(&a, &c).unwrap_err().sentence().contains("f32 [2, 3] and f64 [3]"));
    }
}
