//! What a network does between its products: softmax, layer norm, batch norm and GELU, f32, alone.
//!
//! Forward without a record for backward, or with it and the gradients of a given output gradient.

use selfsame_autograd::Tensor;
use selfsame_autograd::ops::{BatchNorm, BatchStats};
use selfsame_engine::{Result, Rows};

use super::{Bench, Timing};

/// Added to variances.
const EPS: f64 = 1e-5;

/// Rows and length.
const LOGITS: [usize; 2] = [8192, 4096];
/// Tokens of 256 images in 196 patches and a class token, and their dimensions.
const TOKENS: [usize; 2] = [50432, 384];
/// What ResNet-18's first stage has of 256 small images.
const ACTIVATION: [usize; 4] = [256, 32, 32, 64];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    let mut time = |name: &str, shape: &[usize], apply: &dyn Fn([&Tensor; 3]) -> Result<Tensor>| -> Result<()> {
        let channels = &shape[shape.len() - 1..];
        let arrays = [bench.normal(1, shape)?, bench.normal(2, channels)?, bench.normal(3, channels)?];
        let dy = bench.normal(4, shape)?;
        let size = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let constants = arrays.each_ref().map(|array| Tensor::constant(array.clone()));
        timings.push(bench.time(format!("{name} {size} fwd"), None, || apply(constants.each_ref()).map(drop))?);
        let leaves = arrays.map(Tensor::leaf);
        timings.push(bench.time(format!("{name} {size} fwd+bwd"), None, || {
            apply(leaves.each_ref())?.backward_from(dy.clone()).map(drop)
        })?);
        Ok(())
    };
    time("softmax", &LOGITS, &|[x, ..]| x.softmax())?;
    time("log_softmax", &LOGITS, &|[x, ..]| x.log_softmax())?;
    let rows = Rows::of(&TOKENS, 0)?;
    time("layer_norm", &TOKENS, &|[x, gamma, beta]| x.layer_norm(Some(gamma), Some(beta), EPS, rows))?;
    time("gelu", &TOKENS, &|[x, ..]| x.gelu())?;
    let options = BatchNorm { eps: EPS, rows: Rows::of(&ACTIVATION, 0)?, stats: BatchStats::Batch(None) };
    time("batch_norm", &ACTIVATION, &|[x, gamma, beta]| Ok(x.batch_norm(Some(gamma), Some(beta), &options)?.y))?;
    time("relu", &ACTIVATION, &|[x, ..]| x.relu())?;
    Ok(timings)
}
