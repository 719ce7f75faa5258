//! What the tests of primitives share: devices that must agree to the bit, and inputs.

use crate::cpu::CpuDevice;
use crate::{Array, Device, Result};
use selfsame_kernels::isa::Isa;

/// One device per instruction set of this machine with two threads, and the fastest with one and three.
pub(crate) fn devices() -> Vec<Device> {
    let per_isa = Isa::available().into_iter().map(|isa| (2, isa));
    per_isa
        .chain([(1, Isa::detect()), (3, Isa::detect())])
        .map(|(threads, isa)| Device::Cpu(CpuDevice::with_isa(threads, isa).expect("two or three threads start")))
        .collect()
}

/// Values in (-2, 2) that look random and depend on `seed` and position alone.
pub(crate) fn noise(shape: &[usize], seed: u32, device: &Device) -> Array {
    Array::from_slice(&noise_values(shape.iter().product(), seed), shape, device).expect("one value per element")
}

/// The values of [`noise`].
pub(crate) fn noise_values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| {
            let mut z = i.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
            z = (z ^ (z >> 16)).wrapping_mul(0x7feb_352d);
            z = (z ^ (z >> 15)).wrapping_mul(0x846c_a68b);
            ((z ^ (z >> 16)) >> 8) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

/// The values of a float array in f64.
pub(crate) fn f64s(x: &Array) -> Vec<f64> {
    super::cast(x, crate::DType::F64).expect("a float array").to_vec().expect("just cast")
}

/// The sum of products, in f64: an inner product for adjoint identities.
pub(crate) fn inner(a: &Array, b: &Array) -> f64 {
    f64s(a).iter().zip(f64s(b)).map(|(a, b)| a * b).sum()
}

/// Checks a gradient of `f` at `x` (f64) against central differences along a direction, for a random dy.
pub(crate) fn assert_gradient(x: &Array, f: impl Fn(&Array) -> Result<Array>, grad: impl Fn(&Array) -> Result<Array>) {
    const STEP: f64 = 1e-5;
    let f64_noise = |shape: &[usize], seed| super::cast(&noise(shape, seed, x.device()), crate::DType::F64).unwrap();
    let direction = f64_noise(x.shape(), 101);
    let moved = |by: f64| f(&super::add_scaled(x.copy().unwrap(), by, &direction).unwrap()).unwrap();
    let (ahead, behind) = (moved(STEP), moved(-STEP));
    let dy = f64_noise(ahead.shape(), 102);
    let numeric = (inner(&ahead, &dy) - inner(&behind, &dy)) / (2.0 * STEP);
    let analytic = inner(&grad(&dy).unwrap(), &direction);
    // Error of a central difference: STEP^2 times the third derivative, and rounding over STEP.
    let scale = 1.0 + numeric.abs();
    assert!((numeric - analytic).abs() < 1e-7 * scale, "numeric {numeric}, analytic {analytic}");
}
