//! Element-wise updates that take their first operand by value and write in place when it is the only handle.

use super::operand::{Operand, same_kind, write_blocks};
use super::{Binary, binary, cast, is_half, kernels_for, span, with_real};
use crate::gpu;
use crate::{Array, DType, Element, Error, ErrorKind, Result};
use selfsame_kernels::elementwise;
use selfsame_kernels::math::Real;

/// a + b, into `a` when it is the only handle to its elements. Both have the same shape.
///
/// # Errors
/// When shapes, element types or devices differ, or for bool.
pub fn add_assign(a: Array, b: &Array) -> Result<Array> {
    same_shape("add_assign", &a, b)?;
    let _span = (!is_half(a.dtype())).then(|| span("add_assign", &[&a, b], |n| (n, n, 0)));
    if let Some(gpu) = kernels_for(b) {
        return gpu::update::add_assign(gpu, a, b);
    }
    if a.device().gpu().is_some() && matches!(a.dtype(), DType::I32 | DType::I64) {
        return binary(Binary::Add, &a, b);
    }
    match a.dtype() {
        DType::I32 => {
            update(a, b, |a, b| a.iter_mut().zip(b).for_each(|(a, b): (&mut i32, _)| *a = a.wrapping_add(*b)))
        }
        DType::I64 => {
            update(a, b, |a, b| a.iter_mut().zip(b).for_each(|(a, b): (&mut i64, _)| *a = a.wrapping_add(*b)))
        }
        dtype if is_half(dtype) => in_f32(a, b, add_assign),
        dtype => with_real!("add_assign", dtype, T, {
            let cpu = a.device().host();
            let isa = cpu.isa();
            update::<T>(a, b, |a, b| elementwise::add_assign(isa, b, a))
        }),
    }
}

/// a + alpha x as one fused multiply-add per element, into `a` when it is the only handle to its elements.
///
/// # Errors
/// When shapes, element types or devices differ, or the type is not a float.
pub fn add_scaled(a: Array, alpha: f64, x: &Array) -> Result<Array> {
    same_shape("add_scaled", &a, x)?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::update::add_scaled(gpu, a, alpha as f32, x);
    }
    if is_half(a.dtype()) {
        return in_f32(a, x, |a, x| add_scaled(a, alpha, x));
    }
    let _span = span("add_scaled", &[&a, x], |n| (n, 2 * n, 0));
    let cpu = a.device().host();
    let isa = cpu.isa();
    with_real!(
        "add_scaled",
        a.dtype(),
        T,
        update::<T>(a, x, |a, x| elementwise::axpy(isa, <T as Real>::from_f64(alpha), x, a))
    )
}

/// alpha a, into `a` when it is the only handle to its elements.
///
/// # Errors
/// When the type is not a float.
pub fn scale(mut a: Array, alpha: f64) -> Result<Array> {
    if is_half(a.dtype()) {
        let dtype = a.dtype();
        return cast(&scale(cast(&a, DType::F32)?, alpha)?, dtype);
    }
    let _span = span("scale", &[&a], |n| (n, n, 0));
    let device = a.device().clone();
    if let Some(gpu) = device.gpu().filter(|_| a.dtype() == DType::F32) {
        return gpu::update::scale(gpu, a, alpha as f32);
    }
    with_real!("scale", a.dtype(), T, {
        let cpu = device.host();
        let alpha = <T as Real>::from_f64(alpha);
        write_blocks(cpu, a.make_mut::<T>()?, |_: &mut (), _, a| elementwise::scale(cpu.isa(), alpha, a));
        Ok(a)
    })
}

/// Runs `change` over corresponding blocks of `a` and `b`.
fn update<T: Element>(mut a: Array, b: &Array, change: impl Fn(&mut [T], &[T]) + Sync) -> Result<Array> {
    let device = a.device().clone();
    let cpu = device.host();
    let b = Operand::<T>::new(b, b.shape())?;
    write_blocks(cpu, a.make_mut::<T>()?, |scratch, start, a| change(a, b.read(start, a.len(), scratch)));
    Ok(a)
}

/// f(a, b) in f32, of operands that only store their values, in their type.
pub(super) fn in_f32(a: Array, b: &Array, f: impl FnOnce(Array, &Array) -> Result<Array>) -> Result<Array> {
    let dtype = a.dtype();
    cast(&f(cast(&a, DType::F32)?, &cast(b, DType::F32)?)?, dtype)
}

fn same_shape(op: &'static str, a: &Array, b: &Array) -> Result<()> {
    same_kind(op, a, b)?;
    if a.shape() == b.shape() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{:?} and {:?}", a.shape(), b.shape()))
        .expected("equal shapes")
        .hint("add broadcasts; an update in place does not"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, bf16};

    #[test]
    fn updates_are_in_place_exactly_when_alone() {
        let device = Device::cpu_with(2).unwrap();
        let a = Array::from_slice(&[1f32, 2., 3.], &[3], &device).unwrap();
        let shared = a.clone();
        let b = Array::from_slice(&[10f32, 20., 30.], &[3], &device).unwrap().flip(0).unwrap();
        let sum = add_assign(a, &b).unwrap();
        assert!(!sum.shares_storage(&shared));
        assert_eq!(shared.to_vec::<f32>().unwrap(), [1., 2., 3.]);
        let before = sum.as_slice::<f32>().unwrap().as_ptr();
        let sum = scale(add_scaled(sum, 2., &shared).unwrap(), 0.5).unwrap();
        assert_eq!(sum.as_slice::<f32>().unwrap().as_ptr(), before);
        assert_eq!(sum.to_vec::<f32>().unwrap(), [16.5, 13., 9.5]);
    }

    #[test]
    fn integers_wrap_and_halves_round_once() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::scalar(i64::MAX, &device).unwrap();
        assert_eq!(add_assign(a.clone(), &a).unwrap().item::<i64>().unwrap(), -2);
        let h = Array::scalar(bf16::from_f32(256.0), &device).unwrap();
        let one = Array::scalar(bf16::from_f32(1.0), &device).unwrap();
        assert_eq!(add_assign(h.clone(), &one).unwrap().item::<bf16>().unwrap().to_f32(), 256.0);
        assert_eq!(add_scaled(h, 3.0, &one).unwrap().item::<bf16>().unwrap().to_f32(), 260.0);
    }

    #[test]
    fn mismatches_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let a = Array::zeros(&[2, 3], DType::F32, &device).unwrap();
        let b = Array::zeros(&[3], DType::F32, &device).unwrap();
        let error = add_assign(a.clone(), &b).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
        assert!(error.sentence().contains("add_assign: [2, 3] and [3]"), "{error}");
        let c = Array::zeros(&[2, 3], DType::F64, &device).unwrap();
        assert_eq!(add_assign(a, &c).unwrap_err().kind(), ErrorKind::DType);
    }
}
