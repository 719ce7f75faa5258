//! Pooling and resizing give the same bits on `simt` as on the CPU, through kernels alone.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{self, Interpolation, Pool2d};
use selfsame_engine::{Array, Device, Result};

/// Overlapping windows with a border, disjoint ones, and ones that leave pixels out.
const POOLS: [Pool2d; 3] = [
    Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] },
    Pool2d { kernel: [2, 3], stride: [2, 3], padding: [0, 1] },
    Pool2d { kernel: [1, 2], stride: [3, 3], padding: [0, 0] },
];

/// Images `[2, 9, 11, 5]` whose values often meet, one of them NaN.
fn images(device: &Device) -> Result<Array> {
    let steps = ops::unary(ops::Unary::Floor, &noise(&[2, 9, 11, 5], 1, device))?;
    let nan = Array::full(f32::NAN, &[2, 9, 11, 5], device)?;
    let is_odd = ops::compare_scalar(ops::Compare::Gt, &noise(&[2, 9, 11, 5], 2, device), 1.9)?;
    ops::select(&is_odd, &nan, &steps)
}

#[test]
fn max_pooling() {
    same(|device| {
        let x = images(device)?;
        let mut results = Vec::new();
        for x in [&x, &x.transpose(1, 2)?] {
            for pool in &POOLS {
                let (y, index) = ops::max_pool2d(x, pool)?;
                let dy = noise(y.shape(), 3, device);
                results.push(ops::max_pool2d_grad(&dy, &index, x.shape())?);
                results.extend([y, index]);
            }
        }
        Ok(results)
    });
}

#[test]
fn average_pooling() {
    same(|device| {
        let x = noise(&[2, 9, 11, 5], 1, device);
        let mut results = Vec::new();
        for pool in &POOLS {
            for count_padding in [false, true] {
                let y = ops::avg_pool2d(&x, pool, count_padding)?;
                results.push(ops::avg_pool2d_grad(&noise(y.shape(), 2, device), x.shape(), pool, count_padding)?);
                results.push(y);
            }
        }
        Ok(results)
    });
}

#[test]
fn global_average_pooling() {
    same(|device| {
        let mut results = Vec::new();
        for shape in [[3, 7, 7, 37], [2, 25, 26, 3], [1, 1, 1, 1], [0, 2, 2, 3]] {
            results.push(ops::global_avg_pool(&noise(&shape, 1, device))?);
            results.push(ops::global_avg_pool_grad(&noise(&[shape[0], shape[3]], 2, device), &shape)?);
        }
        Ok(results)
    });
}

#[test]
fn interpolation() {
    same(|device| {
        let x = noise(&[2, 5, 7, 3], 1, device);
        let mut results = Vec::new();
        for mode in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            for size in [[9, 4], [3, 14], [5, 7], [1, 1]] {
                for align_corners in [false, true] {
                    let y = ops::interpolate(&x, size, mode, align_corners)?;
                    let dy = noise(y.shape(), 2, device);
                    results.push(ops::interpolate_grad(&dy, x.shape(), mode, align_corners)?);
                    results.push(y);
                }
            }
        }
        Ok(results)
    });
}

#[test]
fn pixels_outside_the_image_are_refused_on_every_device() {
    for device in [Device::cpu_with(1).unwrap(), Device::open("simt").unwrap()] {
        let dy = noise(&[1, 1, 2, 1], 1, &device);
        for bad in [-1, 4] {
            let index = Array::from_slice(&[0, bad], &[1, 1, 2, 1], &device).unwrap();
            // Computed, so that the GPU's copy alone is current.
            let index = ops::add(&index, &Array::zeros(&[], index.dtype(), &device).unwrap()).unwrap();
            let sentence = ops::max_pool2d_grad(&dy, &index, &[1, 2, 2, 1]).unwrap_err().sentence();
            assert!(sentence.contains(&bad.to_string()), "{sentence}");
        }
    }
}
