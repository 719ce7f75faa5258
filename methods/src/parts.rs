//! What configuration keys stand for: backbone, augmentation, optimiser, learning rate.

use std::sync::Arc;

use selfsame_autograd::ParamSet;
use selfsame_autograd::optim::{AdamW, Lamb, LambOptions, Lars, LarsOptions, LarsVariant, Optimizer, Sgd};
use selfsame_autograd::schedule::Schedule;
use selfsame_data::Augment;
use selfsame_data::augment::{Brightness, EvalTransform, GaussianBlur, SimclrAugment};
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_models::Init;
use selfsame_models::backbones::{self, Backbone, BackboneOpts};

use crate::config::Config;

/// The encoder that `backbone`, `stem`, `width`, `zero_init` and `bn_group` describe.
///
/// # Errors
/// `Config` for unknown names and values out of range.
pub fn backbone(config: &Config, init: &Init) -> Result<Box<dyn Backbone>> {
    let spec = backbones::backbone(config.str("backbone")?)?;
    let mut options = BackboneOpts { zero_init: config.bool("zero_init")?, ..BackboneOpts::default() };
    options.set("stem", config.str("stem")?)?;
    options.set("bn_group", &config.usize("bn_group")?.to_string())?;
    options.width = Some(config.positive("width")?);
    (spec.build)(init, &options)
}

/// The augmentation of a training view.
///
/// # Errors
/// `Config` for values out of range.
pub fn augmentation(config: &Config) -> Result<Arc<dyn Augment>> {
    let brightness = match config.choice("brightness", &["additive", "multiplicative"])? {
        "additive" => Brightness::Additive,
        _ => Brightness::Multiplicative,
    };
    let strength = config.fraction("strength")? as f32;
    let mut augment = SimclrAugment::new(config.at_least("size", 8)?, strength, false, brightness);
    augment.crop.area.0 = config.fraction("crop_min")? as f32;
    augment.flip.p = config.fraction("flip")? as f32;
    augment.jitter_p = config.fraction("jitter")? as f32;
    augment.grayscale.p = config.fraction("grayscale")? as f32;
    let blur = config.fraction("blur")? as f32;
    augment.blur = (blur > 0.0).then_some(GaussianBlur { p: blur, sigma: (0.1, 2.0) });
    Ok(Arc::new(augment))
}

/// The transform of evaluation: the central square, without randomness.
///
/// # Errors
/// `Config` when `size` is out of range.
pub fn eval_transform(config: &Config) -> Result<Arc<dyn Augment>> {
    Ok(Arc::new(EvalTransform::new(config.at_least("size", 8)?)))
}

/// The optimiser of `params`.
///
/// # Errors
/// `Config` for an unknown name or values out of range.
pub fn optimizer(config: &Config, params: &ParamSet) -> Result<Box<dyn Optimizer>> {
    let momentum = config.fraction("momentum")?;
    let weight_decay = config.fraction("weight_decay")?;
    let nesterov = config.bool("nesterov")?;
    Ok(match config.choice("optimizer", &["sgd", "lars", "adamw", "lamb"])? {
        "sgd" => Box::new(Sgd::new(params, momentum, nesterov, weight_decay)?),
        "lars" => {
            let variant = LarsOptions::of(LarsVariant::parse(config.str("lars_variant")?)?);
            let trust = config.positive("trust")?;
            Box::new(Lars::new(params, LarsOptions { momentum, nesterov, weight_decay, trust, ..variant })?)
        }
        "adamw" => Box::new(AdamW::new(params, (momentum, 0.999), 1e-8, weight_decay)?),
        _ => {
            let betas = (momentum, 0.999);
            Box::new(Lamb::new(params, LambOptions { betas, weight_decay, ..LambOptions::default() })?)
        }
    })
}

