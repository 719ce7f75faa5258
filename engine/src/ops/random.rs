//! Random arrays from Philox streams: element `i` depends on the stream and on `i` alone, never on threads or on how
//! many numbers were drawn before.

use super::{cast, elements, is_half, with_real};
use crate::gpu;
use crate::profile::Work;
use crate::{Array, DType, Device, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Stream, fill_normal, fill_uniform};

/// Elements per parallel task; a multiple of what one Philox block yields.
const TASK: usize = 1 << 14;

/// Uniform on `[lo, hi)`: fma(hi - lo, u, lo) with u a multiple of 2^-24 in [0, 1), rounded to `dtype`; rounding may
/// reach `hi`.
///
/// # Errors
/// When `dtype` is not a float.
pub fn uniform(shape: &[usize], dtype: DType, lo: f64, hi: f64, stream: &Stream, device: &Device) -> Result<Array> {
    if is_half(dtype) {
        return cast(&uniform(shape, DType::F32, lo, hi, stream, device)?, dtype);
    }
    let _span = device.span("uniform", || Work::moving(elements(shape) * dtype.size()).flop(2 * elements(shape)));
    if let (Some(gpu), DType::F32) = (device.gpu(), dtype) {
        return gpu::random::uniform(gpu, shape, ((hi - lo) as f32, lo as f32), stream);
    }
    with_real!("uniform", dtype, T, {
        let (width, lo) = (<T as Real>::from_f64(hi - lo), <T as Real>::from_f64(lo));
        Array::build::<T>(device, shape, "uniform", |cpu, out| {
            cpu.workers().run_chunks(out, TASK, |task, out| {
                fill_uniform(cpu.isa(), stream, (task * TASK) as u64, out);
                affine(cpu.isa(), width, lo, out);
            });
            Ok(())
        })
    })
}

/// Normal with `mean` and standard deviation `std`: fma(std, z, mean), rounded to `dtype`.
///
/// # Errors
/// When `dtype` is not a float.
pub fn normal(shape: &[usize], dtype: DType, mean: f64, std: f64, stream: &Stream, device: &Device) -> Result<Array> {
    if is_half(dtype) {
        return cast(&normal(shape, DType::F32, mean, std, stream, device)?, dtype);
    }
    let _span = device.span("normal", || {
        let n = elements(shape);
        Work::moving(n * dtype.size()).flop(2 * n).special(2 * n)
    });
    if let (Some(gpu), DType::F32) = (device.gpu(), dtype) {
        return gpu::random::normal(gpu, shape, (std as f32, mean as f32), stream);
    }
    with_real!("normal", dtype, T, {
        let (std, mean) = (<T as Real>::from_f64(std), <T as Real>::from_f64(mean));
        Array::build::<T>(device, shape, "normal", |cpu, out| {
            cpu.workers().run_chunks(out, TASK, |task, out| {
                fill_normal(cpu.isa(), stream, (task * TASK) as u64, out);
                affine(cpu.isa(), std, mean, out);
            });
            Ok(())
        })
    })
}

/// Truth values that hold with probability `p`: u < p with u as in [`uniform`].
///
/// # Errors
/// When `p` is not in 0..=1.
pub fn bernoulli(shape: &[usize], p: f64, stream: &Stream, device: &Device) -> Result<Array> {
    let _span = device.span("bernoulli", || Work::moving(elements(shape)).flop(elements(shape)));
    if !(0.0..=1.0).contains(&p) {
        return Err(Error::new(ErrorKind::Config, "bernoulli", format!("p = {p}")).expected("0 <= p <= 1"));
    }
    if let Some(gpu) = device.gpu() {
        return gpu::random::bernoulli(gpu, shape, p, stream);
    }
    Array::build(device, shape, "bernoulli", |cpu, out| {
        cpu.workers().run_chunks(out, TASK, |task, out| {
            let mut u = vec![0f32; out.len()];
            fill_uniform(cpu.isa(), stream, (task * TASK) as u64, &mut u);
            for (out, u) in out.iter_mut().zip(u) {
                *out = f64::from(u) < p;
            }
        });
        Ok(())
    })
}

