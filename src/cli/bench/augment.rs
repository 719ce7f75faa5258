//! What a loader's worker does, on one thread: two views of 128 images of 32x32 from bytes, with SimCLR's augmentation
//! for small images.

use selfsame_data::augment::SimclrAugment;
use selfsame_data::{Augment, Bitmap};
use selfsame_engine::Result;
use selfsame_kernels::philox::{Key, Purpose};

use super::{Bench, Timing};

const IMAGES: usize = 128;
const SIDE: usize = 32;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let key = Key::new(0, Purpose::Check);
    let bitmap = |i: usize| {
        let mut stream = key.stream(0, i as u64, 0);
        Bitmap::new(SIDE, SIDE, 3, (0..SIDE * SIDE * 3).map(|_| stream.range(256) as u8).collect())
    };
    let images = (0..IMAGES).map(bitmap).collect::<Result<Vec<_>>>()?;
    let augment = SimclrAugment::cifar(SIDE);
    let mut timing = bench.time(format!("augment simclr 2x{IMAGES} @{SIDE}"), None, || {
        for (i, bitmap) in images.iter().enumerate() {
            for view in 0..2 {
                augment.apply(&mut bitmap.to_image(), &mut key.stream(1, i as u64, view))?;
            }
        }
        Ok(())
    })?;
    timing.extra.push(("views", (2 * IMAGES) as f64 / timing.median(), "per s"));
    Ok(vec![timing])
}
