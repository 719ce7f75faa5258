//! Pooling of NHWC activations: `max_pool2d`, `avg_pool2d`, `global_avg_pool`, and their gradients.
//!
//! Taps are visited row by row of the window; gradients that meet in one pixel are added in row-major order of the
//! outputs they come from.

use super::by_row::{expect_shape, write_rows};
use super::index::check_positions;
use super::operand::same_device;
use super::{cast, elements, is_half, kernels_for, mean, span, through_f32, unsupported, with_real};
use crate::gpu;
use crate::{Array, DType, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;
use std::ops::Range;

/// A window that moves over an image. Each pair is (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Size of the window.
    pub kernel: [usize; 2],
    /// Pixels between neighbouring outputs.
    pub stride: [usize; 2],
    /// Pixels of border on each side, at most half the kernel.
    pub padding: [usize; 2],
}

impl Pool2d {
    /// Pixels of a whole window.
    fn area(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Shape `[n, h', w', c]` of the result for x `[n, h, w, c]`.
    ///
    /// # Errors
    /// When the window does not fit inside the padded image, or the padding exceeds half the window.
    pub fn output_shape(&self, x: &[usize]) -> Result<[usize; 4]> {
        let misfit = |expected: &str| {
            Error::new(ErrorKind::Shape, "pool2d", format!("input {x:?}, {self:?}")).expected(expected)
        };
        let &[n, h, w, c] = x else { return Err(misfit("[n, h, w, c]")) };
        if self.stride.contains(&0) || self.kernel.contains(&0) {
            return Err(misfit("kernel and stride of at least 1"));
        }
        if (0..2).any(|i| 2 * self.padding[i] > self.kernel[i]) {
            return Err(misfit("padding of at most half the kernel"));
        }
        let size = |i: usize, len: usize| {
            let room = (len + 2 * self.padding[i]).checked_sub(self.kernel[i]).filter(|_| len > 0);
            room.map(|room| room / self.stride[i] + 1)
        };
        match (size(0, h), size(1, w)) {
            (Some(oh), Some(ow)) => Ok([n, oh, ow, c]),
            _ => Err(misfit("a window that fits inside the padded image")),
        }
    }

    /// The input positions along axis `i` (0: rows, 1: columns) inside the window of output `at`.
    fn window(&self, i: usize, at: usize, len: usize) -> Range<usize> {
        let start = at * self.stride[i];
        start.saturating_sub(self.padding[i])..(start + self.kernel[i] - self.padding[i]).min(len)
    }

    /// Calls `visit(output pixel, input pixel)` for each tap inside the image, by outputs in row-major order.
    fn for_each_tap(&self, [h, w]: [usize; 2], [oh, ow]: [usize; 2], mut visit: impl FnMut(usize, usize)) {
        for oy in 0..oh {
            for ox in 0..ow {
                for y in self.window(0, oy, h) {
                    for x in self.window(1, ox, w) {
                        visit(oy * ow + ox, y * w + x);
                    }
                }
            }
        }
    }
}

/// (largest value in each window, its input pixel): x `[n, h, w, c]` to two arrays `[n, h', w', c]`, the second i32
/// with pixel y w + x of the same image. NaN is larger than any number; of equals the first in row-major order wins.
///
/// # Errors
/// When the window does not fit, or the type is not a float.
pub fn max_pool2d(x: &Array, pool: &Pool2d) -> Result<(Array, Array)> {
    if is_half(x.dtype()) {
        let (y, index) = max_pool2d(&cast(x, DType::F32)?, pool)?;
        return Ok((cast(&y, x.dtype())?, index));
    }
    let shape @ [_, oh, ow, c] = pool.output_shape(x.shape())?;
    let _span = span("max_pool2d", &[x], |_| (2 * elements(&shape), elements(&shape) * pool.area(), 0));
    let [_, h, w, _] = x.dims()?;
    check_pixels("max_pool2d", h * w)?;
    let x = x.contiguous()?;
    if let Some(gpu) = kernels_for(&x) {
        return gpu::pool::max_pool2d(gpu, &x, pool, shape);
    }
    with_real!("max_pool2d", x.dtype(), T, {
        let images = x.as_slice::<T>()?;
        let mut winners = Vec::new();
        let y = Array::build::<T>(x.device(), &shape, "max_pool2d", |cpu, y| {
            winners.resize(y.len(), 0i32);
            if y.is_empty() {
                return Ok(());
            }
            cpu.workers().run_chunks2((y, ow * c), (&mut winners, ow * c), |row, y, winners| {
                let (image, oy) = (&images[row / oh * h * w * c..][..h * w * c], row % oh);
                for ((ox, y), winners) in y.chunks_mut(c).enumerate().zip(winners.chunks_mut(c)) {
                    let mut is_first = true;
                    for iy in pool.window(0, oy, h) {
                        for pixel in pool.window(1, ox, w).map(|ix| iy * w + ix) {
                            let tap = &image[pixel * c..(pixel + 1) * c];
                            if std::mem::take(&mut is_first) {
                                y.copy_from_slice(tap);
                                winners.fill(pixel as i32);
                            } else {
                                keep_larger(cpu.isa(), tap, pixel as i32, y, winners);
                            }
                        }
                    }
                }
            });
            Ok(())
        })?;
        Ok((y, Array::from_slice(&winners, &shape, x.device())?))
    })
}

/// dx of [`max_pool2d`] from its second result.
///
/// # Errors
/// When shapes do not fit, an index lies outside the image, or the type is not a float.
pub fn max_pool2d_grad(dy: &Array, index: &Array, x_shape: &[usize]) -> Result<Array> {
    const OP: &str = "max_pool2d_grad";
    if is_half(dy.dtype()) {
        return through_f32(dy, |dy| max_pool2d_grad(dy, index, x_shape));
    }
    let _span = span(OP, &[dy, index], |n| (elements(x_shape), n, 0));
    expect_shape(OP, "index", index, dy.shape())?;
    let ([n, oh, ow, c], &[x_n, h, w, x_c]) = (dy.dims()?, expect_rank4(OP, x_shape)?);
    same_device(OP, dy, index)?;
    if (n, c) != (x_n, x_c) {
        return Err(Error::new(ErrorKind::Shape, OP, format!("dy {:?}, input {x_shape:?}", dy.shape()))
            .expected("equal images and channels"));
    }
    if index.dtype() != DType::I32 {
        return Err(unsupported(OP, index.dtype(), "pixels of type i32"));
    }
    let (dy, index) = (dy.contiguous()?, index.contiguous()?);
    if let Some(gpu) = kernels_for(&dy) {
        check_positions(OP, &cast(&index, DType::I64)?, h * w)?;
        return gpu::pool::max_pool2d_grad(gpu, (&dy, &index), [n, h, w, c]);
    }
    let winners = index.as_slice::<i32>()?;
    if let Some(bad) = winners.iter().find(|&&i| i < 0 || i as usize >= h * w) {
        return Err(Error::new(ErrorKind::Shape, OP, format!("pixel {bad}")).expected(format!("below {}", h * w)));
    }
    with_real!(OP, dy.dtype(), T, {
        let gradients = dy.as_slice::<T>()?;
        Array::build::<T>(dy.device(), x_shape, OP, |cpu, dx| {
            dx.fill(T::ZERO);
            write_rows(cpu, dx, h * w * c, |_: &mut (), image, dx| {
                let range = image * oh * ow * c..(image + 1) * oh * ow * c;
                for (at, (&dy, &winner)) in gradients[range.clone()].iter().zip(&winners[range]).enumerate() {
                    dx[winner as usize * c + at % c] += dy;
                }
            });
            Ok(())
        })
    })
}

/// The mean of each window: a chain of additions over its taps, divided by their number; with `count_padding` divided
/// by the size of the window everywhere.
///
/// # Errors
/// When the window does not fit, or the type is not a float.
pub fn avg_pool2d(x: &Array, pool: &Pool2d, count_padding: bool) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, |x| avg_pool2d(x, pool, count_padding));
    }
    let shape @ [_, oh, ow, c] = pool.output_shape(x.shape())?;
    let _span = span("avg_pool2d", &[x], |_| (elements(&shape), elements(&shape) * pool.area(), elements(&shape)));
    let [_, h, w, _] = x.dims()?;
    let x = x.contiguous()?;
    if let Some(gpu) = kernels_for(&x) {
        return gpu::pool::avg_pool2d(gpu, &x, pool, count_padding, shape);
    }
    with_real!("avg_pool2d", x.dtype(), T, {
        let images = x.as_slice::<T>()?;
        let counts: Vec<T> = counts(pool, [h, w], [oh, ow], count_padding);
        Array::build::<T>(x.device(), &shape, "avg_pool2d", |cpu, y| {
            write_rows(cpu, y, oh * ow * c, |_: &mut (), image, y| {
                let image = &images[image * h * w * c..(image + 1) * h * w * c];
                y.fill(T::ZERO);
                pool.for_each_tap([h, w], [oh, ow], |to, from| {
                    add_into(cpu.isa(), &image[from * c..(from + 1) * c], &mut y[to * c..(to + 1) * c]);
                });
                for (y, &count) in y.chunks_mut(c).zip(&counts) {
                    y.iter_mut().for_each(|y| *y /= count);
                }
            });
            Ok(())
        })
    })
}

