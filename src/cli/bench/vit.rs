//! A vision transformer like ViT-Tiny for small images: patches of 4 pixels of 128 images of 32x32, f32.

use selfsame_autograd::Tensor;
use selfsame_engine::Result;
use selfsame_models::backbones::{Backbone, Vit, VitConfig};
use selfsame_models::{Ctx, Init, Module};

use super::{Bench, Timing};

const IMAGES: [usize; 4] = [128, 32, 32, 3];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let config = VitConfig { patch: 4, image: IMAGES[1], ..VitConfig::standard(3) };
    let net = Vit::new(&Init::new(bench.device, 0), &config)?;
    let x = Tensor::constant(bench.normal(1, &IMAGES)?);
    let dy = bench.normal(2, &[IMAGES[0], net.feature_dim()])?;
    Ok(vec![
        bench.time("vit-tiny 128x32x32 fwd", None, || net.forward(&x, &Ctx::train().no_grad()).map(drop))?,
        bench.time("vit-tiny 128x32x32 fwd+bwd", None, || {
            net.forward(&x, &Ctx::train())?.backward_from(dy.clone()).map(drop)
        })?,
    ])
}
