//! What methods are made of, and what configuration keys stand for: backbone, optimiser, learning rate here;
//! [views](two_views) and [networks over them](each_view), an encoder with its projector ([`Embedder`]), a momentum
//! [`Teacher`], [clusters of all images](ClusterHeads), and what the methods on MoCo share ([`MomentumContrast`]).

mod background;
mod cluster_heads;
mod each_view;
mod embedder;
mod facts;
mod momentum_contrast;
mod schedules;
mod teacher;
mod views;
mod whiten;

pub use background::{Foreground, WithoutBackground};
pub use cluster_heads::ClusterHeads;
pub use each_view::{each_view, of_views};
pub use embedder::Embedder;
pub use facts::{UNIFORM_QUEUE, ln_of, uniform_outputs};
pub use momentum_contrast::MomentumContrast;
pub(crate) use momentum_contrast::{dtype, momentum_contrast_keys, unit};
pub use schedules::{epochs_in_steps, teacher_momentum};
pub use teacher::Teacher;
pub use views::{asymmetric_multi_crop, asymmetric_views, multi_crop, one_view, two_views};
pub use whiten::whiten;

use std::str::FromStr;
use std::sync::Arc;

use selfsame_autograd::optim::{AdamW, Lamb, LambOptions, Lars, LarsOptions, LarsVariant, Optimizer, Sgd};
use selfsame_autograd::schedule::Schedule;
use selfsame_autograd::{ParamSet, Tensor};
use selfsame_data::Augment;
use selfsame_data::augment::EvalTransform;
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_losses::Usage;
use selfsame_models::Init;
use selfsame_models::backbones::{self, Backbone, BackboneOpts};

use crate::config::Config;
use crate::method::Step;
use crate::trainer::scalar;

/// Lengths below this count as this when embeddings are normalised.
pub const UNIT_EPS: f64 = 1e-12;

/// The one element of a float tensor.
///
/// # Errors
/// `Shape` when there are more.
pub fn number(x: &Tensor) -> Result<f64> {
    scalar(x.array())
}

/// The sum of losses; there is at least one.
///
/// # Errors
/// `Config` when there is none.
pub fn sum_of(losses: &[Tensor]) -> Result<Tensor> {
    let Some((first, others)) = losses.split_first() else {
        return Err(Error::new(ErrorKind::Config, "losses", "none").expected("at least one"));
    };
    others.iter().try_fold(first.clone(), |sum, loss| sum.add(loss))
}

/// The mean of losses; there is at least one.
///
/// # Errors
/// `Config` when there is none.
pub fn mean_of(losses: &[Tensor]) -> Result<Tensor> {
    sum_of(losses)?.scale(1.0 / losses.len() as f64)
}

/// Whether the log has of this step (the first is 1) what costs too much for every step: `every` is `log_every`.
pub fn is_watched(step: u64, every: u64) -> bool {
    step == 1 || step.is_multiple_of(every)
}

/// `step` with the use of prototypes for the log.
#[must_use]
pub fn log_usage(step: Step, usage: Usage) -> Step {
    step.scalar("prototypes/used", usage.used).scalar("prototypes/entropy", usage.entropy)
}

/// The encoder that `backbone`, `stem`, `width`, `zero_init`, `bn_group` and `backbone_options` describe.
///
/// # Errors
/// `Config` for unknown names and values out of range.
pub fn backbone(config: &Config, init: &Init) -> Result<Box<dyn Backbone>> {
    backbone_without(&[], config, init)
}

/// The [`backbone`] of a teacher whose student drops branches: it drops none.
///
/// # Errors
/// As for [`backbone`].
pub fn teacher_backbone(config: &Config, init: &Init) -> Result<Box<dyn Backbone>> {
    backbone_without(&["drop_path"], config, init)
}