/// dx of [`avg_pool2d`]: each output hands dy / count to its taps.
///
/// # Errors
/// When shapes do not fit, or the type is not a float.
pub fn avg_pool2d_grad(dy: &Array, x_shape: &[usize], pool: &Pool2d, count_padding: bool) -> Result<Array> {
    const OP: &str = "avg_pool2d_grad";
    if is_half(dy.dtype()) {
        return through_f32(dy, |dy| avg_pool2d_grad(dy, x_shape, pool, count_padding));
    }
    let shape @ [_, oh, ow, _] = pool.output_shape(x_shape)?;
    let _span = span(OP, &[dy], |n| (elements(x_shape), n * pool.area(), n));
    expect_shape(OP, "dy", dy, &shape)?;
    let &[n, h, w, c] = expect_rank4(OP, x_shape)?;
    let dy = dy.contiguous()?;
    if let Some(gpu) = kernels_for(&dy) {
        return gpu::pool::avg_pool2d_grad(gpu, &dy, [n, h, w, c], pool, count_padding);
    }
    with_real!(OP, dy.dtype(), T, {
        let gradients = dy.as_slice::<T>()?;
        let counts: Vec<T> = counts(pool, [h, w], [oh, ow], count_padding);
        Array::build::<T>(dy.device(), x_shape, OP, |cpu, dx| {
            write_rows(cpu, dx, h * w * c, |share: &mut Vec<T>, image, dx| {
                share.clear();
                let dy = &gradients[image * oh * ow * c..(image + 1) * oh * ow * c];
                for (dy, &count) in dy.chunks(c).zip(&counts) {
                    share.extend(dy.iter().map(|&dy| dy / count));
                }
                dx.fill(T::ZERO);
                pool.for_each_tap([h, w], [oh, ow], |from, to| {
                    add_into(cpu.isa(), &share[from * c..(from + 1) * c], &mut dx[to * c..(to + 1) * c]);
                });
            });
            Ok(())
        })
    })
}

