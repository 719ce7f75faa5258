//! NT-Xent alone, forward and backward, f32, 128 dimensions, temperature 0.5.

use selfsame_engine::Result;
use selfsame_losses::{NtXent, nt_xent};

use super::{Bench, Timing};

/// Rows: both views together.
const ROWS: [usize; 4] = [1024, 4096, 16384, 32768];

const MIB: f64 = (1 << 20) as f64;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for rows in ROWS {
        let z = bench.leaf(1, &[rows, 128])?;
        let in_use = || bench.device.memory().peak + bench.device.host().scratch_bytes();
        bench.device.host().memory().reset_peak();
        let before = in_use();
        let mut timing = bench.time(format!("nt_xent {rows}x128 fwd+bwd"), None, || {
            nt_xent(&z, &NtXent { temperature: 0.5, ..NtXent::default() })?.backward().map(drop)
        })?;
        timing.extra.push(("beyond the input", (in_use() - before) as f64 / MIB, "MiB"));
        timings.push(timing);
    }
    Ok(timings)
}
