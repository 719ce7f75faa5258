//! Writes the first pictures of a data set, and augmented views of them, as one PNG:
//!
//! `cargo run --release -p selfsame-data --example contact_sheet -- scenes:size=64 sheet.png [plain|simclr]`

use selfsame_data::augment::{EvalTransform, SimclrAugment};
use selfsame_data::readers::encode_png;
use selfsame_data::{Augment, Bitmap, Image, Loader, LoaderConfig, Split, open};
use selfsame_engine::{Error, Result};
use std::sync::Arc;

const COLUMNS: usize = 16;
const ROWS: usize = 10;
const GAP: usize = 2;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let spec = arguments.next().unwrap_or_else(|| "scenes:size=64".into());
    let path = arguments.next().unwrap_or_else(|| "contact_sheet.png".into());
    let dataset = open(&spec, Split::Train)?;
    let side = dataset.get(0)?.image.height;
    let view: Arc<dyn Augment> = match arguments.next().as_deref() {
        Some("simclr") => Arc::new(SimclrAugment::cifar(side)),
        _ => Arc::new(EvalTransform::new(side)),
    };
    let config = LoaderConfig {
        batch: COLUMNS * ROWS,
        views: vec![view],
        shuffle: false,
        drop_last: false,
        ..Default::default()
    };
    let Some(batch) = Loader::new(dataset, config)?.next() else {
        return Ok(());
    };
    let sheet = arrange(&batch?.views[0].pixels, side);
    std::fs::write(&path, encode_png(&sheet)?).map_err(|error| Error::io(&path, &error))
}

/// Square RGB pictures, one after the other, on a white sheet.
fn arrange(pixels: &[f32], side: usize) -> Bitmap {
    let (height, width) = (ROWS * (side + GAP) + GAP, COLUMNS * (side + GAP) + GAP);
    let mut sheet = Image { height, width, channels: 3, pixels: vec![1.0; height * width * 3] };
    for (k, picture) in pixels.chunks_exact(side * side * 3).enumerate() {
        let (top, left) = (GAP + k / COLUMNS * (side + GAP), GAP + k % COLUMNS * (side + GAP));
        for (y, row) in picture.chunks_exact(side * 3).enumerate() {
            sheet.pixels[((top + y) * width + left) * 3..][..side * 3].copy_from_slice(row);
        }
    }
    sheet.to_bitmap()
}
