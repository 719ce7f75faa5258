//! Times one core on scenes, the augmentation chains and the loader:
//!
//! `cargo run --release -p selfsame-data --example speed`

use selfsame_data::augment::{Brightness, CropFlip, SimclrAugment};
use selfsame_data::scenes::{Domain, Scenes, ScenesConfig};
use selfsame_data::{Augment, Dataset, Image, Loader, LoaderConfig, Split};
use selfsame_engine::Result;
use selfsame_kernels::philox::{Key, Purpose};
use std::sync::Arc;
use std::time::Instant;

fn main() -> Result<()> {
    for size in [32, 64, 224] {
        for domain in Domain::ALL {
            let scenes = Scenes::new(ScenesConfig { size, domain, ..Default::default() }, Split::Train)?;
            report(&format!("scenes {size} {}", domain.name()), 32 * 32 * 2000 / (size * size), |k| {
                scenes.get(k).map(|_| ())
            })?;
        }
    }
    for size in [32, 224] {
        let scenes = Scenes::new(ScenesConfig { size, ..Default::default() }, Split::Train)?;
        let image = scenes.get(0)?.image.to_image();
        let chains: [(&str, Box<dyn Augment>); 4] = [
            ("crop and flip", Box::new(CropFlip::new(size))),
            ("simclr without blur, additive", Box::new(SimclrAugment::new(size, 0.5, false, Brightness::Additive))),
            (
                "simclr without blur, multiplicative",
                Box::new(SimclrAugment::new(size, 0.5, false, Brightness::Multiplicative)),
            ),
            ("simclr with blur", Box::new(SimclrAugment::imagenet(size))),
        ];
        for (name, chain) in chains {
            report(&format!("{name}, {size}"), 32 * 32 * 4000 / (size * size), |k| {
                let mut view: Image = image.clone();
                chain.apply(&mut view, &mut Key::new(0, Purpose::Check).stream(0, k as u64, 0))
            })?;
        }
    }
    let scenes: Arc<dyn Dataset> = Arc::new(Scenes::new(ScenesConfig::default(), Split::Train)?);
    let view: Arc<dyn Augment> = Arc::new(SimclrAugment::cifar(32));
    for workers in [0, 1, 2] {
        let config = LoaderConfig { workers, views: vec![view.clone(), view.clone()], ..Default::default() };
        let loader = Loader::new(scenes.clone(), config)?;
        let (start, mut images) = (Instant::now(), 0);
        for batch in loader {
            images += batch?.indices.len();
        }
        let each = start.elapsed().as_secs_f64() / images as f64;
        println!("{:48} {:9.1} us an image", format!("loader, two simclr views, {workers} workers"), each * 1e6);
    }
    Ok(())
}

fn report(what: &str, times: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for k in 0..times {
        work(k)?;
    }
    println!("{what:48} {:9.1} us", start.elapsed().as_secs_f64() / times as f64 * 1e6);
    Ok(())
}
