//! Bicubic resampling of a rectangle of an image, separable, with the kernel of Keys (1981) at a = -1/2:
//!
//! ```text
//! k(t) = 3/2 |t|^3 - 5/2 |t|^2 + 1            |t| <= 1
//!      = -1/2 |t|^3 + 5/2 |t|^2 - 4 |t| + 2   1 < |t| < 2
//! ```
//!
//! Output pixel i of n looks at source position c = (i + 1/2) s - 1/2, s = m / n for m source pixels. When shrinking
//! (s > 1) the kernel is widened by s, so that every source pixel counts (antialiasing, as in Pillow and TensorFlow's
//! `antialias=True`). Taps outside the rectangle are left out and the weights normalised to sum 1. Overshoots are
//! clipped to [0, 1] at the end. When m = n the weights are exactly 0 and 1: a crop of the same size copies pixels.

use super::crop::Crop;
use crate::image::{Image, check_shape, clip};
use selfsame_engine::{Error, ErrorKind, Result};

/// The pixels of `crop` of `image`, resampled to `height` x `width`.
///
/// An error when the crop is empty or reaches outside the image, or the output has no or too many pixels.
pub fn resize_crop(image: &Image, crop: Crop, height: usize, width: usize) -> Result<Image> {
    let Crop { top, left, height: from_height, width: from_width } = crop;
    let fits = |start: usize, extent: usize, side: usize| {
        extent > 0 && start.checked_add(extent).is_some_and(|end| end <= side)
    };
    if !fits(top, from_height, image.height) || !fits(left, from_width, image.width) {
        return Err(Error::new(ErrorKind::Shape, "resize_crop", format!("{crop:?}"))
            .expected(format!("a rectangle inside {} x {} pixels", image.height, image.width)));
    }
    check_shape(height, width, image.channels)?;
    let channels = image.channels;
    let columns = Weights::new(from_width, width);
    let rows = Weights::new(from_height, height);
    // Horizontally first: [from_height, width, channels].
    let mut narrow = vec![0.0f32; from_height * width * channels];
    for (source, target) in
        image.pixels.chunks_exact(image.width * channels).skip(top).zip(narrow.chunks_exact_mut(width * channels))
    {
        let source = &source[left * channels..(left + from_width) * channels];
        match channels {
            3 => resample_row::<3>(&columns, source, target),
            _ => resample_row::<1>(&columns, source, target),
        }
    }
    let mut pixels = vec![0.0f32; height * width * channels];
    for (y, target) in pixels.chunks_exact_mut(width * channels).enumerate() {
        let (first, weights) = rows.of(y);
        for (tap, &weight) in weights.iter().enumerate() {
            let source = &narrow[(first + tap) * width * channels..][..width * channels];
            for (target, &source) in target.iter_mut().zip(source) {
                *target += weight * source;
            }
        }
        target.iter_mut().for_each(|value| *value = clip(*value));
    }
    Ok(Image { height, width, channels, pixels })
}

#[inline(always)]
fn resample_row<const CHANNELS: usize>(columns: &Weights, source: &[f32], target: &mut [f32]) {
    for (x, target) in target.chunks_exact_mut(CHANNELS).enumerate() {
        let (first, weights) = columns.of(x);
        let mut sum = [0.0f32; CHANNELS];
        for (&weight, pixel) in weights.iter().zip(source[first * CHANNELS..].chunks_exact(CHANNELS)) {
            for (sum, &value) in sum.iter_mut().zip(pixel) {
                *sum += weight * value;
            }
        }
        target.copy_from_slice(&sum);
    }
}

/// The taps of every output position along one axis.
struct Weights {
    /// Taps per output position. Near a border the window is moved inside; its far taps then have weight 0.
    taps: usize,
    /// First source position of each output position.
    first: Vec<usize>,
    /// `[output positions][taps]`.
    weights: Vec<f32>,
}

