//! The augmentations of a method's views.

use std::sync::Arc;

use selfsame_data::Augment;
use selfsame_data::augment::{Brightness, ColorJitter, GaussianBlur, RandomSolarize, SimclrAugment};
use selfsame_engine::Result;

use crate::config::Config;
use crate::method::Augmentations;

/// Threshold of solarisation: the middle of the range of pixels (BYOL, DINO).
const SOLARIZE_FROM: f32 = 0.5;

/// One view: DeepCluster, self-labelling.
///
/// # Errors
/// `Config` for values out of range.
pub fn one_view(config: &Config) -> Result<Augmentations> {
    Ok(vec![Arc::new(chain(config)?)])
}

/// Two views alike: SimCLR, MoCo, Barlow Twins' symmetric form.
///
/// # Errors
/// `Config` for values out of range.
pub fn two_views(config: &Config) -> Result<Augmentations> {
    Ok(vec![Arc::new(chain(config)?), Arc::new(chain(config)?)])
}

/// Two views of which the second is blurred and solarised with the probabilities `blur2` and `solarize2`: BYOL, whose
/// first view has `blur` 1 and whose second 0.1.
///
/// # Errors
/// `Config` for values out of range, or a method that does not declare the two keys.
pub fn asymmetric_views(config: &Config) -> Result<Augmentations> {
    let mut second = chain(config)?;
    second.blur = blur(config, "blur2")?;
    second.solarize = solarize(config, "solarize2")?;
    Ok(vec![Arc::new(chain(config)?), Arc::new(second)])
}

/// `large_crops` views like any, then `small_crops` of `small_size` pixels whose area is a share of `small_crop_min` to
/// `small_crop_max`: multi-crop (Caron et al. 2020, arXiv:2006.09882). `crop_min` is the large ones'.
///
/// # Errors
/// `Config` for values out of range, or a method that does not declare these keys.
pub fn multi_crop(config: &Config) -> Result<Augmentations> {
    let small = small_chain(config)?;
    let mut views: Augmentations = Vec::new();
    for _ in 0..config.at_least("large_crops", 1)? {
        views.push(Arc::new(chain(config)?));
    }
    views.extend((0..config.usize("small_crops")?).map(|_| Arc::new(small) as Arc<dyn Augment>));
    Ok(views)
}

/// [`multi_crop`] in which every other large crop is blurred and solarised as in [`asymmetric_views`], and small ones are
/// blurred with probability `small_blur` and never solarised: DINO, MIRA.
///
/// # Errors
/// `Config` for values out of range, or a method that does not declare these keys.
pub fn asymmetric_multi_crop(config: &Config) -> Result<Augmentations> {
    let pair = asymmetric_views(config)?;
    let large = (0..config.at_least("large_crops", 1)?).map(|crop| Arc::clone(&pair[crop % 2]));
    let small = SimclrAugment { blur: blur(config, "small_blur")?, solarize: None, ..small_chain(config)? };
    let small = (0..config.usize("small_crops")?).map(|_| Arc::new(small) as Arc<dyn Augment>);
    Ok(large.chain(small).collect())
}

/// The chain of small crops.
fn small_chain(config: &Config) -> Result<SimclrAugment> {
    let mut small = chain(config)?;
    small.crop.size = config.at_least("small_size", 8)?;
    small.crop.area = (config.fraction("small_crop_min")? as f32, config.fraction("small_crop_max")? as f32);
    Ok(small)
}

/// The chain that the trainer's keys describe.
fn chain(config: &Config) -> Result<SimclrAugment> {
    let brightness = match config.choice("brightness", &["additive", "multiplicative"])? {
        "additive" => Brightness::Additive,
        _ => Brightness::Multiplicative,
    };
    let strength = config.fraction("strength")? as f32;
    let mut augment = SimclrAugment::new(config.at_least("size", 8)?, strength, false, brightness);
    let (saturation, hue) = (config.fraction("saturation")? as f32, config.fraction("hue")? as f32);
    augment.jitter = ColorJitter { saturation: saturation * strength, hue: hue * strength, ..augment.jitter };
    augment.crop.area = (config.fraction("crop_min")? as f32, config.fraction("crop_max")? as f32);
    augment.flip.p = config.fraction("flip")? as f32;
    augment.jitter_p = config.fraction("jitter")? as f32;
    augment.grayscale.p = config.fraction("grayscale")? as f32;
    augment.blur = blur(config, "blur")?;
    augment.solarize = solarize(config, "solarize")?;
    Ok(augment)
}

fn blur(config: &Config, key: &str) -> Result<Option<GaussianBlur>> {
    let p = config.fraction(key)? as f32;
    Ok((p > 0.0).then_some(GaussianBlur { p, sigma: (0.1, 2.0) }))
}

fn solarize(config: &Config, key: &str) -> Result<Option<RandomSolarize>> {
    let p = config.fraction(key)? as f32;
    Ok((p > 0.0).then_some(RandomSolarize { p, threshold: SOLARIZE_FROM }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use crate::zoo::simclr;
    use selfsame_data::{Loader, LoaderConfig, Split, open};

    /// The mean of each view over the first images, after `settings` and the keys of `extra`.
    fn pixels(make: fn(&Config) -> Result<Augmentations>, extra: &str, changed: &[&str]) -> Vec<Vec<f32>> {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        config.declare("test", extra).unwrap();
        changed.iter().for_each(|setting| config.apply_setting(setting).unwrap());
        let views = make(&config).unwrap();
        let data = open("scenes:train=8,test=8", Split::Train).unwrap();
        let loader = LoaderConfig { batch: 8, views, workers: 0, ..LoaderConfig::default() };
        let batch = Loader::new(data, loader).unwrap().next().unwrap().unwrap();
        batch.views.into_iter().map(|view| view.pixels).collect()
    }

    const PLAIN: [&str; 5] = ["crop_min=1", "flip=0", "jitter=0", "grayscale=0", "size=16"];

    #[test]
    fn the_second_view_alone_is_solarised() {
        let asymmetric = pixels(asymmetric_views, "blur2 = 0.0 # b\nsolarize2 = 1.0 # s\n", &PLAIN);
        let plain = pixels(two_views, "", &PLAIN);
        assert_eq!(asymmetric[0], plain[0]);
        let inverted: Vec<f32> = plain[1].iter().map(|x| if *x >= 0.5 { 1.0 - x } else { *x }).collect();
        assert_eq!(asymmetric[1], inverted);
    }

    #[test]
    fn small_crops_come_last_in_their_size() {
        let keys = "large_crops = 2 # n\nsmall_crops = 3 # n\nsmall_size = 8 # p\nsmall_crop_min = 0.05 # m\n\
                    small_crop_max = 0.2 # m\n";
        let lengths: Vec<usize> = pixels(multi_crop, keys, &["size=16"]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [16, 16, 8, 8, 8].map(|side| 8 * side * side * 3));
    }
}
