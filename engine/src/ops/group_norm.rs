//! `group_norm` of channels-last activations and its gradient. A group of an image is one row, its elements in
//! row-major order (pixels, then channels of the group); the order of operations stands in `row_norm.rs`.

use super::by_row::{expect_shape, statistic, write_rows, write_rows_and_stats};
use super::operand::same_kind;
use super::row_norm::{
    GradRow, check_eps, expect_parameter, normalize_row, normalized, parameter, row_grad, row_statistics, widened,
};
use super::{Float, cast, is_half, kernels_for, span, with_real};
use crate::gpu;
use crate::{Array, DType, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;

/// (y, mean, rstd) of x `[n, .., c]` with the channels in `groups` blocks; gamma and beta are `[c]`, mean and rstd
/// `[n, groups]` (f32 for bf16 and f16).
///
/// # Errors
/// When shapes or element types do not fit, `groups` does not divide the channels, or `eps` is not positive.
pub fn group_norm(
    x: &Array,
    groups: usize,
    gamma: Option<&Array>,
    beta: Option<&Array>,
    eps: f64,
) -> Result<(Array, Array, Array)> {
    check_eps("group_norm", eps)?;
    if is_half(x.dtype()) {
        let (gamma, beta) = (widened(gamma)?, widened(beta)?);
        let (y, mean, rstd) = group_norm(&cast(x, DType::F32)?, groups, gamma.as_ref(), beta.as_ref(), eps)?;
        return Ok((cast(&y, x.dtype())?, mean, rstd));
    }
    let _span = span("group_norm", &[x], |n| (n, 8 * n, 0));
    let shape = Groups::of("group_norm", x, groups)?;
    if let Some(gpu) = kernels_for(x) {
        for (name, parameter) in [("gamma", gamma), ("beta", beta)] {
            expect_parameter("group_norm", name, parameter, (x, shape.channels))?;
        }
        return gpu::rows::group_norm(gpu, x, shape.axes(), gamma, beta, eps as f32);
    }
    let images = x.contiguous()?;
    with_real!("group_norm", x.dtype(), T, {
        let gamma = parameter::<T>("group_norm", "gamma", gamma, T::ONE, (x, shape.channels))?;
        let beta = parameter::<T>("group_norm", "beta", beta, T::ZERO, (x, shape.channels))?;
        let (images, eps) = (images.as_slice::<T>()?, <T as Real>::from_f64(eps));
        let mut stats = vec![T::ZERO; 2 * shape.images * groups];
        let y = Array::build::<T>(x.device(), x.shape(), "group_norm", |cpu, y| {
            let (out, stats) = ((y, shape.image_len()), (&mut stats[..], 2 * groups));
            write_rows_and_stats(cpu, out, stats, |(row, result): &mut (Vec<T>, Vec<T>), image, y, stats| {
                let x = &images[image * shape.image_len()..(image + 1) * shape.image_len()];
                for (group, stats) in stats.chunks_mut(2).enumerate() {
                    shape.gather(x, group, row);
                    let (mean, rstd) = row_statistics(cpu.isa(), row, eps);
                    stats.copy_from_slice(&[mean, rstd]);
                    let channels = shape.channels_of(group);
                    result.resize(row.len(), T::ZERO);
                    if !row.is_empty() {
                        let (gamma, beta) = (&gamma[channels.clone()], &beta[channels]);
                        normalize_row(cpu.isa(), row, mean, rstd, gamma, beta, result);
                    }
                    shape.scatter(result, group, y);
                }
            });
            Ok(())
        })?;
        let stat = |i| statistic(&stats, (i, 2), &[shape.images, groups], x);
        Ok((y, stat(0)?, stat(1)?))
    })
}

/// dx of [`group_norm`]. With h from [`group_norm_normalized`], dgamma is the sum over samples of dy h, dbeta of dy.
///
/// # Errors
/// When shapes or element types do not fit, or the type is not a float.
pub fn group_norm_grad(dy: &Array, x: &Array, mean: &Array, rstd: &Array, gamma: Option<&Array>) -> Result<Array> {
    const OP: &str = "group_norm_grad";
    same_kind(OP, dy, x)?;
    expect_shape(OP, "dy", dy, x.shape())?;
    if is_half(x.dtype()) {
        let gamma = widened(gamma)?;
        let dx = group_norm_grad(&cast(dy, DType::F32)?, &cast(x, DType::F32)?, mean, rstd, gamma.as_ref())?;
        return cast(&dx, x.dtype());
    }
    let _span = span(OP, &[dy, x], |n| (n, 10 * n, 0));
    let [_, groups] = mean.dims::<2>()?;
    let shape = Groups::of(OP, x, groups)?;
    for (name, stat) in [("mean", mean), ("rstd", rstd)] {
        same_kind(OP, x, stat)?;
        expect_shape(OP, name, stat, &[shape.images, groups])?;
    }
    if let Some(gpu) = kernels_for(x) {
        expect_parameter(OP, "gamma", gamma, (x, shape.channels))?;
        return gpu::rows::group_norm_grad(gpu, dy, x, shape.axes(), mean, rstd, gamma);
    }
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    with_real!(OP, x.dtype(), T, {
        let gamma = parameter::<T>(OP, "gamma", gamma, T::ONE, (&x, shape.channels))?;
        let (mean, rstd) = (mean.to_vec::<T>()?, rstd.to_vec::<T>()?);
        let (x_images, dy_images) = (x.as_slice::<T>()?, dy.as_slice::<T>()?);
        Array::build::<T>(x.device(), x.shape(), OP, |cpu, dx| {
            write_rows(cpu, dx, shape.image_len(), |scratch: &mut GradScratch<T>, image, dx| {
                let range = image * shape.image_len()..(image + 1) * shape.image_len();
                for group in 0..groups {
                    shape.gather(&x_images[range.clone()], group, &mut scratch.x);
                    shape.gather(&dy_images[range.clone()], group, &mut scratch.dy);
                    scratch.dx.resize(scratch.x.len(), T::ZERO);
                    let (mean, rstd) = (mean[image * groups + group], rstd[image * groups + group]);
                    scratch.gamma.clear();
                    (0..shape.pixels).for_each(|_| scratch.gamma.extend(&gamma[shape.channels_of(group)]));
                    let GradScratch { x, dy, gamma, dx: of_group } = &mut *scratch;
                    row_grad(cpu.isa(), GradRow { x, dy, gamma, mean, rstd }, of_group);
                    shape.scatter(of_group, group, dx);
                }
            });
            Ok(())
        })
    })
}

/// (x - mean) rstd: what [`group_norm`] scales by gamma.
///
/// # Errors
/// When shapes or element types do not fit.
pub fn group_norm_normalized(x: &Array, mean: &Array, rstd: &Array) -> Result<Array> {
    const OP: &str = "group_norm_normalized";
    let _span = span(OP, &[x], |_| (0, 0, 0));
    let [_, groups] = mean.dims::<2>()?;
    let shape = Groups::of(OP, x, groups)?;
    expect_shape(OP, "mean", mean, &[shape.images, groups])?;
    expect_shape(OP, "rstd", rstd, &[shape.images, groups])?;
    let column = [shape.images, 1, groups, 1];
    let grouped = x.reshape(&[shape.images, shape.pixels, groups, shape.channels / groups])?;
    normalized(&grouped, &mean.reshape(&column)?, &rstd.reshape(&column)?)?.reshape(x.shape())
}

struct GradScratch<T> {
    x: Vec<T>,
    dy: Vec<T>,
    /// Of every element.
    gamma: Vec<T>,
    dx: Vec<T>,
}

impl<T> Default for GradScratch<T> {
    fn default() -> Self {
        GradScratch { x: Vec::new(), dy: Vec::new(), gamma: Vec::new(), dx: Vec::new() }
    }
}

#[derive(Clone, Copy)]
struct Groups {
    images: usize,
    pixels: usize,
    channels: usize,
    groups: usize,
}

impl Groups {
    fn of(op: &'static str, x: &Array, groups: usize) -> Result<Groups> {
        match x.shape() {
            [images, middle @ .., channels] if groups > 0 && channels % groups == 0 => {
                Ok(Groups { images: *images, pixels: middle.iter().product(), channels: *channels, groups })
            }
            shape => Err(Error::new(ErrorKind::Shape, op, format!("shape {shape:?} in {groups} groups"))
                .expected("[n, .., c] with c a multiple of the groups")),
        }
    }

    /// Images, pixels, groups, channels of a group.
    fn axes(&self) -> [usize; 4] {
        [self.images, self.pixels, self.groups, self.channels / self.groups]
    }

    fn image_len(&self) -> usize {
        self.pixels * self.channels
    }

    fn channels_of(&self, group: usize) -> std::ops::Range<usize> {
        let width = self.channels / self.groups;
        group * width..(group + 1) * width
    }

    /// The elements of a group of an image as a row.
    fn gather<T: Float>(&self, image: &[T], group: usize, row: &mut Vec<T>) {
        row.clear();
        for pixel in image.chunks(self.channels.max(1)) {
            row.extend_from_slice(&pixel[self.channels_of(group)]);
        }
    }

    /// The inverse of [`Groups::gather`].
    fn scatter<T: Float>(&self, row: &[T], group: usize, image: &mut [T]) {
        let channels = self.channels_of(group);
        if channels.is_empty() {
            return;
        }
        for (pixel, values) in image.chunks_mut(self.channels).zip(row.chunks(channels.len())) {
            pixel[channels.clone()].copy_from_slice(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::testing::{assert_gradient, devices, f64s, noise};
    use crate::ops::{add, layer_norm, mul};

    #[test]
    fn groups_are_rows_of_a_layer_norm() {
        for device in devices() {
            let (n, h, w, c, groups) = (3, 5, 4, 12, 4);
            let x = noise(&[n, h, w, c], 1, &device);
            let rows = x.reshape(&[n, h * w, groups, c / groups]).unwrap().permute(&[0, 2, 1, 3]).unwrap();
            let rows = rows.reshape(&[n, groups, h * w * c / groups]).unwrap();
            let (expected, mean, rstd) = layer_norm(&rows, None, None, 1e-5).unwrap();
            let expected = expected.reshape(&[n, groups, h * w, c / groups]).unwrap();
            let expected = expected.permute(&[0, 2, 1, 3]).unwrap().reshape(x.shape()).unwrap();
            let (y, group_mean, group_rstd) = group_norm(&x, groups, None, None, 1e-5).unwrap();
            assert_eq!(f64s(&y), f64s(&expected));
            assert_eq!(f64s(&group_norm_normalized(&x, &mean, &rstd).unwrap()), f64s(&expected));
            assert_eq!((f64s(&group_mean), f64s(&group_rstd)), (f64s(&mean), f64s(&rstd)));
        }
    }

    #[test]
    fn gamma_and_beta_go_by_channel() {
        let device = Device::cpu_with(1).unwrap();
        let x = cast(&noise(&[2, 3, 8], 1, &device), DType::F64).unwrap();
        let (gamma, beta) = (noise(&[8], 2, &device), noise(&[8], 3, &device));
        let (gamma, beta) = (cast(&gamma, DType::F64).unwrap(), cast(&beta, DType::F64).unwrap());
        let y = group_norm(&x, 2, Some(&gamma), Some(&beta), 1e-5).unwrap().0;
        let plain = group_norm(&x, 2, None, None, 1e-5).unwrap().0;
        let expected = add(&mul(&plain, &gamma).unwrap(), &beta).unwrap();
        for (y, expected) in f64s(&y).iter().zip(f64s(&expected)) {
            assert!((y - expected).abs() < 1e-14, "{y} {expected}");
        }
    }

    #[test]
    fn gradient_matches_finite_differences() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[3, 2, 3, 6], 4, &device), DType::F64).unwrap();
        let gamma = cast(&noise(&[6], 5, &device), DType::F64).unwrap();
        for groups in [1, 2, 6] {
            let run = |x: &Array| group_norm(x, groups, Some(&gamma), None, 1e-3).map(|(y, ..)| y);
            assert_gradient(&x, run, |dy| {
                let (_, mean, rstd) = group_norm(&x, groups, Some(&gamma), None, 1e-3)?;
                group_norm_grad(dy, &x, &mean, &rstd, Some(&gamma))
            });
        }
    }

    #[test]
    fn groups_must_divide_channels() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[2, 3, 8], 1, &device);
        for groups in [0, 3] {
            assert_eq!(group_norm(&x, groups, None, None, 1e-5).unwrap_err().kind(), ErrorKind::Shape);
        }
    }
}
