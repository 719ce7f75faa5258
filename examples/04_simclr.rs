//! SimCLR as a library: a method of the registry trained for a few steps, and its encoder measured.
//!
//! `cargo run --release --example 04_simclr`
use selfsame::data::{Loader, LoaderConfig, Split, open};
use selfsame::methods::eval::features::to_array;
use selfsame::methods::measure::Setting;
use selfsame::methods::session::Labelled;
use selfsame::methods::trainer::{Plan, Trainer};
use selfsame::methods::zoo::simclr;
use selfsame::methods::{Views, settings, weights_hash};
use selfsame::prelude::*;

fn main() -> Result<()> {
    // 1. A configuration: the method's defaults, a recipe, and what this program changes of them.
    let mut config = settings::defaults(&simclr::SPEC)?;
    config.apply_recipe("demo", include_str!("../configs/demo.toml"))?;
    for setting in ["width=0.5", "batch=64", "epochs=4", "warmup_epochs=0.5"] {
        config.apply_setting(setting)?;
    }

    // 2. Data without labels, two augmented views of each image.
    let spec = "scenes:train=2048,test=256";
    let images = open(spec, Split::Train)?;
    let augmentations = (simclr::SPEC.views)(&config)?;

    // 3. The method and its optimiser.
    let device = Device::cpu()?;
    let plan = Plan::of(&config, images.len())?;
    let mut trainer = Trainer::new(&simclr::SPEC, &config, &plan, &device)?;

    // 4. Steps: loader, views, loss, backward, optimiser.
    for epoch in 0..plan.epochs {
        let loader = LoaderConfig { batch: 64, views: augmentations.clone(), epoch, ..LoaderConfig::default() };
        let mut last = None;
        for batch in Loader::new(images.clone(), loader)? {
            let view = |view| Ok(Tensor::constant(to_array(view, &device)?));
            let batch = batch?;
            let views = Views::new(batch.views.iter().map(view).collect::<Result<_>>()?, batch.indices)?;
            last = Some(trainer.step(&views, std::time::Duration::ZERO)?);
        }
        if let Some(record) = last {
            println!("epoch {}: loss {:.3}, {:.0} images/s", epoch + 1, record.loss, record.images_per_second);
        }
    }

    // 5. The encoder, measured by its nearest neighbours.
    let labelled = Labelled::open(spec)?;
    let setting = Setting { labelled: &labelled, config: &config, device: &device, workers: 1 };
    let features = setting.features(trainer.method().encoder())?;
    println!("kNN accuracy {:.1} %", 100.0 * setting.knn(&features)?.overall);
    println!("weights {}", weights_hash(trainer.params())?);
    Ok(())
}
