//! Comparisons and the logic of truth values.

use super::operand::{Operand, map1, map2, same_kind};
use super::{cast, elements, is_half, kernels_for, unsupported};
use crate::gpu::{self, elementwise::Logic};
use crate::layout::broadcast_shape;
use crate::profile::{Span, Work};
use crate::{Array, DType, Element, Result, with_dtype};
pub use selfsame_kernels::elementwise::Compare;

/// Truth of `a op b` with broadcasting; with a NaN all are false but `Ne`.
///
/// # Errors
/// When shapes do not broadcast, or element types or devices differ.
pub fn compare(op: Compare, a: &Array, b: &Array) -> Result<Array> {
    same_kind(op.name(), a, b)?;
    let shape = broadcast_shape(op.name(), a.shape(), b.shape())?;
    let _span = truths_span(op.name(), &[a, b], &shape);
    if let Some(gpu) = kernels_for(a) {
        return gpu::elementwise::compare(gpu, op, a, b, &shape);
    }
    if let Some(gpu) = a.device().gpu() {
        if is_half(a.dtype()) {
            return compare(op, &cast(a, DType::F32)?, &cast(b, DType::F32)?);
        }
        if a.dtype() != DType::F64 {
            return gpu::elementwise::compare_integer(gpu, op, a, b, &shape);
        }
    }
    with_dtype!(a.dtype(), T, compare_elements::<T>(op, a, b, &shape))
}

fn compare_elements<T: Element + PartialOrd>(op: Compare, a: &Array, b: &Array, shape: &[usize]) -> Result<Array> {
    let operands = (&Operand::<T>::new(a, shape)?, &Operand::<T>::new(b, shape)?);
    Array::build(a.device(), shape, op.name(), |cpu, out: &mut [bool]| {
        match op {
            Compare::Eq => map2(cpu, operands, out, |a, b| a == b),
            Compare::Ne => map2(cpu, operands, out, |a, b| a != b),
            Compare::Lt => map2(cpu, operands, out, |a, b| a < b),
            Compare::Le => map2(cpu, operands, out, |a, b| a <= b),
            Compare::Gt => map2(cpu, operands, out, |a, b| a > b),
            Compare::Ge => map2(cpu, operands, out, |a, b| a >= b),
        }
        Ok(())
    })
}

/// Truth of `a op s`: in the element type for f32 and f64 (`s` is rounded to it), in f32 for bf16 and f16, in f64 for
/// integers and bool (where `s` need not be an integer).
///
/// # Errors
/// `OutOfMemory`.
pub fn compare_scalar(op: Compare, a: &Array, s: f64) -> Result<Array> {
    let _span = a.device().span("compare_scalar", Work::default);
    /// Below this all integers are numbers of f64.
    const EXACT: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
    let computed = match a.dtype() {
        DType::F32 | DType::BF16 | DType::F16 => DType::F32,
        // An integer that f64 holds exactly compares with the numbers themselves as with their roundings to f64.
        DType::I32 | DType::I64 | DType::U8 | DType::Bool if s.fract() == 0.0 && s.abs() < EXACT => DType::I64,
        _ => DType::F64,
    };
    let s = match computed {
        DType::F32 => Array::scalar(s as f32, a.device())?,
        DType::I64 => Array::scalar(s as i64, a.device())?,
        _ => Array::scalar(s, a.device())?,
    };
    compare(op, &cast(a, computed)?, &s)
}

/// Whether both hold, with broadcasting; bool operands.
///
/// # Errors
/// When an operand is not bool or shapes do not broadcast.
pub fn logical_and(a: &Array, b: &Array) -> Result<Array> {
    logic("logical_and", Logic::And, a, b)
}

/// Whether at least one holds, with broadcasting; bool operands.
///
/// # Errors
/// When an operand is not bool or shapes do not broadcast.
pub fn logical_or(a: &Array, b: &Array) -> Result<Array> {
    logic("logical_or", Logic::Or, a, b)
}

