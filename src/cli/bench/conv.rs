//! Convolutions, f32, channels last.

use selfsame_engine::ops::{self, Conv2d};
use selfsame_engine::{Array, Result, Rows};

use super::{Bench, Timing};

#[derive(Clone, Copy)]
struct Case {
    images: usize,
    side: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
}

impl Case {
    /// For example `3x3/2 64-128 @32`.
    fn name(&self) -> String {
        let Case { side, channels: [c_in, c_out], kernel, stride, .. } = self;
        let stride = if *stride == 1 { String::new() } else { format!("/{stride}") };
        let channels = if c_in == c_out { c_in.to_string() } else { format!("{c_in}-{c_out}") };
        format!("{kernel}x{kernel}{stride} {channels} @{side}")
    }

    /// The first layer of a network needs no input gradient.
    fn needs_input_grad(&self) -> bool {
        self.channels[0] > 3
    }

    fn operands(&self, bench: &Bench<'_>) -> Result<Operands> {
        let Case { images, side, channels: [c_in, c_out], kernel, stride } = *self;
        let pad = kernel / 2;
        let options = Conv2d { stride: [stride; 2], padding: [pad; 2], ..Conv2d::default() };
        let x = bench.normal(1, &[images, side, side, c_in])?;
        let w = bench.normal(2, &[kernel, kernel, c_in, c_out])?;
        let y = ops::conv2d(&x, &w, &options)?;
        let dy = bench.normal(3, y.shape())?;
        let flop = 2.0 * (y.numel() * kernel * kernel * c_in) as f64;
        Ok(Operands { x, w, dy, options, flop })
    }
}

struct Operands {
    x: Array,
    w: Array,
    dy: Array,
    options: Conv2d,
    /// Of one pass.
    flop: f64,
}

impl Operands {
    fn forward(&self) -> Result<()> {
        ops::conv2d(&self.x, &self.w, &self.options).map(drop)
    }

    fn input_grad(&self) -> Result<()> {
        ops::conv2d_input_grad(&self.dy, &self.w, self.x.shape(), &self.options).map(drop)
    }

    fn weight_grad(&self) -> Result<()> {
        let rows = Rows::of(self.dy.shape(), 0)?;
        ops::conv2d_weight_grad(&self.x, &self.dy, self.w.shape(), &self.options, rows)?.total().map(drop)
    }
}

const fn layer(images: usize, side: usize, channels: [usize; 2], kernel: usize, stride: usize) -> Case {
    Case { images, side, channels, kernel, stride }
}

/// Some of each kind.
const CASES: [Case; 6] = [
    layer(64, 32, [64, 64], 3, 1),
    layer(64, 16, [128, 128], 3, 1),
    layer(64, 8, [256, 256], 3, 1),
    layer(64, 4, [512, 512], 3, 1),
    layer(16, 224, [3, 64], 7, 2),
    layer(64, 14, [256, 1024], 1, 1),
];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for case in CASES {
        let (operands, name) = (case.operands(bench)?, case.name());
        timings.push(bench.time(format!("conv {name} fwd"), Some(operands.flop), || operands.forward())?);
        let passes = if case.needs_input_grad() { 3.0 } else { 2.0 };
        timings.push(bench.time(format!("conv {name} fwd+bwd"), Some(passes * operands.flop), || {
            operands.forward()?;
            if case.needs_input_grad() {
                operands.input_grad()?;
            }
            operands.weight_grad()
        })?);
    }
    Ok(timings)
}

/// Every shape of ResNet-18 on 64 images of 32 pixels and of ResNet-50 on 16 of 224, each once.
const RESNETS: [Case; 32] = [
    layer(64, 32, [3, 64], 3, 1),
    layer(64, 32, [64, 64], 3, 1),
    layer(64, 32, [64, 128], 3, 2),
    layer(64, 32, [64, 128], 1, 2),
    layer(64, 16, [128, 128], 3, 1),
    layer(64, 16, [128, 256], 3, 2),
    layer(64, 16, [128, 256], 1, 2),
    layer(64, 8, [256, 256], 3, 1),
    layer(64, 8, [256, 512], 3, 2),
    layer(64, 8, [256, 512], 1, 2),
    layer(64, 4, [512, 512], 3, 1),
    layer(16, 224, [3, 64], 7, 2),
    layer(16, 56, [64, 64], 1, 1),
    layer(16, 56, [64, 64], 3, 1),
    layer(16, 56, [64, 256], 1, 1),
    layer(16, 56, [256, 64], 1, 1),
    layer(16, 56, [256, 128], 1, 1),
    layer(16, 56, [128, 128], 3, 2),
    layer(16, 56, [256, 512], 1, 2),
    layer(16, 28, [128, 512], 1, 1),
    layer(16, 28, [512, 128], 1, 1),
    layer(16, 28, [128, 128], 3, 1),
    layer(16, 28, [512, 256], 1, 1),
    layer(16, 28, [256, 256], 3, 2),
    layer(16, 28, [512, 1024], 1, 2),
    layer(16, 14, [256, 1024], 1, 1),
    layer(16, 14, [1024, 256], 1, 1),
    layer(16, 14, [256, 256], 3, 1),
    layer(16, 14, [1024, 2048], 1, 2),
    layer(16, 14, [512, 512], 3, 2),
    layer(16, 7, [512, 2048], 1, 1),
    layer(16, 7, [512, 512], 3, 1),
];

/// Each pass alone: forward, input gradient, weight gradient.
pub(super) fn resnets(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let mut timings = Vec::new();
    for case in RESNETS {
        let (operands, name) = (case.operands(bench)?, case.name());
        let mut time = |pass: &str, work: &dyn Fn() -> Result<()>| -> Result<()> {
            timings.push(bench.time(format!("resnet {name} {pass}"), Some(operands.flop), work)?);
            Ok(())
        };
        time("fwd", &|| operands.forward())?;
        if case.needs_input_grad() {
            time("dx", &|| operands.input_grad())?;
        }
        time("dw", &|| operands.weight_grad())?;
    }
    Ok(timings)
}
