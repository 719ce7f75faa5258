//! Times of the sums over all pairs of unit vectors and of their gradients, in f32 and from bf16 rows by turns, beside a
//! matrix product of the same run.
//!
//! ```text
//! cargo run --release --example pairs -- [threads] [rows] [dimensions] [repetitions]
//! ```

use selfsame_engine::ops::{self, Excluded, PairSide, PairStatistics, PairTerm};
use selfsame_engine::{Array, DType, Device, Result};
use selfsame_kernels::philox::{Key, Purpose};
use std::time::Instant;

/// The median times of runs that take turns, in seconds, after one turn that does not count.
fn medians<const N: usize>(repetitions: usize, runs: [&dyn Fn() -> Result<()>; N]) -> Result<[f64; N]> {
    let mut times = [const { Vec::new() }; N];
    for repetition in 0..=repetitions {
        for (run, times) in runs.iter().zip(&mut times) {
            let start = Instant::now();
            run()?;
            if repetition > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

fn main() -> Result<()> {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|x| x.parse().ok()).collect();
    let argument = |i: usize, default: usize| arguments.get(i).copied().unwrap_or(default);
    let (threads, n, d, repetitions) = (argument(0, 2), argument(1, 4096), argument(2, 128), argument(3, 5).max(1));
    let device = Device::cpu_with(threads)?;
    let noise = Key::new(0, Purpose::Check).stream(0, 0, 0);
    let (z, _) = ops::l2_normalize(&ops::normal(&[n, d], DType::F32, 0.0, 1.0, &noise, &device)?, 1e-12)?;
    let rounded = ops::cast(&z, DType::BF16)?;
    let product = Array::zeros(&[1024, 1024], DType::F32, &device)?;
    let [seconds] = medians(repetitions, [&|| ops::matmul(&product, &product).map(drop)])?;
    println!("{threads} threads, [{n}, {d}]; a matrix product reaches {:.0} GFLOP/s", 2.0 * 1.024f64.powi(3) / seconds);

    let own = Excluded::Own(ops::arange(n, &device)?);
    let weight = Array::full(1.0f32 / n as f32, &[n], &device)?;
    let pairs = (n * n * d) as f64 * 1e-9;
    for (name, term) in [
        ("fixed shift", PairTerm::ExpShifted { scale: 2.0, shift: 2.0 }),
        ("online", PairTerm::Exp { scale: 2.0 }),
        ("softplus", PairTerm::Softplus { scale: 2.0, bias: -1.0 }),
    ] {
        let forward = |z: &Array| ops::pair_rows_symmetric(z, term, &own, PairStatistics::default());
        let value = forward(&z)?.value;
        let side = PairSide { weight: &weight, value: &value };
        let backward = |z: &Array| ops::pair_rows_symmetric_grad(z, term, &own, side).map(drop);
        let [f, b, f16, b16] = medians(
            repetitions,
            [&|| forward(&z).map(drop), &|| backward(&z), &|| forward(&rounded).map(drop), &|| backward(&rounded)],
        )?;
        for (inputs, f, b) in [("f32", f, b), ("bf16", f16, b16)] {
            println!(
                "{name:12}{inputs:5} forward {:9.2} ms {:5.0} GFLOP/s   backward {:9.2} ms {:5.0} GFLOP/s   both {:9.2} ms",
                f * 1e3,
                pairs / f,
                b * 1e3,
                3.0 * pairs / b,
                (f + b) * 1e3
            );
        }
        println!("{name:12} bf16 is {:.2} times as fast", (f + b) / (f16 + b16));
    }
    Ok(())
}
