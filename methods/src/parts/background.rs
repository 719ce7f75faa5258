//! Removal of backgrounds (Tomasev et al. 2022, arXiv:2201.05119), by a cue made by hand.

use std::sync::Arc;

use selfsame_data::{Augment, Image};
use selfsame_engine::Result;
use selfsame_kernels::philox::Stream;

/// Which pixels of an image are its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreground {
    /// All.
    Everything,
    /// None.
    Nothing,
    /// Those whose colour differs from the mean colour of the image's border by more than pixels do on average: in place
    /// of the paper's saliency network, which is trained on cues like this one (a reconstruction).
    UnlikeBorder,
}

impl Foreground {
    /// Whether each pixel belongs to the object.
    fn mask(self, image: &Image) -> Vec<bool> {
        let Image { height, width, channels, ref pixels } = *image;
        let pixel = |at: usize| &pixels[at * channels..(at + 1) * channels];
        match self {
            Foreground::Everything => vec![true; height * width],
            Foreground::Nothing => vec![false; height * width],
            Foreground::UnlikeBorder => {
                let on_border = |at: &usize| {
                    let (row, column) = (at / width, at % width);
                    row == 0 || column == 0 || row + 1 == height || column + 1 == width
                };
                let border: Vec<usize> = (0..height * width).filter(on_border).collect();
                let mean = |k: usize| border.iter().map(|at| pixel(*at)[k]).sum::<f32>() / border.len() as f32;
                let colour: Vec<f32> = (0..channels).map(mean).collect();
                let difference = |at: usize| pixel(at).iter().zip(&colour).map(|(a, b)| (a - b).abs()).sum::<f32>();
                let differences: Vec<f32> = (0..height * width).map(difference).collect();
                let average = differences.iter().sum::<f32>() / differences.len() as f32;
                differences.into_iter().map(|difference| difference > average).collect()
            }
        }
    }
}

/// Another augmentation, in front of which an image loses its background with probability `p`: outside the object it
/// becomes one level of grey, drawn for each image.
pub struct WithoutBackground {
    /// The probability.
    pub p: f32,
    /// What stays.
    pub foreground: Foreground,
    /// What comes after.
    pub then: Arc<dyn Augment>,
}

impl Augment for WithoutBackground {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        // Both are drawn whatever happens, so that what comes after draws the same.
        let (removes, grey) = (rng.bernoulli(self.p), rng.uniform_f32());
        if removes {
            let mask = self.foreground.mask(image);
            for (pixel, stays) in image.pixels.chunks_mut(image.channels).zip(mask) {
                if !stays {
                    pixel.fill(grey);
                }
            }
        }
        self.then.apply(image, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_data::augment::SimclrAugment;
    use selfsame_kernels::philox::{Key, Purpose};

    /// A red square on a green ground that gets lighter downwards.
    fn image() -> Image {
        let mut pixels = Vec::new();
        for row in 0..12 {
            for column in 0..12 {
                let inside = (4..8).contains(&row) && (5..9).contains(&column);
                pixels.extend(if inside { [0.9, 0.1, 0.1] } else { [0.1, 0.5 + 0.01 * row as f32, 0.2] });
            }
        }
        Image { height: 12, width: 12, channels: 3, pixels }
    }

    fn seen(p: f32, foreground: Foreground, then: Arc<dyn Augment>) -> Vec<f32> {
        let mut image = image();
        let mut rng = Key::new(1, Purpose::Augment).stream(0, 5, 0);
        WithoutBackground { p, foreground, then }.apply(&mut image, &mut rng).unwrap();
        image.pixels
    }

    struct Nothing;

    impl Augment for Nothing {
        fn apply(&self, _: &mut Image, _: &mut Stream) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_image_that_is_all_object_is_left_alone_to_the_bit() {
        let then = || Arc::new(SimclrAugment::cifar(8));
        assert_eq!(seen(1.0, Foreground::Everything, then()), seen(0.0, Foreground::Everything, then()));
        assert_eq!(seen(0.0, Foreground::UnlikeBorder, Arc::new(Nothing)), image().pixels);
    }

    #[test]
    fn an_image_without_object_is_one_grey() {
        let pixels = seen(1.0, Foreground::Nothing, Arc::new(Nothing));
        assert!(pixels.iter().all(|x| *x == pixels[0]) && (0.0..1.0).contains(&pixels[0]));
    }

    #[test]
    fn what_differs_from_the_border_stays() {
        let (pixels, whole) = (seen(1.0, Foreground::UnlikeBorder, Arc::new(Nothing)), image().pixels);
        let kept: Vec<bool> = pixels.chunks(3).zip(whole.chunks(3)).map(|(a, b)| a == b).collect();
        for (at, kept) in kept.into_iter().enumerate() {
            assert_eq!(kept, (4..8).contains(&(at / 12)) && (5..9).contains(&(at % 12)), "pixel {at}");
        }
    }
}
