//! Solarisation: values at or above a threshold are inverted, x -> 1 - x for x >= threshold (BYOL, DINO: 0.5).

use super::Augment;
use crate::image::Image;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// Inverts every value at or above `threshold`.
pub fn solarize(image: &mut Image, threshold: f32) {
    for value in &mut image.pixels {
        if *value >= threshold {
            *value = 1.0 - *value;
        }
    }
}

/// Solarises with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomSolarize {
    /// Probability.
    pub p: f32,
    /// Values from here up are inverted.
    pub threshold: f32,
}

impl Augment for RandomSolarize {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        if rng.bernoulli(self.p) {
            solarize(image, self.threshold);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_the_threshold_up_are_inverted() {
        let mut image = Image::new(1, 4, 1, vec![0.0, 0.25, 0.5, 1.0]).unwrap();
        solarize(&mut image, 0.5);
        assert_eq!(image.pixels, [0.0, 0.25, 0.5, 0.0]);
    }
}
