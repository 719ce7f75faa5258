//! Times of the sums over all pairs of unit vectors and of their gradients, beside a matrix product of the same run.
//!
//! ```text
//! cargo run --release --example pairs -- [threads] [rows] [dimensions] [repetitions]
//! ```

use selfsame_engine::ops::{self, Excluded, PairSide, PairStatistics, PairTerm};
use selfsame_engine::{Array, DType, Device, Result};
use selfsame_kernels::philox::{Key, Purpose};
use std::time::Instant;

/// The shortest time of `run`, in seconds.
fn best(repetitions: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..repetitions {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn main() -> Result<()> {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|x| x.parse().ok()).collect();
    let argument = |i: usize, default: usize| arguments.get(i).copied().unwrap_or(default);
    let (threads, n, d, repetitions) = (argument(0, 2), argument(1, 4096), argument(2, 128), argument(3, 5));
    let device = Device::cpu_with(threads)?;
    let noise = Key::new(0, Purpose::Check).stream(0, 0, 0);
    let (z, _) = ops::l2_normalize(&ops::normal(&[n, d], DType::F32, 0.0, 1.0, &noise, &device)?, 1e-12)?;
    let product = Array::zeros(&[1024, 1024], DType::F32, &device)?;
    let seconds = best(repetitions, || ops::matmul(&product, &product).map(drop))?;
    println!(
        "{threads} threads, [{n}, {d}] f32; a matrix product reaches {:.0} GFLOP/s",
        2.0 * 1024f64.powi(3) * 1e-9 / seconds
    );

    let own = Excluded::Own(ops::arange(n, &device)?);
    let weight = Array::full(1.0f32 / n as f32, &[n], &device)?;
    let pairs = (n * n * d) as f64 * 1e-9;
    for (name, term) in [
        ("fixed shift", PairTerm::ExpShifted { scale: 2.0, shift: 2.0 }),
        ("online", PairTerm::Exp { scale: 2.0 }),
        ("softplus", PairTerm::Softplus { scale: 2.0, bias: -1.0 }),
    ] {
        let rows = ops::pair_rows_symmetric(&z, term, &own, PairStatistics::default())?;
        let forward =
            best(repetitions, || ops::pair_rows_symmetric(&z, term, &own, PairStatistics::default()).map(drop))?;
        let side = PairSide { weight: &weight, value: &rows.value };
        let backward = best(repetitions, || ops::pair_rows_symmetric_grad(&z, term, &own, side).map(drop))?;
        println!(
            "{name:12} forward {:9.2} ms {:5.0} GFLOP/s   backward {:9.2} ms {:5.0} GFLOP/s   both {:9.2} ms",
            forward * 1e3,
            pairs / forward,
            backward * 1e3,
            3.0 * pairs / backward,
            (forward + backward) * 1e3
        );
    }
    Ok(())
}
