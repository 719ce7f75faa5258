//! NT-Xent alone, forward and backward, f32, 128 dimensions, temperature 0.5.

use selfsame_engine::Result;
use selfsame_losses::{NtXent, nt_xent};

use super::{Bench, Timing};

/// Rows: both views together.
const ROWS: [usize; 2] = [1024, 4096];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for rows in ROWS {
        let z = bench.leaf(1, &[rows, 128])?;
        timings.push(bench.time(format!("nt_xent {rows}x128 fwd+bwd"), None, || {
            nt_xent(&z, &NtXent { temperature: 0.5, ..NtXent::default() })?.backward().map(drop)
        })?);
    }
    Ok(timings)
}
