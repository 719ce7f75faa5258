//! Resizing of NHWC activations and its gradient.
//!
//! Each output is fma(w_y, r, sum) over its taps in y, in order from +0, where r is the chain fma(w_x, x, r) over its
//! taps in x, in order from +0. Positions and weights are computed in f64 and rounded to the element type.

use super::by_row::{expect_shape, write_rows};
use super::{is_half, kernels_for, span, through_f32, with_real};
use crate::gpu;
use crate::{Array, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;

/// How values between pixels are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel that the output's corner falls into: floor(i in / out).
    Nearest,
    /// Linear between the two neighbours along each axis.
    Bilinear,
    /// Keys' cubic with a = -0.75 over four neighbours along each axis.
    Bicubic,
}

/// x `[n, h, w, c]` resized to `[n, size.0, size.1, c]`.
///
/// With `align_corners` the centres of the corner pixels coincide, else the corners of the images; `Nearest` knows only
/// the latter. Taps beyond the border read the border pixel. The image is not smoothed first when it shrinks.
///
/// # Errors
/// When `x` has not four axes, an image is empty, or the type is not a float.
pub fn interpolate(x: &Array, size: [usize; 2], mode: Interpolation, align_corners: bool) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, |x| interpolate(x, size, mode, align_corners));
    }
    let ([n, h, w, c], [oh, ow]) = (images("interpolate", x.shape(), size)?, size);
    let _span = span("interpolate", &[x], |_| (n * oh * ow * c, 8 * n * oh * ow * c, 0));
    let x = x.contiguous()?;
    if let Some(gpu) = kernels_for(&x) {
        return gpu::interpolate::interpolate(gpu, &x, size, mode, align_corners);
    }
    with_real!("interpolate", x.dtype(), T, {
        let values = x.as_slice::<T>()?;
        let (rows, columns) = (taps::<T>(h, oh, mode, align_corners), taps::<T>(w, ow, mode, align_corners));
        Array::build::<T>(x.device(), &[n, oh, ow, c], "interpolate", |cpu, y| {
            write_rows(cpu, y, ow * c, |row_sum: &mut Vec<T>, row, y| {
                let image = &values[row / oh * h * w * c..][..h * w * c];
                row_sum.resize(c, T::ZERO);
                y.fill(T::ZERO);
                for (y, columns) in y.chunks_mut(c.max(1)).zip(&columns) {
                    for &(iy, weight) in &rows[row % oh] {
                        row_sum.fill(T::ZERO);
                        for &(ix, weight) in columns {
                            add_weighted(cpu.isa(), weight, &image[(iy * w + ix) * c..][..c], row_sum);
                        }
                        add_weighted(cpu.isa(), weight, row_sum, y);
                    }
                }
            });
            Ok(())
        })
    })
}

/// dx of [`interpolate`]: its adjoint. By outputs in row-major order and taps in order, each input takes
/// fma(w_x, w_y dy, dx).
///
/// # Errors
/// When shapes do not fit, or the type is not a float.
pub fn interpolate_grad(dy: &Array, x_shape: &[usize], mode: Interpolation, align_corners: bool) -> Result<Array> {
    const OP: &str = "interpolate_grad";
    if is_half(dy.dtype()) {
        return through_f32(dy, |dy| interpolate_grad(dy, x_shape, mode, align_corners));
    }
    let [_, oh, ow, _] = dy.dims()?;
    let [n, h, w, c] = images(OP, x_shape, [oh, ow])?;
    expect_shape(OP, "dy", dy, &[n, oh, ow, c])?;
    let _span = span(OP, &[dy], |outputs| (n * h * w * c, 8 * outputs, 0));
    let dy = dy.contiguous()?;
    if let Some(gpu) = kernels_for(&dy) {
        return gpu::interpolate::interpolate_grad(gpu, &dy, [n, h, w, c], mode, align_corners);
    }
    with_real!(OP, dy.dtype(), T, {
        let gradients = dy.as_slice::<T>()?;
        let (rows, columns) = (taps::<T>(h, oh, mode, align_corners), taps::<T>(w, ow, mode, align_corners));
        Array::build::<T>(dy.device(), x_shape, OP, |cpu, dx| {
            write_rows(cpu, dx, h * w * c, |share: &mut Vec<T>, image, dx| {
                share.resize(c, T::ZERO);
                dx.fill(T::ZERO);
                let image = &gradients[image * oh * ow * c..(image + 1) * oh * ow * c];
                for (at, dy) in image.chunks(c.max(1)).enumerate() {
                    for &(iy, weight) in &rows[at / ow] {
                        share.copy_from_slice(dy);
                        selfsame_kernels::elementwise::scale(cpu.isa(), weight, share);
                        for &(ix, weight) in &columns[at % ow] {
                            add_weighted(cpu.isa(), weight, share, &mut dx[(iy * w + ix) * c..][..c]);
                        }
                    }
                }
            });
            Ok(())
        })
    })
}

stamp! {
    fn add_weighted<T: Real>(weight: T, x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Real::mul_add(weight, x, *y);
        }
    }
}