/// Whether x does not hold; a bool operand.
///
/// # Errors
/// When the operand is not bool.
pub fn logical_not(x: &Array) -> Result<Array> {
    expect_bool("logical_not", x)?;
    let _span = truths_span("logical_not", &[x], x.shape());
    if let Some(gpu) = x.device().gpu() {
        return gpu::elementwise::logical_not(gpu, x);
    }
    let operand = Operand::<bool>::new(x, x.shape())?;
    Array::build(x.device(), x.shape(), "logical_not", |cpu, out| {
        map1(cpu, &operand, out, |x: bool| !x);
        Ok(())
    })
}

/// The span of a primitive that makes truth values of `shape` from `reads`.
fn truths_span(name: &'static str, reads: &[&Array], shape: &[usize]) -> Option<Span> {
    let device = reads.first()?.device();
    Some(device.span(name, || {
        let (read, made): (usize, usize) = (reads.iter().map(|x| x.numel() * x.dtype().size()).sum(), elements(shape));
        Work::moving(read + made).flop(made)
    }))
}

fn logic(op: &'static str, logic: Logic, a: &Array, b: &Array) -> Result<Array> {
    expect_bool(op, a)?;
    same_kind(op, a, b)?;
    let shape = broadcast_shape(op, a.shape(), b.shape())?;
    let _span = truths_span(op, &[a, b], &shape);
    if let Some(gpu) = a.device().gpu() {
        return gpu::elementwise::logic(gpu, logic, a, b, &shape);
    }
    let operands = (&Operand::<bool>::new(a, &shape)?, &Operand::<bool>::new(b, &shape)?);
    Array::build(a.device(), &shape, op, |cpu, out| {
        match logic {
            Logic::And => map2(cpu, operands, out, |a: bool, b: bool| a & b),
            Logic::Or => map2(cpu, operands, out, |a: bool, b: bool| a | b),
        }
        Ok(())
    })
}

fn expect_bool(op: &'static str, x: &Array) -> Result<()> {
    if x.dtype() == DType::Bool { Ok(()) } else { Err(unsupported(op, x.dtype(), "bool")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn truths(x: Result<Array>) -> Vec<bool> {
        x.unwrap().to_vec().unwrap()
    }

    #[test]
    fn comparisons_follow_ieee() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::from_slice(&[0.0f32, 1.0, f32::NAN, 2.0], &[4], &device).unwrap();
        let b = Array::from_slice(&[-0.0f32, 2.0, f32::NAN, 1.0], &[4], &device).unwrap();
        for (op, expected) in [
            (Compare::Eq, [true, false, false, false]),
            (Compare::Ne, [false, true, true, true]),
            (Compare::Lt, [false, true, false, false]),
            (Compare::Le, [true, true, false, false]),
            (Compare::Gt, [false, false, false, true]),
            (Compare::Ge, [true, false, false, true]),
        ] {
            assert_eq!(truths(compare(op, &a, &b)), expected, "{op:?}");
        }
        let column = a.reshape(&[4, 1]).unwrap();
        assert_eq!(compare(Compare::Lt, &column, &b).unwrap().shape(), [4, 4]);
    }

    #[test]
    fn integers_compare_with_fractions() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[2i64, 3], &[2], &device).unwrap();
        assert_eq!(truths(compare_scalar(Compare::Gt, &x, 2.5)), [false, true]);
        let flags = Array::from_slice(&[true, false], &[2], &device).unwrap();
        assert_eq!(truths(compare_scalar(Compare::Eq, &flags, 0.0)), [false, true]);
    }

    #[test]
    fn logic_has_its_truth_table() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::from_slice(&[false, false, true, true], &[4], &device).unwrap();
        let b = Array::from_slice(&[false, true, false, true], &[4], &device).unwrap();
        assert_eq!(truths(logical_and(&a, &b)), [false, false, false, true]);
        assert_eq!(truths(logical_or(&a, &b)), [false, true, true, true]);
        assert_eq!(truths(logical_not(&a)), [true, true, false, false]);
        let x = Array::zeros(&[4], DType::U8, &device).unwrap();
        assert!(logical_not(&x).is_err() && logical_and(&a, &x).is_err());
    }
}
