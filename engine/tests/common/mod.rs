//! What tests of parity have in common: inputs, and the comparison of devices.

use selfsame_engine::{Array, DType, Device, Result, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose};

/// Numbers over [-2, 2), the same for the same `seed`.
pub(crate) fn noise(shape: &[usize], seed: u64, device: &Device) -> Array {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 4.0 * stream.uniform_f32() - 2.0).collect();
    Array::from_slice(&values, shape, device).unwrap()
}

/// The bits of any array, all NaNs one.
fn bits(x: &Array) -> Vec<u64> {
    let on_cpu = x.to_device(&Device::cpu_with(1).unwrap()).unwrap();
    if on_cpu.dtype().is_float() {
        let values = ops::cast(&on_cpu, DType::F64).unwrap().to_vec::<f64>().unwrap();
        return values.into_iter().map(Real::canonical_bits).collect();
    }
    ops::cast(&on_cpu, DType::I64).unwrap().to_vec::<i64>().unwrap().into_iter().map(|x| x as u64).collect()
}

/// Runs `compute` on both devices and compares; on `simt` nothing may fall back to the CPU.
#[track_caller]
pub(crate) fn same(compute: impl Fn(&Device) -> Result<Vec<Array>>) {
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