/// A random order of 0, 1, … n - 1 as i64: the stream's shuffle.
///
/// # Errors
/// `OutOfMemory`.
pub fn permutation(n: usize, stream: &Stream, device: &Device) -> Result<Array> {
    let _span = device.span("permutation", Work::default);
    let mut order: Vec<i64> = (0..n as i64).collect();
    stream.clone().shuffle(&mut order);
    Array::from_slice(&order, &[n], device)
}

selfsame_kernels::stamp! {
    fn affine<T: Real>(scale: T, shift: T, y: &mut [T]) {
        for y in y {
            *y = Real::mul_add(scale, *y, shift);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, f64s};
    use selfsame_kernels::philox::{Key, Purpose};

    fn stream(seed: u64) -> Stream {
        Key::new(seed, Purpose::Check).stream(0, 0, 0)
    }

    #[test]
    fn draws_are_the_same_on_every_device_and_of_every_length() {
        let all = devices();
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let first = uniform(&[40_001], dtype, -1.0, 3.0, &stream(1), &all[0]).unwrap();
            let gauss = normal(&[40_001], dtype, 0.5, 2.0, &stream(1), &all[0]).unwrap();
            for device in &all {
                let again = uniform(&[40_001], dtype, -1.0, 3.0, &stream(1), device).unwrap();
                assert_eq!(f64s(&again), f64s(&first));
                let short = normal(&[7, 33], dtype, 0.5, 2.0, &stream(1), device).unwrap();
                assert_eq!(f64s(&short), f64s(&gauss)[..7 * 33]);
            }
        }
        assert_ne!(
            f64s(&uniform(&[8], DType::F32, 0., 1., &stream(1), &all[0]).unwrap()),
            f64s(&uniform(&[8], DType::F32, 0., 1., &stream(2), &all[0]).unwrap())
        );
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let device = &devices()[0];
        let n = 1 << 16;
        let moments = |x: Array| {
            let x = f64s(&x);
            let mean = x.iter().sum::<f64>() / n as f64;
            (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
        };
        // Five standard errors of mean and variance each.
        let (mean, variance) = moments(uniform(&[n], DType::F32, 2.0, 4.0, &stream(3), device).unwrap());
        assert!((mean - 3.0).abs() < 0.012 && (variance - 1.0 / 3.0).abs() < 0.006, "{mean} {variance}");
        let (mean, variance) = moments(normal(&[n], DType::F64, -1.0, 0.5, &stream(3), device).unwrap());
        assert!((mean + 1.0).abs() < 0.01 && (variance - 0.25).abs() < 0.007, "{mean} {variance}");
        let flags = bernoulli(&[n], 0.25, &stream(3), device).unwrap();
        let (mean, _) = moments(cast(&flags, DType::F32).unwrap());
        assert!((mean - 0.25).abs() < 0.0085, "{mean}");
    }

    #[test]
    fn certain_events_are_certain() {
        let device = &devices()[0];
        assert!(!bernoulli(&[999], 0.0, &stream(4), device).unwrap().to_vec::<bool>().unwrap().contains(&true));
        assert!(!bernoulli(&[999], 1.0, &stream(4), device).unwrap().to_vec::<bool>().unwrap().contains(&false));
        assert!(bernoulli(&[1], f64::NAN, &stream(4), device).is_err());
        assert_eq!(uniform(&[1], DType::I64, 0., 1., &stream(4), device).unwrap_err().kind(), ErrorKind::DType);
    }

    #[test]
    fn permutation_holds_every_number_once() {
        let device = &devices()[0];
        let mut order = permutation(1000, &stream(5), device).unwrap().to_vec::<i64>().unwrap();
        assert_ne!(order[..20], (0..20).collect::<Vec<i64>>());
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }
}
