//! Horizontal flip: pixel (y, x) becomes pixel (y, width - 1 - x).

use super::Augment;
use crate::image::Image;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// Mirrors the image left to right.
pub fn flip_horizontally(image: &mut Image) {
    let channels = image.channels;
    for row in image.pixels.chunks_exact_mut(image.width * channels) {
        row.reverse();
        if channels > 1 {
            row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
        }
    }
}

/// Mirrors with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HorizontalFlip {
    /// Probability of a flip.
    pub p: f32,
}

impl Augment for HorizontalFlip {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        if rng.bernoulli(self.p) {
            flip_horizontally(image);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_kernels::philox::{Key, Purpose};

    #[test]
    fn flipping_moves_whole_pixels_and_flipping_twice_moves_them_back() {
        for channels in [1, 3] {
            let pixels = (0..4 * 5 * channels).map(|k| k as f32 / 100.0).collect();
            let image = Image::new(4, 5, channels, pixels).unwrap();
            let mut flipped = image.clone();
            flip_horizontally(&mut flipped);
            for y in 0..4 {
                for x in 0..5 {
                    let (here, there) = ((y * 5 + x) * channels, (y * 5 + 4 - x) * channels);
                    assert_eq!(flipped.pixels[here..here + channels], image.pixels[there..there + channels]);
                }
            }
            flip_horizontally(&mut flipped);
            assert_eq!(flipped, image);
        }
    }

    #[test]
    fn half_of_the_images_are_flipped() {
        let flipped = (0..2000)
            .filter(|&sample| {
                let mut image = Image::new(1, 2, 1, vec![0.0, 1.0]).unwrap();
                let mut rng = Key::new(3, Purpose::Check).stream(0, sample, 0);
                HorizontalFlip { p: 0.5 }.apply(&mut image, &mut rng).unwrap();
                image.pixels[0] == 1.0
            })
            .count();
        // Five standard deviations of a binomial of 2000 at 1/2.
        assert!((1000 - 112..=1000 + 112).contains(&flipped), "{flipped}");
    }
}
