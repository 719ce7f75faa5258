//! The methods: one file each, one line each in [`METHODS`].

pub mod barlow_twins;
pub mod bregman;
pub mod byol;
pub mod cacr;
pub mod carl;
pub mod deepcluster;
pub mod deepcluster_v2;
pub mod dino;
pub mod domain_agnostic_self_distillation;
pub mod false_negatives;
pub mod iic;
pub mod local_aggregation;
pub mod macl;
pub mod mira;
pub mod mochi;
pub mod moco;
pub mod pcl;
pub mod relic_v2;
pub mod scan;
pub mod sela;
pub mod simclr;
pub mod swav;
pub mod xmoco;

use crate::method::MethodSpec;

/// Every method, in the order of the table that `selfsame methods` prints.
pub const METHODS: &[&MethodSpec] = &[
    &simclr::SPEC,
    &byol::SPEC,
    &swav::SPEC,
    &barlow_twins::SPEC,
    &dino::SPEC,
    &deepcluster::SPEC,
    &deepcluster_v2::SPEC,
    &sela::SPEC,
    &relic_v2::SPEC,
    &carl::SPEC,
    &mira::SPEC,
    &iic::SPEC,
    &domain_agnostic_self_distillation::SPEC,
    &moco::SPEC,
    &mochi::SPEC,
    &pcl::SPEC,
    &false_negatives::SPEC,
    &local_aggregation::SPEC,
    &xmoco::SPEC,
    &cacr::SPEC,
    &macl::SPEC,
    &bregman::SPEC,
    &scan::SPEC,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::method::Views;
    use crate::session::to_views;
    use crate::settings;
    use crate::trainer::{Cut, Plan, Trainer, scalar};
    use selfsame_autograd::ParamSet;
    use selfsame_data::{Loader, LoaderConfig, Split, open};
    use selfsame_engine::{Device, Result, ops};
    use selfsame_models::{BatchNormMode, Ctx, Init};
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn every_file_is_listed_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/zoo");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(|name| name.replace('_', "-"))
            })
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut listed: Vec<&str> = METHODS.iter().map(|spec| spec.name).collect();
        listed.sort_unstable();
        assert_eq!(files, listed, "files of methods/src/zoo against METHODS");
    }

    /// A small configuration of `spec` for batches of `images`, and such a batch of noise.
    fn small(spec: &MethodSpec, images: usize, device: &Device) -> (Config, Plan, Views) {
        let mut config = settings::defaults(spec).unwrap();
        let batch = format!("batch={images}");
        for setting in ["warmup_epochs=0", &batch] {
            config.apply_setting(setting).unwrap();
        }
        settings::shrink(&mut config).unwrap();
        let plan = Plan::of(&config, 10 * images).unwrap();
        let data = open(&format!("scenes:train={images},test=20"), Split::Train).unwrap();
        let loader = LoaderConfig { batch: images, views: (spec.views)(&config).unwrap(), ..LoaderConfig::default() };
        let batch = Loader::new(data, loader).unwrap().next().unwrap().unwrap();
        let views = to_views(&batch, device).unwrap();
        (config, plan, views)
    }

    /// Forward and backward of every method on a few images: a finite loss, and for every parameter a gradient, in one
    /// phase of the training or another.
    #[test]
    fn every_parameter_gets_a_gradient() {
        let device = Device::cpu_with(1).unwrap();
        for spec in METHODS {
            let (config, plan, views) = small(spec, 16, &device);
            let method = (spec.build)(&config, &Init::new(&device, 0), &plan).unwrap();
            let params = ParamSet::collect(|visitor| method.visit(visitor)).unwrap();
            let mut left: BTreeSet<&str> = params.trainable().map(|(path, _)| path).collect();
            // The last is late enough that nothing is frozen any more for a start.
            for at in [0, plan.steps() * 7 / 10, 1 << 40] {
                let step = method.loss(&views, &Ctx::train().step(0, at)).unwrap();
                assert!(scalar(step.loss.array()).unwrap().is_finite(), "{} in step {at}", spec.name);
                let grads = step.loss.backward().unwrap();
                for (path, param) in params.trainable() {
                    let Some(gradient) = grads.param(param).unwrap() else { continue };
                    let norm = ops::norm_sq(&gradient).unwrap();
                    assert!(norm.is_finite(), "{}: squared norm {norm} at {path} in step {at}", spec.name);
                    if norm > 0.0 {
                        left.remove(path);
                    }
                }
            }
            assert!(left.is_empty(), "{}: no gradient at {left:?}", spec.name);
        }
    }

    /// The first step of every method in micro-batches has the bits of its one graph: what it returns as embeddings is
    /// all that its objective needs, randomness is keyed by image, targets have no gradient.
    #[test]
    fn every_method_can_be_cut_or_says_why_not() {
        let device = Device::cpu_with(2).unwrap();
        for spec in METHODS {
            let (config, plan, views) = small(spec, 32, &device);
            let step = |sizes: &[usize], cached, batch_norm| -> Result<Vec<u8>> {
                let cut = Cut::sizes(vec![sizes.to_vec()], cached, batch_norm)?;
                let mut trainer = Trainer::new(spec, &config, &plan, &device)?.with_cut(cut)?;
                trainer.step(&views, Duration::ZERO)?;
                trainer.snapshot()
            };
            for (cached, batch_norm) in [(true, BatchNormMode::Frozen), (false, BatchNormMode::Lockstep)] {
                let whole = step(&[32], cached, batch_norm).unwrap();
                let indivisible = Trainer::new(spec, &config, &plan, &device);
                match (step(&[16, 16], cached, batch_norm), indivisible.unwrap().method().indivisible()) {
                    (Ok(cut), None) => assert!(cut == whole, "{}: other bits under {batch_norm:?}", spec.name),
                    (Err(error), Some(why)) => assert!(error.sentence().contains(why), "{error}"),
                    (Err(error), None) => panic!("{}: {error}", spec.name),
                    (Ok(_), Some(why)) => panic!("{} was cut although {why}", spec.name),
                }
            }
        }
    }
}
