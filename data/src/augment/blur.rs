//! Gaussian blur, separable, zero (SAME) padding.
//!
//! Weights w(d) = exp(-d² / 2σ²) for |d| <= h, normalised to sum 1. SimCLR's half-width is h = ⌊⌊H / 10⌋ / 2⌋ for an
//! image of H rows: 11 at 224 (23 taps), 1 at 32. Taps outside the image count as zero and are not made up for, so
//! borders darken.

use super::Augment;
use crate::image::{Image, clip};
use crate::random::Draw;
use selfsame_engine::Result;
use selfsame_kernels::math;
use selfsame_kernels::philox::Stream;

/// Blurs with standard deviation `sigma` (in pixels, positive) and a kernel of `2 * half_width + 1` taps.
pub fn blur(image: &mut Image, sigma: f32, half_width: usize) {
    let weights = weights(sigma, half_width);
    let (row, channels) = (image.width * image.channels, image.channels);
    let mut across = vec![0.0f32; image.pixels.len()];
    for (source, target) in image.pixels.chunks_exact(row).zip(across.chunks_exact_mut(row)) {
        for (tap, &weight) in weights.iter().enumerate() {
            // target[x] += weight * source[x + shift], where both exist.
            let shift = tap.abs_diff(half_width) * channels;
            if shift < row {
                let (source, target) = if tap < half_width {
                    (&source[..row - shift], &mut target[shift..])
                } else {
                    (&source[shift..], &mut target[..row - shift])
                };
                add_scaled(target, weight, source);
            }
        }
    }
    image.pixels.fill(0.0);
    for (y, target) in image.pixels.chunks_exact_mut(row).enumerate() {
        for (tap, &weight) in weights.iter().enumerate() {
            let from = (y + tap).checked_sub(half_width).filter(|&from| from < image.height);
            if let Some(from) = from {
                add_scaled(target, weight, &across[from * row..][..row]);
            }
        }
        target.iter_mut().for_each(|value| *value = clip(*value));
    }
}

#[inline(always)]
fn add_scaled(target: &mut [f32], weight: f32, source: &[f32]) {
    for (target, &source) in target.iter_mut().zip(source) {
        *target += weight * source;
    }
}

/// `2 * half_width + 1` weights of sum 1.
fn weights(sigma: f32, half_width: usize) -> Vec<f32> {
    let spread = -0.5 / (f64::from(sigma) * f64::from(sigma));
    let raw: Vec<f64> = (0..=2 * half_width)
        .map(|tap| {
            let d = tap.abs_diff(half_width) as f64;
            math::f64::exp(spread * d * d)
        })
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|weight| (weight / sum) as f32).collect()
}

/// Blurs with probability `p` and a standard deviation drawn uniformly; SimCLR's half-width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianBlur {
    /// Probability.
    pub p: f32,
    /// Smallest and largest standard deviation in pixels.
    pub sigma: (f32, f32),
}

impl GaussianBlur {
    /// SimCLR's half-width for an image of `height` rows.
    pub fn half_width(height: usize) -> usize {
        height / 10 / 2
    }
}

impl Augment for GaussianBlur {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        if rng.bernoulli(self.p) {
            let sigma = rng.between(self.sigma.0, self.sigma.1);
            blur(image, sigma, GaussianBlur::half_width(image.height));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_width_is_the_sheets() {
        assert_eq!([224, 96, 40, 32, 8].map(GaussianBlur::half_width), [11, 4, 2, 1, 0]);
    }

    #[test]
    fn a_constant_stays_constant_inside_and_darkens_at_the_border() {
        let mut image = Image::new(24, 20, 3, vec![0.6; 24 * 20 * 3]).unwrap();
        blur(&mut image, 1.5, 3);
        let at = |y: usize, x: usize| image.pixels[(y * 20 + x) * 3 + 1];
        for y in 3..21 {
            for x in 3..17 {
                assert!((at(y, x) - 0.6).abs() < 1e-6);
            }
        }
        assert!(at(0, 10) < 0.5 && at(0, 0) < at(0, 10));
    }

    #[test]
    fn one_bright_pixel_spreads_into_the_outer_product_of_the_weights() {
        let mut pixels = vec![0.0; 11 * 11];
        pixels[5 * 11 + 5] = 1.0;
        let mut image = Image::new(11, 11, 1, pixels).unwrap();
        blur(&mut image, 0.8, 2);
        let w = |d: i32| (-0.5 * f64::from(d * d) / 0.64).exp();
        let sum: f64 = (-2..=2).map(w).sum();
        for (k, &value) in image.pixels.iter().enumerate() {
            let (dy, dx) = (k as i32 / 11 - 5, k as i32 % 11 - 5);
            let expected = if dy.abs() <= 2 && dx.abs() <= 2 { w(dy) * w(dx) / (sum * sum) } else { 0.0 };
            assert!((f64::from(value) - expected).abs() < 1e-6, "at ({dy}, {dx})");
        }
    }

    #[test]
    fn kernels_wider_than_the_image_are_cut() {
        let mut image = Image::new(2, 3, 1, vec![0.5; 6]).unwrap();
        blur(&mut image, 100.0, 10);
        assert!(image.pixels.iter().all(|value| (0.0..0.2).contains(value)));
    }
}
