//! What the profiler costs: a span while it is off and while it is on, and a chain of small primitives with the profiler
//! off and on, alternated. `cargo bench -p selfsame-engine --bench profile`

use selfsame_engine::profile::Work;
use selfsame_engine::{Array, Device, Result, ops};
use std::hint::black_box;
use std::time::Instant;

const SPANS: u32 = 1_000_000;
const ROUNDS: usize = 41;

fn main() -> Result<()> {
    let device = Device::cpu_with(1)?;
    println!("a span, off: {:.2} ns", nanoseconds_per_span(&device));
    device.profiler().start(None);
    println!("a span, on: {:.0} ns", nanoseconds_per_span(&device));
    drop(device.profiler().stop());

    // Primitives of a few microseconds: nothing in a training step has more spans for its time.
    let x = Array::full(0.5f32, &[64, 64], &device)?;
    let (mut off, mut on, mut spans) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        off.push(chain(&x)?);
        device.profiler().start(None);
        on.push(chain(&x)?);
        spans = device.profiler().stop().events.len();
    }
    let (off, on) = (median(off), median(on));
    let off_share = 100.0 * spans as f64 * nanoseconds_per_span(&device) / (1e9 * off);
    println!("{spans} primitives on 64 x 64: off {:.3} ms, on {:.3} ms", 1e3 * off, 1e3 * on);
    println!("cost off: {off_share:.3} % of them; cost on: {:.1} %", 100.0 * (on / off - 1.0));
    Ok(())
}

fn nanoseconds_per_span(device: &Device) -> f64 {
    let started = Instant::now();
    for _ in 0..SPANS {
        drop(black_box(device).span("nothing", || Work::moving(1)));
    }
    1e9 * started.elapsed().as_secs_f64() / f64::from(SPANS)
}

/// Seconds of a chain of small primitives.
fn chain(x: &Array) -> Result<f64> {
    let started = Instant::now();
    for _ in 0..100 {
        let y = ops::softmax(&ops::matmul(x, x)?)?;
        black_box(ops::sum(&ops::mul(&y, x)?, &[1], false)?);
    }
    Ok(started.elapsed().as_secs_f64())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
