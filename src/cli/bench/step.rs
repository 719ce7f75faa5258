//! One training step of SimCLR: CIFAR ResNet-18, two views of 128 images of 32x32, projector 512-512-128, SGD.

use std::time::Duration;

use selfsame_autograd::Tensor;
use selfsame_engine::Result;
use selfsame_methods::trainer::{Plan, Trainer};
use selfsame_methods::{Views, method, settings};

use super::{Bench, Timing};

/// Nominal operations of the step: forward 284.5 GFLOP of the two views, backward twice that.
const FLOP: f64 = 853.6e9;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let spec = method::find("simclr", bench.registry.methods)?;
    let mut config = settings::defaults(spec)?;
    for setting in ["batch=128", "backbone=resnet18", "stem=cifar", "optimizer=sgd"] {
        config.apply_setting(setting)?;
    }
    let plan = Plan::of(&config, 128 * 1000)?;
    let mut trainer = Trainer::new(spec, &config, &plan, bench.device)?;
    let views = || -> Result<Views> {
        let view = |seed| Ok(Tensor::constant(bench.normal(seed, &[128, 32, 32, 3])?));
        Views::new(vec![view(1)?, view(2)?], (0..128).collect())
    };
    let views = views()?;
    let before = resident("VmRSS");
    let mut timing =
        bench.time("simclr step resnet18 2x128", Some(FLOP), || trainer.step(&views, Duration::ZERO).map(drop))?;
    let mib = |bytes: f64| bytes / (1024.0 * 1024.0);
    timing.extra.push(("images", 256.0 / timing.median(), "per s"));
    timing.extra.push(("arrays at most", mib(bench.device.memory().peak as f64), "MiB"));
    if let (Some(before), Some(peak)) = (before, resident("VmHWM")) {
        timing.extra.push(("resident at most", mib(peak), "MiB"));
        timing.extra.push(("above the first step's", mib(peak - before), "MiB"));
    }
    Ok(vec![timing])
}

/// A figure of this process's memory in bytes, where the system tells.
fn resident(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}