/// The mean over all pixels: x `[n, h, w, c]` to `[n, c]`, in the order of [`mean`].
///
/// # Errors
/// When `x` has not four axes, or the type is not a float.
pub fn global_avg_pool(x: &Array) -> Result<Array> {
    let _span = span("global_avg_pool", &[x], |_| (0, 0, 0));
    expect_rank4("global_avg_pool", x.shape())?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::pool::global_avg_pool(gpu, &x.contiguous()?);
    }
    mean(x, &[1, 2], false)
}

/// dx of [`global_avg_pool`]: dy / (h w) at every pixel.
///
/// # Errors
/// When shapes do not fit, or the type is not a float.
pub fn global_avg_pool_grad(dy: &Array, x_shape: &[usize]) -> Result<Array> {
    let _span = span("global_avg_pool_grad", &[dy], |_| (0, 0, 0));
    let &[n, h, w, c] = expect_rank4("global_avg_pool_grad", x_shape)?;
    expect_shape("global_avg_pool_grad", "dy", dy, &[n, c])?;
    if let Some(gpu) = kernels_for(dy) {
        return gpu::pool::global_avg_pool_grad(gpu, &dy.contiguous()?, [n, h, w, c]);
    }
    let share = super::binary_scalar(super::Binary::Div, dy, (h * w) as f64)?;
    share.reshape(&[n, 1, 1, c])?.broadcast_to(x_shape)?.contiguous()
}

