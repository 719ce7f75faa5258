//! Convolutions, f32, channels last.

use selfsame_engine::ops::{self, Conv2d};
use selfsame_engine::{Result, Rows};

use super::{Bench, Timing};

struct Case {
    name: &'static str,
    images: usize,
    side: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    /// The first layer of a network needs no input gradient.
    input_grad: bool,
}

const fn block(name: &'static str, side: usize, channels: usize) -> Case {
    Case { name, images: 64, side, channels: [channels; 2], kernel: 3, stride: 1, input_grad: true }
}

const CASES: [Case; 6] = [
    block("3x3 64 @32", 32, 64),
    block("3x3 128 @16", 16, 128),
    block("3x3 256 @8", 8, 256),
    block("3x3 512 @4", 4, 512),
    Case { name: "7x7/2 3-64 @224", images: 16, side: 224, channels: [3, 64], kernel: 7, stride: 2, input_grad: false },
    Case {
        name: "1x1 256-1024 @14",
        images: 64,
        side: 14,
        channels: [256, 1024],
        kernel: 1,
        stride: 1,
        input_grad: true,
    },
];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for case in CASES {
        let Case { name, images, side, channels: [c_in, c_out], kernel, stride, input_grad } = case;
        let pad = kernel / 2;
        let options = Conv2d { stride: [stride; 2], padding: [pad; 2], ..Conv2d::default() };
        let x = bench.normal(1, &[images, side, side, c_in])?;
        let w = bench.normal(2, &[kernel, kernel, c_in, c_out])?;
        let y = ops::conv2d(&x, &w, &options)?;
        let dy = bench.normal(3, y.shape())?;
        let flop = 2.0 * (y.numel() * kernel * kernel * c_in) as f64;
        timings.push(bench.time(format!("conv {name} fwd"), Some(flop), || ops::conv2d(&x, &w, &options).map(drop))?);
        let passes = if input_grad { 3.0 } else { 2.0 };
        timings.push(bench.time(format!("conv {name} fwd+bwd"), Some(passes * flop), || {
            ops::conv2d(&x, &w, &options)?;
            if input_grad {
                ops::conv2d_input_grad(&dy, &w, x.shape(), &options)?;
            }
            let rows = Rows::of(dy.shape(), 0)?;
            ops::conv2d_weight_grad(&x, &dy, w.shape(), &options, rows)?.total().map(drop)
        })?);
    }
    Ok(timings)
}
