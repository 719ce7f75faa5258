//! Random resized crop: a rectangle of random area and aspect ratio, resampled to a square.
//!
//! Up to 100 times: area = U(low, high) of the image's, aspect ratio r = U(3/4, 4/3), width = round(sqrt(area r)),
//! height = round(sqrt(area / r)); the first that fits is placed uniformly. If none fits, the largest centred rectangle
//! whose ratio is within the bounds. Bicubic resampling (see `resize`). The ratio is uniform, as in
//! `tf.image.sample_distorted_bounding_box`, which SimCLR uses, not log-uniform as in torchvision.

use super::Augment;
use super::resize::resize_crop;
use crate::image::Image;
use crate::random::Draw;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// How often a rectangle is drawn before falling back to the centre.
const TRIES: usize = 100;

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Crop {
    /// The centred rectangle of that size, cut down to the image's.
    pub fn centre(height: usize, width: usize, image_height: usize, image_width: usize) -> Crop {
        let (height, width) = (height.min(image_height), width.min(image_width));
        Crop { top: (image_height - height) / 2, left: (image_width - width) / 2, height, width }
    }
}

/// A random rectangle, resampled to `size` x `size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomResizedCrop {
    /// Side of the result in pixels.
    pub size: usize,
    /// Smallest and largest fraction of the image's area.
    pub area: (f32, f32),
    /// Smallest and largest width over height.
    pub ratio: (f32, f32),
}

impl RandomResizedCrop {
    /// SimCLR's: area 8 % to 100 %, ratio 3/4 to 4/3.
    pub fn new(size: usize) -> RandomResizedCrop {
        RandomResizedCrop { size, area: (0.08, 1.0), ratio: (3.0 / 4.0, 4.0 / 3.0) }
    }

    /// Draws a rectangle inside an image of that size.
    pub fn draw(&self, image_height: usize, image_width: usize, rng: &mut Stream) -> Crop {
        let whole = (image_height * image_width) as f32;
        for _ in 0..TRIES {
            let area = whole * rng.between(self.area.0, self.area.1);
            let ratio = rng.between(self.ratio.0, self.ratio.1);
            let width = (area * ratio).sqrt().round() as usize;
            let height = (area / ratio).sqrt().round() as usize;
            if (1..=image_width).contains(&width) && (1..=image_height).contains(&height) {
                let top = rng.range((image_height - height) as u64 + 1) as usize;
                let left = rng.range((image_width - width) as u64 + 1) as usize;
                return Crop { top, left, height, width };
            }
        }
        let ratio = (image_width as f32 / image_height as f32).max(self.ratio.0).min(self.ratio.1);
        let width = ((image_height as f32 * ratio).round() as usize).clamp(1, image_width);
        let height = ((image_width as f32 / ratio).round() as usize).clamp(1, image_height);
        Crop::centre(height, width, image_height, image_width)
    }
}

impl Augment for RandomResizedCrop {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        let crop = self.draw(image.height, image.width, rng);
        *image = resize_crop(image, crop, self.size, self.size)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_kernels::philox::{Key, Purpose};

    #[test]
    fn areas_and_ratios_are_spread_over_their_ranges() {
        let crop = RandomResizedCrop::new(32);
        let (mut areas, mut ratios) = (Vec::new(), Vec::new());
        for sample in 0..2000 {
            let mut rng = Key::new(1, Purpose::Check).stream(0, sample, 0);
            let Crop { top, left, height, width } = crop.draw(200, 200, &mut rng);
            assert!(top + height <= 200 && left + width <= 200);
            areas.push((height * width) as f32 / 40_000.0);
            ratios.push(width as f32 / height as f32);
        }
        assert!(areas.iter().all(|area| (0.075..=1.0).contains(area)));
        assert!(ratios.iter().all(|ratio| (0.73..=1.36).contains(ratio)));
        // Uniform on (0.08, 1), but large areas of slanted ratio do not fit and are drawn again.
        let mean = areas.iter().sum::<f32>() / 2000.0;
        assert!((0.43..0.55).contains(&mean), "mean area {mean}");
        assert!(areas.iter().any(|&area| area < 0.12) && areas.iter().any(|&area| area > 0.9));
    }

    #[test]
    fn a_crop_of_the_whole_image_is_the_identity() {
        let pixels = (0..16 * 16 * 3).map(|k| (k % 97) as f32 / 96.0).collect();
        let mut image = Image::new(16, 16, 3, pixels).unwrap();
        let before = image.clone();
        let crop = RandomResizedCrop { size: 16, area: (1.0, 1.0), ratio: (1.0, 1.0) };
        crop.apply(&mut image, &mut Key::new(1, Purpose::Check).stream(0, 0, 0)).unwrap();
        assert_eq!(image, before);
    }

    #[test]
    fn extreme_shapes_fall_back_to_the_centre() {
        let mut rng = Key::new(1, Purpose::Check).stream(0, 0, 0);
        let crop = RandomResizedCrop { area: (0.9, 1.0), ..RandomResizedCrop::new(8) };
        assert_eq!(crop.draw(10, 400, &mut rng), Crop { top: 0, left: 193, height: 10, width: 13 });
        assert_eq!(crop.draw(400, 10, &mut rng), Crop { top: 193, left: 0, height: 13, width: 10 });
        assert_eq!(crop.draw(1, 1, &mut rng), Crop { top: 0, left: 0, height: 1, width: 1 });
    }
}