stamp! {
    /// Takes over the elements of `tap` that are larger (by the rule of `Real::max`), and notes where they came from.
    fn keep_larger<T: Real>(tap: &[T], pixel: i32, y: &mut [T], winners: &mut [i32]) {
        for ((y, winner), &x) in y.iter_mut().zip(winners).zip(tap) {
            let is_larger = (x > *y) | (x.is_nan() & !y.is_nan());
            *y = if is_larger { x } else { *y };
            *winner = if is_larger { pixel } else { *winner };
        }
    }

    fn add_into<T: Real>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// What the sum of each window is divided by.
fn counts<T: Real>(pool: &Pool2d, [h, w]: [usize; 2], [oh, ow]: [usize; 2], count_padding: bool) -> Vec<T> {
    let count = |oy, ox| match count_padding {
        true => pool.kernel[0] * pool.kernel[1],
        false => pool.window(0, oy, h).len() * pool.window(1, ox, w).len(),
    };
    (0..oh * ow).map(|at| T::from_usize(count(at / ow, at % ow))).collect()
}

fn expect_rank4<'a>(op: &'static str, shape: &'a [usize]) -> Result<&'a [usize; 4]> {
    shape.try_into().map_err(|_| Error::new(ErrorKind::Shape, op, format!("{shape:?}")).expected("[n, h, w, c]"))
}

fn check_pixels(op: &'static str, pixels: usize) -> Result<()> {
    if i32::try_from(pixels).is_ok() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("{pixels} pixels")).expected("fewer than 2^31"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_gradient, devices, f64s, noise};
    use crate::{Device, bf16};
    use proptest::prelude::*;

    /// The taps of one output, as (input pixel, value).
    fn taps(
        x: &[f32],
        [h, w, c]: [usize; 3],
        pool: &Pool2d,
        [oy, ox]: [usize; 2],
        channel: usize,
    ) -> Vec<(usize, f32)> {
        let mut taps = Vec::new();
        for ky in 0..pool.kernel[0] {
            for kx in 0..pool.kernel[1] {
                let y = (oy * pool.stride[0] + ky).checked_sub(pool.padding[0]).filter(|y| *y < h);
                let x_at = (ox * pool.stride[1] + kx).checked_sub(pool.padding[1]).filter(|x| *x < w);
                if let (Some(y), Some(x_at)) = (y, x_at) {
                    taps.push((y * w + x_at, x[(y * w + x_at) * c + channel]));
                }
            }
        }
        taps
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pools_match_a_scalar_loop(
            (h, w, c) in (3usize..9, 3usize..9, 1usize..19),
            kernel in (1usize..4, 1usize..4),
            stride in (1usize..4, 1usize..4),
            padded: bool,
            count_padding: bool,
        ) {
            let padding = if padded { [kernel.0 / 2, kernel.1 / 2] } else { [0, 0] };
            let pool = Pool2d { kernel: [kernel.0, kernel.1], stride: [stride.0, stride.1], padding };
            for device in devices() {
                // Two images, read through a transposed view.
                let x = noise(&[2, w, h, c], 1, &device).transpose(1, 2).unwrap();
                let values = x.to_vec::<f32>().unwrap();
                let [n, oh, ow, _] = pool.output_shape(x.shape()).unwrap();
                let (mut largest, mut winners, mut means) = (Vec::new(), Vec::new(), Vec::new());
                for i in 0..n * oh * ow * c {
                    let (image, oy, ox, channel) = (i / (oh * ow * c), i / (ow * c) % oh, i / c % ow, i % c);
                    let image = &values[image * h * w * c..(image + 1) * h * w * c];
                    let taps = taps(image, [h, w, c], &pool, [oy, ox], channel);
                    let best = taps.iter().skip(1).fold(taps[0], |best, tap| if tap.1 > best.1 { *tap } else { best });
                    largest.push(best.1);
                    winners.push(best.0 as i32);
                    let count = if count_padding { kernel.0 * kernel.1 } else { taps.len() };
                    means.push(taps.iter().fold(0.0, |sum, tap| sum + tap.1) / count as f32);
                }
                let (y, index) = max_pool2d(&x, &pool).unwrap();
                prop_assert_eq!(y.to_vec::<f32>().unwrap(), largest);
                prop_assert_eq!(index.to_vec::<i32>().unwrap(), winners);
                let y = avg_pool2d(&x, &pool, count_padding).unwrap();
                prop_assert_eq!(y.to_vec::<f32>().unwrap(), means);
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[2, 7, 6, 5], 1, &device), DType::F64).unwrap();
        let pool = Pool2d { kernel: [3, 2], stride: [2, 1], padding: [1, 1] };
        assert_gradient(
            &x,
            |x| Ok(max_pool2d(x, &pool)?.0),
            |dy| max_pool2d_grad(dy, &max_pool2d(&x, &pool)?.1, x.shape()),
        );
        for count_padding in [false, true] {
            assert_gradient(
                &x,
                |x| avg_pool2d(x, &pool, count_padding),
                |dy| avg_pool2d_grad(dy, x.shape(), &pool, count_padding),
            );
        }
        assert_gradient(&x, global_avg_pool, |dy| global_avg_pool_grad(dy, x.shape()));
    }

    #[test]
    fn nan_wins_and_the_first_of_equals() {
        let device = Device::cpu_with(1).unwrap();
        let pool = Pool2d { kernel: [1, 3], stride: [1, 3], padding: [0, 0] };
        let x = [5.0, f32::NAN, 9.0, 2.0, 2.0, 1.0];
        let x = Array::from_slice(&x, &[1, 1, 6, 1], &device).unwrap();
        let (y, index) = max_pool2d(&x, &pool).unwrap();
        assert!(f64s(&y)[0].is_nan());
        assert_eq!(index.to_vec::<i32>().unwrap(), [1, 3]);
        let half = max_pool2d(&cast(&x, DType::BF16).unwrap(), &pool).unwrap().0;
        assert_eq!(half.to_vec::<bf16>().unwrap()[1].to_f32(), 2.0);
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let pool = Pool2d { kernel: [3, 3], stride: [1, 1], padding: [2, 0] };
        assert!(pool.output_shape(&[1, 8, 8, 1]).unwrap_err().sentence().contains("half the kernel"));
        let pool = Pool2d { kernel: [3, 3], stride: [1, 1], padding: [0, 0] };
        assert!(pool.output_shape(&[1, 2, 8, 1]).is_err());
        assert!(pool.output_shape(&[8, 8]).is_err());
        assert_eq!(pool.output_shape(&[0, 8, 8, 3]).unwrap(), [0, 6, 6, 3]);
    }
}
