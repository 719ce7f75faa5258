//! Speed of products and convolutions: `cargo bench -p selfsame-engine --bench contract -- [THREADS] [NAME …]`.
//!
//! Prints GFLOP/s (median and best of repetitions) in f32; a convolution counts taps in the padding too.

use selfsame_engine::ops::{self, Conv2d};
use selfsame_engine::{Array, Device, Result, Rows};
use std::time::{Duration, Instant};

/// Name, and images, height and width, channels in, channels out, kernel, stride, padding.
const CONVOLUTIONS: [(&str, [usize; 7]); 8] = [
    ("conv3x3_64", [64, 32, 64, 64, 3, 1, 1]),
    ("conv3x3_128", [64, 16, 128, 128, 3, 1, 1]),
    ("conv3x3_256", [64, 8, 256, 256, 3, 1, 1]),
    ("conv3x3_512", [64, 4, 512, 512, 3, 1, 1]),
    ("conv3x3_stride2", [64, 32, 64, 128, 3, 2, 1]),
    ("conv1x1", [64, 16, 256, 64, 1, 1, 0]),
    ("stem3x3", [64, 32, 3, 64, 3, 1, 1]),
    ("stem7x7", [8, 224, 3, 64, 7, 2, 3]),
];

/// At least this long, and at least five times.
const DURATION: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let threads = arguments.iter().find_map(|a| a.parse().ok()).unwrap_or(1);
    let names: Vec<&String> = arguments.iter().filter(|a| a.parse::<usize>().is_err()).collect();
    let device = Device::cpu_with(threads)?;
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|n| name.contains(n.as_str()));
    println!("{threads} threads; GFLOP/s, median and best");

    for n in [256, 512, 1024, 2048] {
        let (a, b) = (operand(&[n, n], 1, &device)?, operand(&[n, n], 2, &device)?);
        let flop = 2.0 * (n as f64).powi(3);
        for (name, a, b) in
            [("nn", a.clone(), b.clone()), ("nt", a.clone(), b.transpose(0, 1)?), ("tn", a.transpose(0, 1)?, b)]
        {
            let name = format!("matmul_{name}_{n}");
            if is_wanted(&name) {
                measure(&name, flop, || ops::matmul(&a, &b).map(drop))?;
            }
        }
    }
    for (name, [n, size, c, c_out, kernel, stride, padding]) in CONVOLUTIONS {
        if !is_wanted(name) {
            continue;
        }
        let options = Conv2d { stride: [stride; 2], padding: [padding; 2], ..Conv2d::default() };
        let x = operand(&[n, size, size, c], 1, &device)?;
        let weight = operand(&[kernel, kernel, c, c_out], 2, &device)?;
        let y = ops::conv2d(&x, &weight, &options)?;
        let flop = (2 * y.numel() * kernel * kernel * c) as f64;
        let rows = Rows::of(y.shape(), 0)?;
        measure(&format!("{name}_forward"), flop, || ops::conv2d(&x, &weight, &options).map(drop))?;
        measure(&format!("{name}_input_grad"), flop, || {
            ops::conv2d_input_grad(&y, &weight, x.shape(), &options).map(drop)
        })?;
        measure(&format!("{name}_weight_grad"), flop, || {
            ops::conv2d_weight_grad(&x, &y, weight.shape(), &options, rows).map(drop)
        })?;
    }
    Ok(())
}

/// Values in [-1, 1) from a linear congruential generator.
fn operand(shape: &[usize], seed: u32, device: &Device) -> Result<Array> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Array::from_slice(&values, shape, device)
}

fn measure(name: &str, flop: f64, mut run: impl FnMut() -> Result<()>) -> Result<()> {
    run()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < DURATION || times.len() < 5 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let rate = |seconds: f64| flop / seconds / 1e9;
    println!("{name:28} {:8.1} {:8.1}", rate(times[times.len() / 2]), rate(times[0]));
    Ok(())
}