/// The peak learning rate for the configured batch.
///
/// # Errors
/// `Config` for values out of range.
pub fn peak_lr(config: &Config) -> Result<f64> {
    let ratio = config.at_least("batch", 2)? as f64 / 256.0;
    let factor = match config.choice("lr_scaling", &["linear", "sqrt", "none"])? {
        "linear" => ratio,
        "sqrt" => ratio.sqrt(),
        _ => 1.0,
    };
    Ok(config.positive("lr")? * factor)
}

/// The learning rate by step: linear warm-up to the peak, then a cosine to 0.
///
/// # Errors
/// `Config` for values out of range.
pub fn learning_rate(config: &Config, steps: u64, steps_per_epoch: u64) -> Result<Schedule> {
    let warmup = config.f64("warmup_epochs")?;
    if !(0.0..=f64::MAX).contains(&warmup) {
        return Err(Error::new(ErrorKind::Config, "configuration key 'warmup_epochs'", warmup.to_string())
            .expected("a number of at least 0"));
    }
    let warmup = (warmup * steps_per_epoch as f64).round() as u64;
    Schedule::warmup_cosine(peak_lr(config)?, 0.0, warmup.min(steps), steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{settings, zoo::simclr};
    use selfsame_autograd::{Param, Role};
    use selfsame_engine::{Array, DType};

    #[test]
    fn rate_is_scaled_by_the_batch_and_warms_up_by_epochs() {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        for setting in ["lr=0.5", "batch=512", "warmup_epochs=2"] {
            config.apply_setting(setting).unwrap();
        }
        let rate = learning_rate(&config, 100, 10).unwrap();
        assert_eq!([rate.at(0), rate.at(10), rate.at(20)], [0.0, 0.5, 1.0]);
        assert!((rate.at(60) - 0.5).abs() < 1e-12 && rate.at(99) < 0.001);
        config.apply_setting("lr_scaling=sqrt").unwrap();
        assert!((peak_lr(&config).unwrap() - 0.5 * 2f64.sqrt()).abs() < 1e-15);
        // A warm-up longer than the run fills it.
        config.apply_setting("warmup_epochs=1e9").unwrap();
        assert!(learning_rate(&config, 100, 10).is_ok());
    }

    #[test]
    fn every_form_of_lars_is_made_by_its_name() {
        let device = selfsame_engine::Device::cpu_with(1).unwrap();
        let weight = Array::zeros(&[2, 2], DType::F32, &device).unwrap();
        let weight = Param::new("w", Role::Weight, weight);
        let params = ParamSet::collect(|v| v.param("w", &weight)).unwrap();
        let made = |settings: &[&str]| {
            let mut config = settings::defaults(&simclr::SPEC).unwrap();
            settings.iter().for_each(|setting| config.apply_setting(setting).unwrap());
            optimizer(&config, &params).map(drop)
        };
        for variant in LarsVariant::ALL {
            made(&["optimizer=lars", &format!("lars_variant={}", variant.name())]).unwrap();
        }
        made(&["optimizer=lamb"]).unwrap();
        for settings in [["optimizer=lars", "lars_variant=lamb"], ["optimizer=larc", "nesterov=true"]] {
            assert_eq!(made(&settings).unwrap_err().kind(), ErrorKind::Config);
        }
        let refused = made(&["optimizer=lars", "lars_variant=barlow-twins", "nesterov=true"]);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn keys_out_of_range_are_refused() {
        let refused = |setting: &str| {
            let mut config = settings::defaults(&simclr::SPEC).unwrap();
            config.apply_setting(setting).unwrap();
            let device = selfsame_engine::Device::cpu_with(1).unwrap();
            let built = backbone(&config, &Init::new(&device, 0)).map(drop);
            let error = built.and(augmentation(&config).map(drop)).and(peak_lr(&config).map(drop)).unwrap_err();
            error.sentence()
        };
        assert!(refused("backbone=resnet19").contains("resnet18"));
        for setting in ["crop_min=1.5", "lr=0", "lr=nan", "batch=1", "width=-1", "stem=cifra", "brightness=none"] {
            let key = setting.split('=').next().unwrap();
            assert!(refused(setting).contains(key), "{setting}: {}", refused(setting));
        }
    }
}
