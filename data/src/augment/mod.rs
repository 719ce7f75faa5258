//! Augmentations: what turns an image into a view. One file per transform, each with its formula.
//!
//! Transforms work on [`Image`]s of one or three channels; those that concern colour alone leave grey images as they
//! are. Random numbers come from the stream that is handed in, which the loader keys by (seed, epoch, index, view).
//! Products and sums are written plainly, without fused multiply-adds, so that every build gives the same bits.

mod blur;
mod color_jitter;
mod crop;
mod flip;
mod grayscale;
mod resize;
mod simclr;
mod solarize;

pub use blur::{GaussianBlur, blur};
pub use color_jitter::{
    Brightness, ColorJitter, adjust_contrast, adjust_hue, adjust_saturation, hsv_to_rgb, rgb_to_hsv,
};
pub use crop::{Crop, RandomResizedCrop};
pub use flip::{HorizontalFlip, flip_horizontally};
pub use grayscale::{RandomGrayscale, to_grayscale};
pub use resize::resize_crop;
pub use simclr::{CropFlip, EvalTransform, SimclrAugment};
pub use solarize::{RandomSolarize, solarize};

use crate::image::Image;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// A transform of one image, random or not.
pub trait Augment: Send + Sync {
    /// Changes `image` in place. What it draws from `rng` may depend on the image's shape, never on anything else
    /// outside. An error when the image does not fit the transform.
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()>;
}

/// Transforms one after the other.
#[derive(Default)]
pub struct Compose(
    /// The transforms, first to last.
    pub Vec<Box<dyn Augment>>,
);

impl Augment for Compose {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        self.0.iter().try_for_each(|transform| transform.apply(image, rng))
    }
}
