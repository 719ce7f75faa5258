//! Matrix products, f32. `nt`: the right operand is stored transposed.

use selfsame_engine::{Result, ops};

use super::{Bench, Timing};

/// (m, k, n, whether the right operand is transposed)
const CASES: [(usize, usize, usize, bool); 7] = [
    (1024, 1024, 1024, false),
    (2048, 2048, 2048, false),
    (2048, 2048, 2048, true),
    (256, 512, 512, true),
    (256, 2048, 2048, true),
    (4096, 128, 4096, true),
    (16384, 128, 4096, true),
];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for (m, k, n, transposed) in CASES {
        let a = bench.normal(1, &[m, k])?;
        let b = if transposed { bench.normal(2, &[n, k])?.transpose(0, 1)? } else { bench.normal(2, &[k, n])? };
        let name = format!("gemm {m}x{k}x{n}{}", if transposed { " nt" } else { "" });
        timings.push(bench.time(name, Some(2.0 * (m * k * n) as f64), || ops::matmul(&a, &b).map(drop))?);
    }
    Ok(timings)
}
