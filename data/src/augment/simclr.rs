//! The chains of SimCLR (Chen, Kornblith, Norouzi, Hinton 2020) and of its evaluation.

use super::Augment;
use super::blur::GaussianBlur;
use super::color_jitter::{Brightness, ColorJitter};
use super::crop::{Crop, RandomResizedCrop};
use super::flip::HorizontalFlip;
use super::grayscale::RandomGrayscale;
use super::resize::resize_crop;
use super::solarize::RandomSolarize;
use crate::image::Image;
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// The training augmentation, in the paper's order: random resized crop, flip, colour jitter, grayscale, blur; then
/// solarisation, which BYOL (Grill et al. 2020) appended.
///
/// The fields are open: an ablation sets `jitter_p` to 0 or `crop.area` to (1, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimclrAugment {
    /// Random resized crop; gives the views their size.
    pub crop: RandomResizedCrop,
    /// Horizontal flip.
    pub flip: HorizontalFlip,
    /// Probability of the colour jitter.
    pub jitter_p: f32,
    /// Colour jitter.
    pub jitter: ColorJitter,
    /// Removal of colour.
    pub grayscale: RandomGrayscale,
    /// Gaussian blur; `None` on CIFAR.
    pub blur: Option<GaussianBlur>,
    /// Solarisation; `None` in SimCLR.
    pub solarize: Option<RandomSolarize>,
}

impl SimclrAugment {
    /// Views of `size` pixels with jitter `strength` and brightness `variant`, with or without blur.
    pub fn new(size: usize, strength: f32, blur: bool, variant: Brightness) -> SimclrAugment {
        SimclrAugment {
            crop: RandomResizedCrop::new(size),
            flip: HorizontalFlip { p: 0.5 },
            jitter_p: 0.8,
            jitter: ColorJitter::simclr(strength, variant),
            grayscale: RandomGrayscale { p: 0.2 },
            blur: blur.then_some(GaussianBlur { p: 0.5, sigma: (0.1, 2.0) }),
            solarize: None,
        }
    }

    /// The form for CIFAR: strength 0.5, no blur, additive brightness.
    pub fn cifar(size: usize) -> SimclrAugment {
        SimclrAugment::new(size, 0.5, false, Brightness::Additive)
    }

    /// The form for ImageNet: strength 1, blur, additive brightness.
    pub fn imagenet(size: usize) -> SimclrAugment {
        SimclrAugment::new(size, 1.0, true, Brightness::Additive)
    }
}

impl Augment for SimclrAugment {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        self.crop.apply(image, rng)?;
        self.flip.apply(image, rng)?;
        if rng.bernoulli(self.jitter_p) {
            self.jitter.apply(image, rng)?;
        }
        self.grayscale.apply(image, rng)?;
        if let Some(blur) = &self.blur {
            blur.apply(image, rng)?;
        }
        if let Some(solarize) = &self.solarize {
            solarize.apply(image, rng)?;
        }
        image.clip();
        Ok(())
    }
}

/// The augmentation of linear evaluation: random resized crop and flip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropFlip {
    /// Random resized crop; gives the views their size.
    pub crop: RandomResizedCrop,
    /// Horizontal flip.
    pub flip: HorizontalFlip,
}

impl CropFlip {
    /// Views of `size` pixels, area 8 % to 100 %, flipped half of the time.
    pub fn new(size: usize) -> CropFlip {
        CropFlip { crop: RandomResizedCrop::new(size), flip: HorizontalFlip { p: 0.5 } }
    }
}

impl Augment for CropFlip {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        self.crop.apply(image, rng)?;
        self.flip.apply(image, rng)
    }
}

/// The transform of evaluation, without randomness: the shorter side resized to `resize`, then the central square of
/// `size` pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalTransform {
    /// Shorter side after resizing, at least `size`.
    pub resize: usize,
    /// Side of the result in pixels.
    pub size: usize,
}

impl EvalTransform {
    /// The central square of the image, resized to `size`: for CIFAR and other small images.
    pub fn new(size: usize) -> EvalTransform {
        EvalTransform { resize: size, size }
    }

    /// ImageNet's custom: the central `size` of a shorter side of `size * 8 / 7` (256 for 224).
    pub fn imagenet(size: usize) -> EvalTransform {
        EvalTransform { resize: size * 8 / 7, size }
    }
}

impl Augment for EvalTransform {
    fn apply(&self, image: &mut Image, _: &mut Stream) -> Result<()> {
        // Resizing first and cropping then is the same as resampling the corresponding part of the source.
        let shorter = image.height.min(image.width);
        let part = (shorter * self.size).div_ceil(self.resize.max(self.size)).max(1);
        let centre = Crop::centre(part, part, image.height, image.width);
        *image = resize_crop(image, centre, self.size, self.size)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_kernels::philox::{Key, Purpose};

    fn photo(height: usize, width: usize) -> Image {
        let pixels = (0..height * width * 3).map(|k| (k * 31 % 256) as f32 / 255.0).collect();
        Image::new(height, width, 3, pixels).unwrap()
    }

    fn stream(sample: u64) -> Stream {
        Key::new(5, Purpose::Check).stream(0, sample, 0)
    }

    #[test]
    fn views_have_their_size_stay_in_range_and_differ() {
        for chain in [SimclrAugment::cifar(24), SimclrAugment::imagenet(24)] {
            let views: Vec<Image> = (0..20)
                .map(|sample| {
                    let mut view = photo(40, 50);
                    chain.apply(&mut view, &mut stream(sample)).unwrap();
                    view
                })
                .collect();
            for view in &views {
                assert_eq!((view.height, view.width, view.channels), (24, 24, 3));
                assert!(view.pixels.iter().all(|x| (0.0..=1.0).contains(x)));
            }
            // Strong additive brightness may turn a view all black or all white; others are alike by no chance.
            let has_contrast = |view: &&Image| view.pixels.iter().any(|x| *x != view.pixels[0]);
            let views: Vec<&Image> = views.iter().filter(has_contrast).collect();
            assert!(views.len() > 10);
            for (k, view) in views.iter().enumerate() {
                assert!(views[..k].iter().all(|other| other != view));
            }
        }
    }

    #[test]
    fn a_fifth_of_the_views_is_grey() {
        let chain = SimclrAugment::cifar(8);
        let is_grey = |sample| {
            let mut view = photo(16, 16);
            chain.apply(&mut view, &mut stream(sample)).unwrap();
            view.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2])
        };
        let grey = (0..1000).filter(|&sample| is_grey(sample)).count();
        // Five standard deviations of a binomial of 1000 at 1/5.
        assert!((200 - 63..=200 + 63).contains(&grey), "{grey}");
    }

    #[test]
    fn evaluation_takes_the_central_square() {
        let mut same = photo(16, 16);
        EvalTransform::new(16).apply(&mut same, &mut stream(0)).unwrap();
        assert_eq!(same, photo(16, 16));
        let mut wide = photo(16, 40);
        EvalTransform::new(16).apply(&mut wide, &mut stream(0)).unwrap();
        assert_eq!(wide.pixels[..16 * 3], photo(16, 40).pixels[12 * 3..28 * 3]);
        let mut large = photo(256, 300);
        EvalTransform::imagenet(224).apply(&mut large, &mut stream(0)).unwrap();
        assert_eq!(large.pixels[..224 * 3], photo(256, 300).pixels[(16 * 300 + 38) * 3..][..224 * 3]);
    }
}
