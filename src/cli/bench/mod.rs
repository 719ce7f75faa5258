//! `selfsame bench`: our own timings, on the shapes that `benches/peers` gives to other libraries.
//!
//! Medians of repetitions after one that is not counted. FLOP are nominal: a multiply-add is two, padding taps count.

mod augment;
mod conv;
mod gemm;
mod loss;
mod nearest;
mod optim;
mod rows;
mod sinkhorn;
mod step;
mod vit;

use std::time::Instant;

use clap::ValueEnum;
use selfsame_engine::{Array, Device, Result};
use selfsame_kernels::philox::{Key, Purpose};
use serde_json::json;

use super::compute::{Compute, isa, threads};
use super::output::{Output, table};
use super::{Outcome, Registry};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to time; everything when left out
    section: Option<Section>,
    #[command(flatten)]
    compute: Compute,
    /// Counted repetitions
    #[arg(long, default_value_t = 7, value_name = "N")]
    repetitions: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Matrix products
    Gemm,
    /// Convolutions, forward and forward with both gradients
    Conv,
    /// Every shape of convolution of ResNet-18 and ResNet-50, each pass alone
    Resnet,
    /// Softmax, layer norm, batch norm, GELU and ReLU, forward and with gradients
    Rows,
    /// Assignment to centroids, and nearest neighbours
    Nearest,
    /// Two views of 128 images of 32x32, on one thread
    Augment,
    /// A small vision transformer, forward and with gradients
    Vit,
    /// One training step of SimCLR: CIFAR ResNet-18, two views of 128 images
    Step,
    /// NT-Xent, forward and backward
    Loss,
    /// SwAV's codes of a batch of 4096 over 3000 prototypes
    Sinkhorn,
    /// Steps of optimisers over ResNet-50's parameters
    Optim,
}

/// One timed case.
pub(crate) struct Timing {
    name: String,
    /// Seconds of the counted repetitions, ascending.
    seconds: Vec<f64>,
    /// Nominal floating-point operations of one repetition.
    flop: Option<f64>,
    /// More figures: name, value, unit.
    extra: Vec<(&'static str, f64, &'static str)>,
}

impl Timing {
    fn median(&self) -> f64 {
        let n = self.seconds.len();
        (self.seconds[(n - 1) / 2] + self.seconds[n / 2]) / 2.0
    }

    fn gflops(&self) -> Option<f64> {
        self.flop.map(|flop| flop / self.median() / 1e9)
    }
}

/// What the sections work with.
pub(crate) struct Bench<'a> {
    device: &'a Device,
    repetitions: usize,
    registry: &'a Registry,
}

impl Bench<'_> {
    /// Times `work`, once uncounted and then as often as asked for.
    fn time(&self, name: impl Into<String>, flop: Option<f64>, mut work: impl FnMut() -> Result<()>) -> Result<Timing> {
        let name = name.into();
        eprintln!("{name}");
        work()?;
        let mut seconds = Vec::with_capacity(self.repetitions);
        for _ in 0..self.repetitions {
            let started = Instant::now();
            work()?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Timing { name, seconds, flop, extra: Vec::new() })
    }

    /// Normal numbers that depend on `seed` and their position.
    fn normal(&self, seed: u64, shape: &[usize]) -> Result<Array> {
        let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
        Array::from_slice(&values, shape, self.device)
    }
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let device = args.compute.open()?;
    let bench = Bench { device: &device, repetitions: args.repetitions.max(1), registry };
    let wanted = |section| args.section.is_none_or(|only| only == section);
    let mut timings = Vec::new();
    for (section, run) in [
        (Section::Gemm, gemm::run as fn(&Bench<'_>) -> Result<Vec<Timing>>),
        (Section::Conv, conv::run),
        (Section::Resnet, conv::resnets),
        (Section::Rows, rows::run),
        (Section::Nearest, nearest::run),
        (Section::Augment, augment::run),
        (Section::Vit, vit::run),
        (Section::Loss, loss::run),
        (Section::Sinkhorn, sinkhorn::run),
        (Section::Optim, optim::run),
        (Section::Step, step::run),
    ] {
        if wanted(section) {
            timings.extend(run(&bench)?);
        }
    }
    let (threads, isa) = (threads(&device), isa(&device));
    if args.json {
        let timings: Vec<_> = timings
            .iter()
            .map(|t| {
                let mut object = json!({
                    "name": t.name, "median_s": t.median(), "min_s": t.seconds.first(), "max_s": t.seconds.last(),
                    "gflops": t.gflops(),
                });
                for (key, value, unit) in &t.extra {
                    object[format!("{key} {unit}").replace([' ', '/'], "_")] = json!(value);
                }
                object
            })
            .collect();
        out.json(&json!({ "threads": threads, "isa": isa, "repetitions": bench.repetitions, "timings": timings }))?;
        return Ok(Outcome::Done);
    }
    out.text(&format!("{threads} threads, {isa}, medians of {}", bench.repetitions))?;
    let rows: Vec<Vec<String>> = timings
        .iter()
        .map(|t| {
            let ms = |seconds: Option<&f64>| seconds.map_or("-".into(), |s| format!("{:.2}", 1e3 * s));
            let extra: Vec<String> =
                t.extra.iter().map(|(key, value, unit)| format!("{key} {value:.1} {unit}")).collect();
            vec![
                t.name.clone(),
                format!("{:.2}", 1e3 * t.median()),
                format!("{}-{}", ms(t.seconds.first()), ms(t.seconds.last())),
                t.gflops().map_or("-".into(), |g| format!("{g:.0}")),
                extra.join(", "),
            ]
        })
        .collect();
    out.text(&table(&["case", "ms", "range", "GFLOP/s", ""], &[false, true, true, true, false], &rows))?;
    Ok(Outcome::Done)
}
