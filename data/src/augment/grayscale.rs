//! Grayscale: all channels become the luma 0.2989 r + 0.587 g + 0.114 b (Rec. 601, TensorFlow's constants).

use super::Augment;
use crate::image::Image;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// Replaces the three channels by their luma. A grey image stays as it is.
pub fn to_grayscale(image: &mut Image) {
    if image.channels == 3 {
        for pixel in image.pixels.chunks_exact_mut(3) {
            pixel.fill(0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]);
        }
    }
}

/// Removes colour with probability `p`; the image keeps three channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomGrayscale {
    /// Probability.
    pub p: f32,
}

impl Augment for RandomGrayscale {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        if rng.bernoulli(self.p) {
            to_grayscale(image);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_become_equal_and_grey_stays() {
        let mut image = Image::new(1, 2, 3, vec![1.0, 0.0, 0.0, 0.5, 0.5, 0.5]).unwrap();
        to_grayscale(&mut image);
        assert_eq!(image.pixels[..3], [0.2989; 3]);
        assert!(image.pixels[3..].iter().all(|x| (x - 0.5).abs() < 1e-4));
    }
}
