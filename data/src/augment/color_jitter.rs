//! Colour jitter: brightness, contrast, saturation and hue, in random order, clipped to [0, 1] after each.
//!
//! With strengths b, c, s, h:
//! - brightness, additive (SimCLR v1): x + U(-b, b), one number for all channels;
//!   multiplicative (the later variant): x U(max(0, 1 - b), 1 + b)
//! - contrast: (x - m) U(max(0, 1 - c), 1 + c) + m, with m the mean of the channel over the image
//! - saturation: S U(max(0, 1 - s), 1 + s) in HSV, clipped to [0, 1]
//! - hue: H + U(-h, h) modulo 1 in HSV
//!
//! Grey images take brightness and contrast alone, but draw the same numbers.

use super::Augment;
use crate::image::{Image, clip};
use crate::random::Draw;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// Which definition of brightness jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Brightness {
    /// Adds one number to all channels (SimCLR v1).
    #[default]
    Additive,
    /// Multiplies all channels by one number (SimCLR v2 and later libraries).
    Multiplicative,
}

/// The four colour adjustments in random order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    /// Strength b of brightness.
    pub brightness: f32,
    /// Strength c of contrast.
    pub contrast: f32,
    /// Strength s of saturation.
    pub saturation: f32,
    /// Strength h of hue, in turns.
    pub hue: f32,
    /// Which definition of brightness.
    pub variant: Brightness,
}

impl ColorJitter {
    /// SimCLR's at strength `s`: 0.8 s each, hue 0.2 s.
    pub fn simclr(s: f32, variant: Brightness) -> ColorJitter {
        ColorJitter { brightness: 0.8 * s, contrast: 0.8 * s, saturation: 0.8 * s, hue: 0.2 * s, variant }
    }
}

impl Augment for ColorJitter {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        let mut order = [0, 1, 2, 3];
        rng.shuffle(&mut order);
        let mut factor = |strength: f32| rng.between((1.0 - strength).max(0.0), 1.0 + strength);
        let (contrast, saturation, gain) = (factor(self.contrast), factor(self.saturation), factor(self.brightness));
        let offset = rng.between(-self.brightness, self.brightness);
        let turn = rng.between(-self.hue, self.hue);
        for adjustment in order {
            match adjustment {
                0 => match self.variant {
                    Brightness::Additive => image.pixels.iter_mut().for_each(|x| *x = clip(*x + offset)),
                    Brightness::Multiplicative => image.pixels.iter_mut().for_each(|x| *x = clip(*x * gain)),
                },
                1 => adjust_contrast(image, contrast),
                2 => adjust_saturation(image, saturation),
                _ => adjust_hue(image, turn),
            }
        }
        Ok(())
    }
}

/// (x - mean) factor + mean with each channel's mean, clipped to [0, 1].
pub fn adjust_contrast(image: &mut Image, factor: f32) {
    match image.channels {
        3 => contrast::<3>(image, factor),
        _ => contrast::<1>(image, factor),
    }
}

fn contrast<const CHANNELS: usize>(image: &mut Image, factor: f32) {
    let mut sum = [0.0f32; CHANNELS];
    // Row by row, so that the error of a large image's sum stays small.
    for row in image.pixels.chunks_exact(image.width * CHANNELS) {
        let mut row_sum = [0.0f32; CHANNELS];
        for pixel in row.chunks_exact(CHANNELS) {
            row_sum.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += x);
        }
        sum.iter_mut().zip(row_sum).for_each(|(sum, row)| *sum += row);
    }
    let mean = sum.map(|sum| sum / (image.height * image.width) as f32);
    for pixel in image.pixels.chunks_exact_mut(CHANNELS) {
        pixel.iter_mut().zip(mean).for_each(|(x, mean)| *x = clip((*x - mean) * factor + mean));
    }
}

/// Multiplies S of HSV by `factor`, clipped to [0, 1]; H and V stay.
///
/// With V = max and C = max - min, S = C / V and every channel is V - (V - x); scaling S scales V - x, at most until
/// C = V. So no conversion is needed.
pub fn adjust_saturation(image: &mut Image, factor: f32) {
    if image.channels != 3 {
        return;
    }
    for pixel in image.pixels.chunks_exact_mut(3) {
        let value = pixel[0].max(pixel[1]).max(pixel[2]);
        let chroma = value - pixel[0].min(pixel[1]).min(pixel[2]);
        let most = if chroma > 0.0 { value / chroma } else { 1.0 };
        let factor = factor.min(most);
        pixel.iter_mut().for_each(|x| *x = clip(value - (value - *x) * factor));
    }
}

/// Adds `turn` to H of HSV, modulo 1; S and V stay.
pub fn adjust_hue(image: &mut Image, turn: f32) {
    if image.channels != 3 {
        return;
    }
    for pixel in image.pixels.chunks_exact_mut(3) {
        let [h, s, v] = rgb_to_hsv([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&hsv_to_rgb([h + turn, s, v]));
    }
}

/// Hue in turns [0, 1], saturation and value in [0, 1] of a colour in [0, 1].
#[inline(always)]
pub fn rgb_to_hsv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    let over = if chroma > 0.0 { 1.0 / chroma } else { 0.0 };
    let sixths = if value == r {
        let h = (g - b) * over;
        if h < 0.0 { h + 6.0 } else { h }
    } else if value == g {
        (b - r) * over + 2.0
    } else {
        (r - g) * over + 4.0
    };
    let saturation = if value > 0.0 { chroma / value } else { 0.0 };
    [sixths * (1.0 / 6.0), saturation, value]
}

