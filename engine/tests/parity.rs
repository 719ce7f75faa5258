//! Every primitive gives the same bits on `simt` as on the CPU, through kernels alone.

use selfsame_engine::ops::{self, Binary, Compare, Unary};
use selfsame_engine::{Array, DType, Device, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose};

/// Numbers over [-2, 2), the same for the same `seed`.
fn noise(shape: &[usize], seed: u64, device: &Device) -> Array {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 4.0 * stream.uniform_f32() - 2.0).collect();
    Array::from_slice(&values, shape, device).unwrap()
}

/// The bits of any array, all NaNs one.
fn bits(x: &Array) -> Vec<u64> {
    let on_cpu = x.to_device(&Device::cpu_with(1).unwrap()).unwrap();
    ops::cast(&on_cpu, DType::F64).unwrap().to_vec::<f64>().unwrap().into_iter().map(Real::canonical_bits).collect()
}

/// Runs `compute` on both devices and compares; on `simt` nothing may fall back to the CPU.
#[track_caller]
fn same(compute: impl Fn(&Device) -> Result<Vec<Array>>) {
    let (cpu, simt) = (Device::cpu_with(1).unwrap(), Device::open("simt").unwrap());
    let expected = compute(&cpu).unwrap();
    let got = compute(&simt).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(expected.len(), got.len());
    for (i, (expected, got)) in expected.iter().zip(&got).enumerate() {
        assert_eq!((expected.shape(), expected.dtype()), (got.shape(), got.dtype()));
        let (expected, got) = (bits(expected), bits(got));
        if let Some(at) = (0..expected.len()).find(|&at| expected[at] != got[at]) {
            panic!("result {i}, element {at}: cpu {:016x}, simt {:016x}", expected[at], got[at]);
        }
    }
    assert_eq!(simt.gpu().unwrap().host_fallbacks(), []);
}

#[test]
fn unary() {
    same(|device| {
        let x = noise(&[7, 150], 1, device);
        Unary::ALL.iter().flat_map(|op| [ops::unary(*op, &x), ops::unary(*op, &x.slice(0, 1, 3).unwrap())]).collect()
    });
}

#[test]
fn binary_and_compare_under_broadcast() {
    same(|device| {
        let (a, row, column) = (noise(&[3, 4, 50], 1, device), noise(&[50], 2, device), noise(&[4, 1], 3, device));
        let forms = [(&a, &a), (&a, &row), (&column, &a), (&row, &column)];
        let mut results = Vec::new();
        for (a, b) in forms {
            for op in Binary::ALL {
                results.push(ops::binary(*op, a, b)?);
                results.push(ops::binary_scalar(*op, a, 0.75)?);
            }
            for op in Compare::ALL {
                results.push(ops::compare(*op, a, b)?);
                results.push(ops::compare_scalar(*op, a, 0.25)?);
            }
        }
        Ok(results)
    });
}

#[test]
fn matmul() {
    same(|device| {
        let (a, b) = (noise(&[2, 70, 33], 1, device), noise(&[33, 65], 2, device));
        let long = noise(&[3, 1030], 3, device);
        Ok(vec![
            ops::matmul(&a, &b)?,
            ops::matmul(&b.transpose(0, 1)?, &a.transpose(1, 2)?)?,
            ops::matmul(&long, &long.transpose(0, 1)?)?,
        ])
    });
}