impl Weights {
    fn new(from: usize, to: usize) -> Weights {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let taps = ((2.0 * support).ceil() as usize).min(from);
        let mut first = Vec::with_capacity(to);
        let mut weights = Vec::with_capacity(to * taps);
        let mut row = vec![0.0f64; taps];
        for i in 0..to {
            let centre = (i as f64 + 0.5) * scale - 0.5;
            let start = (((centre - support).floor() + 1.0).max(0.0) as usize).min(from - taps);
            for (tap, weight) in row.iter_mut().enumerate() {
                *weight = keys((centre - (start + tap) as f64) / stretch);
            }
            let sum: f64 = row.iter().sum();
            first.push(start);
            weights.extend(row.iter().map(|weight| (weight / sum) as f32));
        }
        Weights { taps, first, weights }
    }

    #[inline(always)]
    fn of(&self, output: usize) -> (usize, &[f32]) {
        (self.first[output], &self.weights[output * self.taps..][..self.taps])
    }
}

/// Keys' cubic convolution kernel, a = -1/2.
fn keys(t: f64) -> f64 {
    let t = t.abs();
    if t <= 1.0 {
        (1.5 * t - 2.5) * t * t + 1.0
    } else if t < 2.0 {
        ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ramp(height: usize, width: usize, channels: usize) -> Image {
        let pixels = (0..height * width * channels).map(|k| (k * 37 % 101) as f32 / 100.0).collect();
        Image::new(height, width, channels, pixels).unwrap()
    }

    #[test]
    fn a_crop_of_the_same_size_copies_pixels() {
        for channels in [1, 3] {
            let image = ramp(9, 7, channels);
            let whole = Crop { top: 0, left: 0, height: 9, width: 7 };
            assert_eq!(resize_crop(&image, whole, 9, 7).unwrap(), image);
            let part = resize_crop(&image, Crop { top: 2, left: 3, height: 4, width: 4 }, 4, 4).unwrap();
            assert_eq!(part.pixels[..4 * channels], image.pixels[(2 * 7 + 3) * channels..][..4 * channels]);
        }
    }

    #[test]
    fn crops_outside_the_image_are_refused() {
        let image = ramp(9, 7, 3);
        for crop in [
            Crop { top: 0, left: 0, height: 10, width: 7 },
            Crop { top: 0, left: 5, height: 3, width: 3 },
            Crop { top: 0, left: 0, height: 0, width: 3 },
            Crop { top: usize::MAX, left: 0, height: 2, width: 2 },
        ] {
            assert!(resize_crop(&image, crop, 4, 4).is_err(), "{crop:?}");
        }
        assert!(resize_crop(&image, Crop { top: 0, left: 0, height: 9, width: 7 }, 0, 4).is_err());
    }

    #[test]
    fn enlarging_a_line_keeps_it_straight_away_from_the_borders() {
        // Keys' kernel reproduces polynomials up to degree 2, so a linear ramp must come back exactly linear.
        let pixels = (0..16).map(|x| 0.05 + 0.05 * x as f32).collect();
        let image = Image::new(1, 16, 1, pixels).unwrap();
        let wide = resize_crop(&image, Crop { top: 0, left: 0, height: 1, width: 16 }, 1, 40).unwrap();
        for (x, &value) in wide.pixels.iter().enumerate().skip(5).take(30) {
            let source = (x as f32 + 0.5) * 0.4 - 0.5;
            assert!((value - (0.05 + 0.05 * source)).abs() < 1e-5, "at {x}: {value}");
        }
    }

    #[test]
    fn shrinking_counts_every_pixel() {
        // A checkerboard of single pixels must become grey; without antialiasing it aliases to black or white.
        let pixels = (0..64 * 64).map(|k| ((k / 64 + k % 64) % 2) as f32).collect();
        let image = Image::new(64, 64, 1, pixels).unwrap();
        let small = resize_crop(&image, Crop { top: 0, left: 0, height: 64, width: 64 }, 8, 8).unwrap();
        assert!(small.pixels.iter().all(|value| (value - 0.5).abs() < 0.02), "{:?}", &small.pixels[..8]);
    }

    proptest! {
        #[test]
        fn a_constant_stays_constant(from in 1usize..40, to in 1usize..40, grey in 0.0f32..1.0) {
            let image = Image::new(from, from, 3, vec![grey; from * from * 3]).unwrap();
            let out = resize_crop(&image, Crop { top: 0, left: 0, height: from, width: from }, to, to).unwrap();
            prop_assert!(out.pixels.iter().all(|value| (value - grey).abs() < 1e-5));
        }
    }
}
