//! NT-Xent alone, forward and backward, 128 dimensions, temperature 0.5: f32, and bf16 inputs.
//!
//! The embeddings are a formula, so that the libraries of `benches/peers` have the same numbers and must find the same
//! value.

use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Result};
use selfsame_losses::{Form, NtXent, nt_xent};

use super::{Bench, Timing};

/// Rows: both views together.
const ROWS: [usize; 4] = [1024, 4096, 16384, 32768];

const DIMENSIONS: usize = 128;

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for rows in ROWS {
        let values: Vec<f32> = (0..(rows * DIMENSIONS) as u32).map(coordinate).collect();
        let z = Tensor::leaf(Array::from_slice(&values, &[rows, DIMENSIONS], bench.device)?);
        for (name, form) in [("nt_xent", Form::Streaming), ("nt_xent bf16", Form::Bf16)] {
            let in_use = || bench.device.memory().peak + bench.device.host().scratch_bytes();
            bench.device.host().memory().reset_peak();
            let before = in_use();
            let mut value = 0.0;
            let mut timing = bench.time(format!("{name} {rows}x{DIMENSIONS} fwd+bwd"), None, || {
                let loss = nt_xent(&z, &NtXent { temperature: 0.5, form })?;
                value = loss.array().item::<f32>()?;
                loss.backward().map(drop)
            })?;
            timing.extra.push(("loss", f64::from(value), "nats"));
            timing.extra.push(("beyond the input", (in_use() - before) as f64 / MIB, "MiB"));
            timings.push(timing);
        }
    }
    Ok(timings)
}

/// The coordinate at `index` of the rows in order: 24 bits of a hash (the finaliser of MurmurHash3), uniform in [-1, 1)
/// and exact in f32.
fn coordinate(index: u32) -> f32 {
    let mut x = index.wrapping_mul(0x9e37_79b9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^= x >> 16;
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}
