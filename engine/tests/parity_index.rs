//! Order, indices, joins and random numbers give the same bits on `simt` as on the CPU, through kernels alone.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{self, Binary, Compare, Unary};
use selfsame_engine::{Array, DType, Device, ErrorKind, Result};
use selfsame_kernels::philox::{Key, Purpose};

const TYPES: [DType; 8] =
    [DType::F32, DType::F64, DType::BF16, DType::F16, DType::I32, DType::I64, DType::U8, DType::Bool];

/// Numbers that often meet, zeros of both signs and NaN among them.
fn crowded(shape: &[usize], seed: u64, device: &Device) -> Result<Array> {
    let steps = ops::unary(Unary::Floor, &ops::binary_scalar(Binary::Mul, &noise(shape, seed, device), 4.0)?)?;
    let signed = ops::mul(&steps, &ops::unary(Unary::Sign, &noise(shape, seed + 1, device))?)?;
    let is_odd = ops::compare_scalar(Compare::Gt, &noise(shape, seed + 2, device), 1.9)?;
    ops::select(&is_odd, &Array::scalar(f32::NAN, device)?, &signed)
}

/// Indices below `n` of the shape.
fn indices(shape: &[usize], n: usize, seed: u64, device: &Device) -> Array {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    let values: Vec<i64> = (0..shape.iter().product()).map(|_| stream.range(n as u64) as i64).collect();
    Array::from_slice(&values, shape, device).unwrap()
}

#[test]
fn sort_and_topk() {
    same(|device| {
        let mut results = Vec::new();
        // Rows of one block, of three runs, of one element, and none.
        for shape in [&[3, 300][..], &[2, 2, 37], &[2, 9000], &[5, 1], &[0, 4]] {
            let x = crowded(shape, 1, device)?;
            let len = *shape.last().unwrap();
            for descending in [false, true] {
                let (values, positions) = ops::sort(&x, descending)?;
                results.extend([values, positions]);
            }
            for k in [0, 1, len.min(10), len.min(5000)] {
                let (values, positions) = ops::topk(&x, k)?;
                results.extend([values, positions]);
            }
        }
        results.push(ops::argsort(&crowded(&[20, 6], 5, device)?.transpose(0, 1)?, false)?);
        Ok(results)
    });
}

#[test]
fn extreme_positions_and_running_sums() {
    same(|device| {
        let (x, y) = (crowded(&[4, 70, 9], 1, device)?, noise(&[4, 70, 9], 2, device));
        let mut results = Vec::new();
        for axis in 0..3 {
            results.extend([ops::argmax(&x, axis)?, ops::argmin(&x, axis)?, ops::cumsum(&y, axis)?]);
        }
        results.push(ops::cumsum(&y.reshape(&[40, 63])?.flip(1)?, 1)?);
        Ok(results)
    });
}

#[test]
fn reading_and_adding_at_indices() {
    same(|device| {
        let (x, src) = (noise(&[3, 7, 5], 1, device), noise(&[3, 11, 5], 2, device));
        let (each, line) = (indices(&[3, 11, 5], 7, 3, device), indices(&[11], 7, 4, device));
        let mut results = Vec::new();
        for dtype in TYPES {
            let x = ops::cast(&x, dtype)?;
            results.extend([ops::gather(&x, 1, &each)?, ops::index_select(&x, 1, &line)?]);
            results.push(ops::index_select(&x.transpose(0, 2)?, 1, &line)?);
        }
        for dtype in [DType::F32, DType::BF16] {
            let (x, src) = (ops::cast(&x, dtype)?, ops::cast(&src, dtype)?);
            results.extend([ops::scatter_add(x.clone(), 1, &each, &src)?, ops::index_add(x.clone(), 1, &line, &src)?]);
            let rows = ops::index_select(&src.reshape(&[33, 5])?, 0, &line)?;
            results.push(ops::index_add(Array::zeros(&[7, 5], dtype, device)?, 0, &line, &rows)?);
        }
        Ok(results)
    });
}

#[test]
fn indices_from_kernels_are_checked() {
    for device in [Device::cpu_with(1).unwrap(), Device::open("simt").unwrap()] {
        let x = noise(&[4, 3], 1, &device);
        // Computed, so that the GPU's copy alone is current: -1, 0, 1, …, then 1, 2, … 4.
        let low = ops::add(&ops::arange(600, &device).unwrap(), &Array::scalar(-1i64, &device).unwrap()).unwrap();
        let high = ops::add(&ops::arange(4, &device).unwrap(), &Array::scalar(1i64, &device).unwrap()).unwrap();
        for (index, message) in [(low, "index -1 (element 0)"), (high, "index 4 (element 3)")] {
            let error = ops::index_select(&x, 0, &index).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
            assert!(error.sentence().contains(message), "{}", error.sentence());
        }
        let floats = noise(&[4], 1, &device);
        assert_eq!(ops::index_select(&x, 0, &floats).unwrap_err().kind(), ErrorKind::DType);
    }
}

#[test]
fn counted_arrays() {
    same(|device| {
        let mut results = vec![ops::arange(1030, device)?, ops::arange(0, device)?];
        for dtype in TYPES {
            results.push(ops::one_hot(&indices(&[5, 9], 13, 1, device), 13, dtype)?);
            results.push(ops::eye(35, dtype, device)?);
        }
        Ok(results)
    });
}

#[test]
fn joins_and_pads() {
    same(|device| {
        let (a, b) = (noise(&[3, 4, 5], 1, device), noise(&[3, 2, 5], 2, device));
        let mut results = Vec::new();
        for dtype in TYPES {
            let (a, b) = (ops::cast(&a, dtype)?, ops::cast(&b, dtype)?);
            let empty = a.slice(1, 2, 2)?;
            results.push(ops::concat(&[&a, &empty, &b, &a.slice(1, 1, 3)?], 1)?);
            results.push(ops::concat(&[&a, &a.flip(0)?], 0)?);
            results.push(ops::stack(&[&a, &a.flip(2)?], 3)?);
            results.push(ops::pad(&a, &[(1, 0), (0, 2), (3, 1)], 2.5)?);
            results.push(ops::pad(&b.transpose(0, 2)?, &[(0, 0), (1, 1), (0, 0)], -1.0)?);
            results.push(ops::pad(&empty, &[(0, 1), (1, 1), (0, 0)], 1.0)?);
        }
        results.push(ops::pad(&Array::scalar(3f32, device)?, &[], 0.0)?);
        Ok(results)
    });
}

#[test]
fn random_numbers() {
    same(|device| {
        let stream = Key::new(5, Purpose::Check).stream(3, 1 << 40, 2);
        let mut results = vec![ops::bernoulli(&[7, 333], 0.3, &stream, device)?];
        for shape in [&[1][..], &[1027], &[3, 5, 7], &[0]] {
            for dtype in [DType::F32, DType::BF16] {
                results.push(ops::uniform(shape, dtype, -1.0, 3.0, &stream, device)?);
                results.push(ops::normal(shape, dtype, 0.5, 2.0, &stream, device)?);
            }
        }
        Ok(results)
    });
}
