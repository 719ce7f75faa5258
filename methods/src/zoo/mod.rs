//! The methods: one file each, one line each in [`METHODS`].

pub mod simclr;

use crate::method::MethodSpec;

/// Every method, in the order of the table that `selfsame methods` prints.
pub const METHODS: &[&MethodSpec] = &[&simclr::SPEC];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::Views;
    use crate::settings;
    use crate::trainer::{Cut, Plan, Trainer, scalar};
    use selfsame_autograd::{ParamSet, Tensor};
    use selfsame_engine::{Array, Device, Result, ops};
    use selfsame_kernels::philox::{Key, Purpose};
    use selfsame_models::{BatchNormMode, Ctx, Init};
    use std::time::Duration;

    #[test]
    fn every_file_is_listed_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/zoo");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(str::to_string))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut listed: Vec<&str> = METHODS.iter().map(|spec| spec.name).collect();
        listed.sort_unstable();
        assert_eq!(files, listed, "files of methods/src/zoo against METHODS");
    }

    /// One forward and backward of every method on a few images: a finite loss, and a gradient for every parameter.
    #[test]
    fn every_parameter_gets_a_gradient() {
        let device = Device::cpu_with(1).unwrap();
        for spec in METHODS {
            let mut config = settings::defaults(spec).unwrap();
            for setting in ["backbone=resnet-small", "stem=small", "width=0.25"] {
                config.apply_setting(setting).unwrap();
            }
            let method = (spec.build)(&config, &Init::new(&device, 0)).unwrap();
            let params = ParamSet::collect(|visitor| method.visit(visitor)).unwrap();
            let view = |seed: u64| {
                let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
                let pixels: Vec<f32> = (0..8 * 16 * 16 * 3).map(|_| stream.uniform_f32()).collect();
                Tensor::constant(Array::from_slice(&pixels, &[8, 16, 16, 3], &device).unwrap())
            };
            let views = Views::new((0..spec.views.count() as u64).map(view).collect());
            let step = method.loss(&views, &Ctx::train()).unwrap();
            assert!(scalar(step.loss.array()).unwrap().is_finite(), "{}", spec.name);
            let grads = step.loss.backward().unwrap();
            for (path, param) in params.trainable() {
                let gradient =
                    grads.param(param).unwrap().unwrap_or_else(|| panic!("{}: no gradient at {path}", spec.name));
                let norm = ops::norm_sq(&gradient).unwrap();
                assert!(norm > 0.0 && norm.is_finite(), "{}: squared norm {norm} at {path}", spec.name);
            }
        }
    }

    /// The first step of every method in micro-batches has the bits of its one graph: what it returns as embeddings is
    /// all that its objective needs, randomness is keyed by image, targets have no gradient.
    #[test]
    fn every_method_can_be_cut_or_says_why_not() {
        let device = Device::cpu_with(2).unwrap();
        for spec in METHODS {
            let mut config = settings::defaults(spec).unwrap();
            let settings = ["backbone=resnet-small", "stem=small", "width=0.25", "batch=32", "warmup_epochs=0"];
            settings.iter().for_each(|setting| config.apply_setting(setting).unwrap());
            let view = |seed: u64| {
                let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
                let pixels: Vec<f32> = (0..32 * 16 * 16 * 3).map(|_| stream.uniform_f32()).collect();
                Tensor::constant(Array::from_slice(&pixels, &[32, 16, 16, 3], &device).unwrap())
            };
            let views = Views::new((0..spec.views.count() as u64).map(view).collect());
            let step = |sizes: &[usize], cached, batch_norm| -> Result<Vec<u8>> {
                let cut = Cut::sizes(vec![sizes.to_vec()], cached, batch_norm)?;
                let plan = Plan::of(&config, 320)?;
                let mut trainer = Trainer::new(spec, &config, &plan, &device)?.with_cut(cut)?;
                trainer.step(&views, Duration::ZERO)?;
                trainer.snapshot()
            };
            for (cached, batch_norm) in [(true, BatchNormMode::Frozen), (false, BatchNormMode::Lockstep)] {
                let whole = step(&[32], cached, batch_norm).unwrap();
                let indivisible = Trainer::new(spec, &config, &Plan::of(&config, 320).unwrap(), &device);
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