/// For each output position along an axis, the input positions it reads and their weights.
fn taps<T: Real>(len: usize, out: usize, mode: Interpolation, align_corners: bool) -> Vec<Vec<(usize, T)>> {
    let ratio = match align_corners {
        true if out > 1 => (len - 1) as f64 / (out - 1) as f64,
        true => 0.0,
        false => len as f64 / out as f64,
    };
    let tap = |position: f64, weight: f64| (position.clamp(0.0, (len - 1) as f64) as usize, T::from_f64(weight));
    (0..out)
        .map(|i| {
            let position = if align_corners { i as f64 * ratio } else { (i as f64 + 0.5) * ratio - 0.5 };
            match mode {
                // In integers: a rounded ratio could fall just short of a whole pixel.
                Interpolation::Nearest => vec![(i * len / out, T::ONE)],
                Interpolation::Bilinear => {
                    let position = position.max(0.0);
                    let left = position.floor();
                    let t = position - left;
                    vec![tap(left, 1.0 - t), tap(left + 1.0, t)]
                }
                Interpolation::Bicubic => {
                    let left = position.floor();
                    let t = position - left;
                    (-1..3).map(|k| tap(left + f64::from(k), cubic(t - f64::from(k)))).collect()
                }
            }
        })
        .collect()
}

/// Keys' convolution kernel with a = -0.75 (*Cubic convolution interpolation for digital image processing*, 1981).
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    let d = distance.abs();
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    } else {
        0.0
    }
}

fn images(op: &'static str, x: &[usize], size: [usize; 2]) -> Result<[usize; 4]> {
    match *x {
        [n, h, w, c] if h > 0 && w > 0 && !size.contains(&0) => Ok([n, h, w, c]),
        _ => Err(Error::new(ErrorKind::Shape, op, format!("{x:?} to {size:?}"))
            .expected("[n, h, w, c] with at least one pixel on either side")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cast;
    use crate::ops::testing::{assert_gradient, devices, f64s, noise};
    use crate::{DType, Device};

    const MODES: [Interpolation; 3] = [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic];

    #[test]
    fn every_device_has_the_same_bits() {
        for mode in MODES {
            let results: Vec<Vec<f32>> = devices()
                .iter()
                .map(|device| {
                    let x = noise(&[3, 9, 7, 20], 1, device).flip(1).unwrap();
                    interpolate(&x, [13, 5], mode, false).unwrap().to_vec().unwrap()
                })
                .collect();
            assert!(results.iter().all(|r| *r == results[0]));
        }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[2, 5, 6, 3], 1, &device);
        for mode in MODES {
            for align_corners in [false, true] {
                assert_eq!(f64s(&interpolate(&x, [5, 6], mode, align_corners).unwrap()), f64s(&x), "{mode:?}");
            }
        }
    }

    #[test]
    fn linear_ramps_stay_linear_inside() {
        let device = Device::cpu_with(1).unwrap();
        let ramp: Vec<f64> = (0..8).map(f64::from).collect();
        let x = Array::from_slice(&ramp, &[1, 1, 8, 1], &device).unwrap();
        let y = f64s(&interpolate(&x, [1, 20], Interpolation::Bilinear, false).unwrap());
        // Output i lies at (i + 1/2) 8/20 - 1/2; the two at each end meet the border.
        for (i, y) in y.iter().enumerate().skip(2).take(16) {
            assert!((y - ((i as f64 + 0.5) * 0.4 - 0.5)).abs() < 1e-12, "{i} {y}");
        }
        let aligned = f64s(&interpolate(&x, [1, 15], Interpolation::Bilinear, true).unwrap());
        assert!(aligned.iter().enumerate().all(|(i, y)| *y == i as f64 / 2.0), "{aligned:?}");
        let nearest = f64s(&interpolate(&x, [1, 4], Interpolation::Nearest, false).unwrap());
        assert_eq!(nearest, [0., 2., 4., 6.]);
    }

    #[test]
    fn bicubic_has_the_weights_of_its_kernel() {
        let device = Device::cpu_with(1).unwrap();
        // Outputs lie at 1/2, 5/2, 9/2, 13/2 and see the one at 3 from 5/2, 1/2, 3/2, 7/2 pixels away. With a = -3/4
        // the kernel is (a + 2)/8 - (a + 3)/4 + 1 = 19/32 at 1/2 and a/8 = -3/32 at 3/2.
        let one = Array::from_slice(&[0., 0., 0., 1., 0., 0., 0., 0.], &[1, 1, 8, 1], &device).unwrap();
        let y = f64s(&interpolate(&one, [1, 4], Interpolation::Bicubic, false).unwrap());
        assert_eq!(y, [0.0, 19.0 / 32.0, -3.0 / 32.0, 0.0]);
        let constant = Array::full(3.0, &[1, 5, 7, 2], &device).unwrap();
        let y = f64s(&interpolate(&constant, [11, 4], Interpolation::Bicubic, false).unwrap());
        assert!(y.iter().all(|y| (y - 3.0).abs() < 1e-14), "{y:?}");
    }

    #[test]
    fn gradients_match_finite_differences() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[2, 5, 4, 3], 1, &device), DType::F64).unwrap();
        for mode in MODES {
            for (size, align_corners) in [([8, 3], false), ([3, 9], true), ([1, 1], true)] {
                assert_gradient(
                    &x,
                    |x| interpolate(x, size, mode, align_corners),
                    |dy| interpolate_grad(dy, x.shape(), mode, align_corners),
                );
            }
        }
    }

    #[test]
    fn empty_images_are_refused_and_empty_batches_are_not() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[0, 5, 4, 3], 1, &device);
        assert_eq!(interpolate(&x, [2, 2], Interpolation::Bilinear, false).unwrap().shape(), [0, 2, 2, 3]);
        assert!(interpolate(&x, [0, 2], Interpolation::Bilinear, false).is_err());
        assert!(interpolate(&noise(&[2, 0, 4, 3], 1, &device), [2, 2], Interpolation::Nearest, false).is_err());
    }
}