/// The colour of a hue in turns (within -1 and 2; taken modulo 1), saturation and value in [0, 1].
///
/// Channel n is v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6, for n = 5 (red), 3 (green), 1 (blue).
#[inline(always)]
pub fn hsv_to_rgb([hue, saturation, value]: [f32; 3]) -> [f32; 3] {
    let hue = if hue < 0.0 { hue + 1.0 } else { hue };
    let hue = if hue >= 1.0 { hue - 1.0 } else { hue };
    let chroma = value * saturation;
    [5.0, 3.0, 1.0].map(|n| {
        let k = n + 6.0 * hue;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        value - chroma * clip(k.min(4.0 - k))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use selfsame_kernels::philox::{Key, Purpose};

    fn palette() -> Image {
        let pixels = (0..8 * 8 * 3).map(|k| (k * 53 % 97) as f32 / 96.0).collect();
        Image::new(8, 8, 3, pixels).unwrap()
    }

    fn largest_difference(a: &Image, b: &Image) -> f32 {
        a.pixels.iter().zip(&b.pixels).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
    }

    #[test]
    fn strength_zero_changes_nothing() {
        for variant in [Brightness::Additive, Brightness::Multiplicative] {
            let mut image = palette();
            let mut rng = Key::new(1, Purpose::Check).stream(0, 0, 0);
            ColorJitter::simclr(0.0, variant).apply(&mut image, &mut rng).unwrap();
            assert!(largest_difference(&image, &palette()) < 1e-6);
        }
    }

    #[test]
    fn known_colours_have_their_known_hue() {
        let cases = [
            ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0]),
            ([0.5, 0.5, 0.0], [1.0 / 6.0, 1.0, 0.5]),
            ([0.0, 1.0, 0.0], [1.0 / 3.0, 1.0, 1.0]),
            ([0.25, 0.5, 0.5], [0.5, 0.5, 0.5]),
            ([0.0, 0.0, 1.0], [2.0 / 3.0, 1.0, 1.0]),
            ([0.4, 0.4, 0.4], [0.0, 0.0, 0.4]),
            ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ];
        for (rgb, hsv) in cases {
            let found = rgb_to_hsv(rgb);
            assert!(found.iter().zip(hsv).all(|(a, b)| (a - b).abs() < 1e-6), "{rgb:?}: {found:?}");
        }
    }

    #[test]
    fn contrast_zero_leaves_the_channel_means_and_contrast_one_the_image() {
        let mut image = palette();
        adjust_contrast(&mut image, 1.0);
        assert!(largest_difference(&image, &palette()) < 1e-6);
        adjust_contrast(&mut image, 0.0);
        for channel in 0..3 {
            let mean = palette().pixels.iter().skip(channel).step_by(3).sum::<f32>() / 64.0;
            assert!(image.pixels.iter().skip(channel).step_by(3).all(|x| (x - mean).abs() < 1e-5));
        }
    }

    #[test]
    fn a_third_of_a_turn_rotates_the_primaries() {
        let mut image = Image::new(1, 1, 3, vec![0.9, 0.2, 0.1]).unwrap();
        adjust_hue(&mut image, 1.0 / 3.0);
        let expected = [0.1, 0.9, 0.2];
        assert!(image.pixels.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", image.pixels);
    }

    #[test]
    fn grey_images_keep_one_channel() {
        let mut image = Image::new(2, 2, 1, vec![0.1, 0.4, 0.6, 0.9]).unwrap();
        let mut rng = Key::new(1, Purpose::Check).stream(0, 0, 0);
        ColorJitter::simclr(1.0, Brightness::Additive).apply(&mut image, &mut rng).unwrap();
        assert_eq!(image.pixels.len(), 4);
    }

    proptest! {
        #[test]
        fn hsv_goes_there_and_back(r in 0.0f32..=1.0, g in 0.0f32..=1.0, b in 0.0f32..=1.0) {
            let back = hsv_to_rgb(rgb_to_hsv([r, g, b]));
            for (a, b) in back.iter().zip([r, g, b]) {
                prop_assert!((a - b).abs() < 2e-6, "{back:?}");
            }
        }

        #[test]
        fn saturation_is_what_hsv_says(r in 0.0f32..=1.0, g in 0.0f32..=1.0, b in 0.0f32..=1.0, factor in 0.0f32..2.0) {
            let mut image = Image::new(1, 1, 3, vec![r, g, b]).unwrap();
            adjust_saturation(&mut image, factor);
            let [h, s, v] = rgb_to_hsv([r, g, b]);
            let expected = hsv_to_rgb([h, (s * factor).min(1.0), v]);
            for (a, b) in image.pixels.iter().zip(expected) {
                prop_assert!((a - b).abs() < 4e-6, "{:?} not {expected:?}", image.pixels);
            }
        }

        #[test]
        fn every_jitter_stays_in_range(sample: u64, s in 0.0f32..2.0) {
            for variant in [Brightness::Additive, Brightness::Multiplicative] {
                let mut image = palette();
                let mut rng = Key::new(1, Purpose::Check).stream(0, sample, 0);
                ColorJitter::simclr(s, variant).apply(&mut image, &mut rng).unwrap();
                prop_assert!(image.pixels.iter().all(|x| (0.0..=1.0).contains(x)));
            }
        }
    }
}
