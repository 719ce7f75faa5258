//! NT-Xent alone, forward and backward, 128 dimensions, temperature 0.5: f32, and bf16 inputs.

use selfsame_engine::Result;
use selfsame_losses::{Form, NtXent, nt_xent};

use super::{Bench, Timing};

/// Rows: both views together.
const ROWS: [usize; 4] = [1024, 4096, 16384, 32768];

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for rows in ROWS {
        let z = bench.leaf(1, &[rows, 128])?;
        for (name, form) in [("nt_xent", Form::Streaming), ("nt_xent bf16", Form::Bf16)] {
            let in_use = || bench.device.memory().peak + bench.device.host().scratch_bytes();
            bench.device.host().memory().reset_peak();
            let before = in_use();
            let mut timing = bench.time(format!("{name} {rows}x128 fwd+bwd"), None, || {
                nt_xent(&z, &NtXent { temperature: 0.5, form })?.backward().map(drop)
            })?;
            timing.extra.push(("beyond the input", (in_use() - before) as f64 / MIB, "MiB"));
            timings.push(timing);
        }
    }
    Ok(timings)
}