fn backbone_without(left_out: &[&str], config: &Config, init: &Init) -> Result<Box<dyn Backbone>> {
    let spec = backbones::backbone(config.str("backbone")?)?;
    let mut options = BackboneOpts { zero_init: config.bool("zero_init")?, ..BackboneOpts::default() };
    options.set("stem", config.str("stem")?)?;
    options.set("bn_group", &config.usize("bn_group")?.to_string())?;
    options.width = Some(config.positive("width")?);
    for option in config.str("backbone_options")?.split_whitespace() {
        let (key, value) = option.split_once('=').ok_or_else(|| {
            Error::new(ErrorKind::Config, "configuration key 'backbone_options'", option)
                .expected("key=value pairs with spaces between them, such as \"patch=4 depth=6\"")
        })?;
        if !left_out.contains(&key) {
            options.set(key, value)?;
        }
    }
    (spec.build)(init, &options)
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
            let excluded_lr = config.positive("excluded_lr")?;
            let options = LarsOptions { momentum, nesterov, weight_decay, trust, excluded_lr, ..variant };
            Box::new(Lars::new(params, options)?)
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

/// What a drop leaves of the learning rate.
const DROP: f64 = 0.1;

/// The learning rate by step: linear warm-up to the peak, then a cosine (both ends are shares of the peak) or drops.
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
    let peak = peak_lr(config)?;
    let (start, end) = (config.fraction("warmup_from")? * peak, config.fraction("lr_end")? * peak);
    let warmup = warmup.min(steps);
    if config.str("lr_drops")?.is_empty() {
        return Ok(Schedule::WarmupCosine { start, peak, end, warmup, total: steps });
    }
    let is_share = |share: &f64| (0.0..=1.0).contains(share);
    let shares = listed(config, "lr_drops", is_share, "shares of the run with commas between them, such as 0.6,0.8")?;
    let at = shares.iter().map(|share| (share * steps as f64).round() as u64).collect();
    Ok(Schedule::WarmupDrops { start, peak, warmup, factor: DROP, at })
}

/// The positive whole numbers that a text such as `50,100,200` lists.
///
/// # Errors
/// `Config` unless it is one.
pub fn numbers(config: &Config, key: &str) -> Result<Vec<usize>> {
    listed(config, key, |n| *n > 0, "positive whole numbers with commas between them, such as 50,100,200")
}

/// The values that the text at `key` lists, all of them `allowed`; `expected` says which.
fn listed<T: FromStr>(config: &Config, key: &str, allowed: impl Fn(&T) -> bool, expected: &str) -> Result<Vec<T>> {
    let text = config.str(key)?;
    let value = |part: &str| part.trim().parse().ok().filter(&allowed);
    text.split(',').map(value).collect::<Option<Vec<T>>>().ok_or_else(|| {
        Error::new(ErrorKind::Config, format!("configuration key '{key}'"), format!("'{text}'")).expected(expected)
    })
}

/// The weight decay by step: a cosine to its end, a multiple of its start.
///
/// # Errors
/// `Config` for values out of range.
pub fn weight_decay(config: &Config, steps: u64) -> Result<Schedule> {
    let (start, factor) = (config.fraction("weight_decay")?, config.f64("weight_decay_end")?);
    if factor.is_finite() && factor >= 0.0 {
        return Ok(if factor == 1.0 {
            Schedule::Constant(start)
        } else {
            Schedule::cosine(start, start * factor, steps)
        });
    }
    Err(Error::new(ErrorKind::Config, "configuration key 'weight_decay_end'", factor.to_string())
        .expected("a number of at least 0"))
}

