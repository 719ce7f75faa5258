//! Integers, truth values, casts, selection and updates give the same bits on `simt` as on the CPU, through kernels
//! alone.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{self, Binary, Compare, Unary};
use selfsame_engine::{Array, DType, Device, Result};
use selfsame_kernels::philox::{Key, Purpose};

/// Whole numbers over the range of the integer type, the ends among them, in few enough steps to meet.
fn integers(shape: &[usize], dtype: DType, seed: u64, device: &Device) -> Result<Array> {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    let ends = [i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX), 255, 0, 1, -1];
    let values: Vec<i64> = (0..shape.iter().product::<usize>())
        .map(|i| if i % 5 == 0 { ends[stream.range(8) as usize] } else { stream.range(40) as i64 - 20 })
        .collect();
    ops::cast(&Array::from_slice(&values, shape, device)?, dtype)
}

#[test]
fn integers_under_broadcast() {
    same(|device| {
        let mut results = Vec::new();
        for dtype in [DType::I64, DType::I32, DType::U8] {
            let a = integers(&[3, 4, 50], dtype, 1, device)?;
            let (row, column) = (integers(&[50], dtype, 2, device)?, integers(&[4, 1], dtype, 3, device)?);
            for (a, b) in [(&a, &a.flip(2)?), (&a, &row), (&column, &a), (&row, &column)] {
                for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min, Binary::Max] {
                    results.push(ops::binary(op, a, b)?);
                }
                for op in Compare::ALL {
                    results.push(ops::compare(*op, a, b)?);
                    results.push(ops::compare_scalar(*op, a, 3.0)?);
                }
            }
            results.push(ops::binary_scalar(Binary::Add, &a, 2.0)?);
            if dtype != DType::U8 {
                for op in [Unary::Neg, Unary::Abs, Unary::Sign, Unary::Square] {
                    results.push(ops::unary(op, &a)?);
                }
            }
        }
        Ok(results)
    });
}

#[test]
fn truth_values_and_halves_compare() {
    same(|device| {
        let (a, b) = (noise(&[3, 70], 1, device), noise(&[70], 2, device));
        let mut results = Vec::new();
        for dtype in [DType::BF16, DType::F16] {
            let (a, b) = (ops::cast(&a, dtype)?, ops::cast(&b, dtype)?);
            results.extend([ops::compare(Compare::Lt, &a, &b)?, ops::compare_scalar(Compare::Ge, &a, 0.25)?]);
            results.extend([ops::add(&a, &b)?, ops::unary(Unary::Exp, &a)?, ops::clamp(&a, -0.5, 0.5)?]);
        }
        let (p, q) = (ops::compare(Compare::Lt, &a, &b)?, ops::compare_scalar(Compare::Gt, &b, 0.0)?);
        results.extend([ops::logical_and(&p, &q)?, ops::logical_or(&q, &p)?, ops::logical_not(&p.transpose(0, 1)?)?]);
        results.extend([ops::compare(Compare::Ne, &p, &q)?, ops::compare_scalar(Compare::Eq, &p, 1.0)?]);
        Ok(results)
    });
}

#[test]
fn selection_and_bounds() {
    same(|device| {
        let (a, b) = (noise(&[3, 4, 50], 1, device), noise(&[4, 1], 2, device));
        let condition = ops::compare_scalar(Compare::Gt, &noise(&[50], 3, device), 0.0)?;
        let mut results = vec![ops::clamp(&a, -1.0, 0.5)?, ops::clamp(&a.flip(1)?, 0.0, f64::INFINITY)?];
        for dtype in [DType::F32, DType::F64, DType::F16, DType::I32, DType::I64, DType::U8, DType::Bool] {
            results.push(ops::select(&condition, &ops::cast(&a, dtype)?, &ops::cast(&b, dtype)?)?);
        }
        Ok(results)
    });
}

#[test]
fn casts() {
    same(|device| {
        let floats = ops::binary_scalar(Binary::Mul, &noise(&[1100], 1, device), 1e5)?;
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40, 3e38, 0.5];
        let special = Array::from_slice(&special, &[7], device)?;
        let types = [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U8, DType::Bool];
        let mut results = Vec::new();
        for from in types {
            let mut sources = vec![ops::cast(&floats, from)?, ops::cast(&special, from)?];
            if matches!(from, DType::I32 | DType::I64 | DType::U8) {
                sources.push(integers(&[200], from, 2, device)?);
            }
            for source in &sources {
                for to in types {
                    results.push(ops::cast(source, to)?);
                }
            }
        }
        results.push(ops::cast(&floats.reshape(&[11, 100])?.transpose(0, 1)?, DType::BF16)?);
        Ok(results)
    });
}

#[test]
fn finiteness() {
    let device = Device::open("simt").unwrap();
    for at in [None, Some(0), Some(1023), Some(2999)] {
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            let mut values = vec![f32::MAX; 3000];
            if let Some(at) = at {
                values[at] = bad;
            }
            let x = Array::from_slice(&values, &[3000], &device).unwrap();
            assert_eq!(ops::is_finite(&x).unwrap(), at.is_none());
        }
    }
    assert_eq!(device.gpu().unwrap().host_fallbacks(), []);
}

#[test]
fn updates() {
    same(|device| {
        let (a, b) = (noise(&[7, 150], 1, device), noise(&[150, 7], 2, device).transpose(0, 1)?);
        let mut results = Vec::new();
        for dtype in [DType::F32, DType::BF16, DType::I32, DType::I64] {
            let (a, b) = (ops::cast(&a, dtype)?, ops::cast(&b, dtype)?);
            results.extend([ops::add_assign(a.copy()?, &b)?, ops::add_assign(a.clone(), &b)?]);
            if dtype.is_float() {
                results.push(ops::add_scaled(ops::scale(a.copy()?, 0.3)?, -1.7, &b)?);
                results.push(ops::scale(a.clone(), 3.1)?);
            }
            // The shared operand of the updates above is as it was.
            results.push(a);
        }
        Ok(results)
    });
}