/// The largest norm of each parameter's gradient, if there is one.
///
/// # Errors
/// `Config` for a negative number.
pub fn clip(config: &Config) -> Result<Option<f64>> {
    match config.f64("clip")? {
        0.0 => Ok(None),
        clip if clip > 0.0 => Ok(Some(clip)),
        clip => Err(Error::new(ErrorKind::Config, "configuration key 'clip'", clip.to_string())
            .expected("a number of at least 0; 0 for no limit")),
    }
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
        for setting in ["lr_scaling=none", "warmup_from=0.1", "lr_end=0.01"] {
            config.apply_setting(setting).unwrap();
        }
        let rate = learning_rate(&config, 100, 10).unwrap();
        assert_eq!([rate.at(0), rate.at(20), rate.at(100)], [0.1 * 0.5, 0.5, 0.01 * 0.5]);
        // A warm-up longer than the run fills it.
        config.apply_setting("warmup_epochs=1e9").unwrap();
        assert!(learning_rate(&config, 100, 10).is_ok());
    }

    #[test]
    fn drops_take_the_place_of_the_cosine() {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        for setting in ["lr=1", "lr_scaling=none", "warmup_epochs=1", "lr_drops=0.6, 0.8"] {
            config.apply_setting(setting).unwrap();
        }
        let rate = learning_rate(&config, 100, 10).unwrap();
        assert_eq!([rate.at(5), rate.at(59), rate.at(60), rate.at(80)], [0.5, 1.0, DROP, DROP * DROP]);
        for wrong in ["60", "0.5,", "-0.1", "half"] {
            config.apply_setting(&format!("lr_drops={wrong}")).unwrap();
            assert!(learning_rate(&config, 100, 10).unwrap_err().sentence().contains("lr_drops"), "{wrong}");
        }
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
    fn lists_of_numbers_are_read() {
        let list = |text: &str| {
            let mut config = settings::defaults(&simclr::SPEC).unwrap();
            config.declare("test", &format!("list = \"{text}\" # n\n")).unwrap();
            numbers(&config, "list")
        };
        assert_eq!(list("50, 100,200").unwrap(), [50, 100, 200]);
        for wrong in ["", "50,", "0", "a", "1.5", "-3"] {
            assert_eq!(list(wrong).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
        }
    }

    #[test]
    fn weight_decay_goes_to_a_multiple_of_itself() {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        config.apply_setting("weight_decay=0.04").unwrap();
        assert_eq!(weight_decay(&config, 100).unwrap().at(70), 0.04);
        config.apply_setting("weight_decay_end=10").unwrap();
        let decay = weight_decay(&config, 100).unwrap();
        for (step, expected) in [(0, 0.04), (50, 0.22), (100, 0.4)] {
            assert!((decay.at(step) - expected).abs() < 1e-15, "{step}");
        }
        assert_eq!(clip(&config).unwrap(), None);
        config.apply_setting("clip=3").unwrap();
        assert_eq!(clip(&config).unwrap(), Some(3.0));
        for setting in ["clip=-1", "weight_decay_end=-1"] {
            config.apply_setting(setting).unwrap();
        }
        assert!(clip(&config).is_err() && weight_decay(&config, 100).is_err());
    }

    #[test]
    fn keys_out_of_range_are_refused() {
        let refused = |setting: &str| {
            let mut config = settings::defaults(&simclr::SPEC).unwrap();
            config.apply_setting(setting).unwrap();
            let device = selfsame_engine::Device::cpu_with(1).unwrap();
            let built = backbone(&config, &Init::new(&device, 0)).map(drop);
            let error = built.and(two_views(&config).map(drop)).and(peak_lr(&config).map(drop)).unwrap_err();
            error.sentence()
        };
        assert!(refused("backbone=resnet19").contains("resnet18"));
        assert!(refused("backbone_options=patch").contains("backbone_options"));
        assert!(refused("backbone_options=patch=4").contains("patch"), "a ResNet has no patches");
        for setting in ["crop_min=1.5", "lr=0", "lr=nan", "batch=1", "width=-1", "stem=cifra", "brightness=none"] {
            let key = setting.split('=').next().unwrap();
            assert!(refused(setting).contains(key), "{setting}: {}", refused(setting));
        }
    }
}
