//! `selfsame doctor`: what works on this machine, and whether its bits are right.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use selfsame_autograd::Tensor;
use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Array, Device, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_methods::run::fingerprints::Digest;
use selfsame_methods::trainer::{Plan, Trainer};
use selfsame_methods::{Views, method, settings, weights_hash};
use serde_json::json;

use super::compute::Compute;
use super::output::{Output, table};
use super::{Outcome, Registry, bits, survey};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare the hashes of every operation, loss and method with the table that the program carries
    #[arg(long)]
    bits: bool,
    /// With --bits: write what this machine computes as such a table
    #[arg(long, value_name = "FILE", requires = "bits")]
    write: Option<PathBuf>,
    /// With --bits: device to compute on, in strict numerics
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// With --bits: threads of the CPU device; all cores when left out
    #[arg(long, value_name = "N", requires = "bits")]
    threads: Option<usize>,
    /// Measure the error of every element function in f32 instead
    #[arg(long, conflicts_with = "bits")]
    math: bool,
    /// With --math: take every N-th of all 2^32 inputs; 1 takes all, which is minutes for each function
    #[arg(long, value_name = "N", default_value_t = 4001, requires = "math",
          value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    stride: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Devices to open; the first GPU stands for all.
const DEVICES: [&str; 3] = ["cpu", "cuda:0", "simt"];

/// Training steps of the self-check: the second one uses what the first one wrote.
const STEPS: usize = 2;

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    if args.bits {
        return golden_bits(args, registry, out);
    }
    if args.math {
        return survey::run(args.stride, args.json, out);
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let isas: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let memory = memory_gib();
    let terminal = std::io::stderr().is_terminal();
    let mut checks = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 2] {
            eprintln!("checking bits: {isa}, {threads} thread{}", if threads == 1 { "" } else { "s" });
            checks.push((isa.name(), threads, step_hash(registry, isa, threads)?));
        }
    }
    let reference = &checks[0].2;
    let agree = checks.iter().all(|(_, _, hash)| hash == reference);
    let devices: BTreeMap<&str, String> = DEVICES.map(|name| (name, state(name))).into();
    if args.json {
        let checks: Vec<_> =
            checks.iter().map(|(isa, threads, hash)| json!({ "isa": isa, "threads": threads, "hash": hash })).collect();
        out.json(&json!({
            "version": env!("CARGO_PKG_VERSION"), "platform": platform(), "cores": cores, "isa": isas,
            "memory_gib": memory, "terminal": terminal, "devices": devices, "bits": checks, "bits_agree": agree,
        }))?;
    } else {
        let memory = memory.map_or("unknown".into(), |gib| format!("{gib:.1} GiB"));
        let rows = [
            ("version", env!("CARGO_PKG_VERSION").to_string()),
            ("platform", platform()),
            ("cores", cores.to_string()),
            ("instruction sets", isas.join(", ")),
            ("memory", memory),
            ("progress", if terminal { "bar (standard error is a terminal)" } else { "plain lines" }.to_string()),
        ];
        let rows = rows.map(|(key, value)| vec![key.to_string(), value]).into_iter();
        let devices = devices.iter().map(|(name, state)| vec![format!("device {name}"), state.clone()]);
        let rows: Vec<Vec<String>> = rows.chain(devices).collect();
        out.text(&table(&["what", "found"], &[false; 2], &rows))?;
        let rows: Vec<Vec<String>> = checks
            .iter()
            .map(|(isa, threads, hash)| vec![isa.to_string(), threads.to_string(), hash.clone()])
            .collect();
        out.text("")?;
        out.text(&table(&["bits: set", "threads", "weights after two steps"], &[false, true, false], &rows))?;
        out.text(if agree { "all agree" } else { "they differ: please report this machine" })?;
    }
    Ok(if agree { Outcome::Done } else { Outcome::Difference })
}

/// The golden bits on the device asked for.
fn golden_bits(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let numerics = Some("strict".to_string());
    let device = Compute { device: args.device.clone(), threads: args.threads, numerics }.open()?;
    eprintln!("computing the bits of every operation, loss and method on {device:?}");
    let entries = bits::entries(registry, &device)?;
    if let Some(path) = &args.write {
        bits::write(path, &entries)?;
    }
    let different = entries.iter().filter(|entry| entry.differs()).count();
    let unknown = entries.iter().filter(|entry| entry.expected.is_none()).count();
    let text = |digest: Option<Digest>| digest.map_or("-".to_string(), |digest| digest.to_string());
    if args.json {
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                json!({
                    "kind": entry.kind, "name": entry.name, "found": entry.found.to_string(),
                    "expected": entry.expected.map(|digest| digest.to_string()),
                })
            })
            .collect();
        out.json(&json!({ "bits": rows, "different": different, "unknown": unknown }))?;
    } else {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .filter(|entry| entry.expected != Some(entry.found))
            .map(|entry| vec![entry.kind.into(), entry.name.into(), text(Some(entry.found)), text(entry.expected)])
            .collect();
        if !rows.is_empty() {
            out.text(&table(&["kind", "name", "found", "expected"], &[false; 4], &rows))?;
        }
        let same = entries.len() - different - unknown;
        out.text(&format!("{same} of {} hashes are those of the table, {different} differ", entries.len()))?;
    }
    Ok(if different == 0 { Outcome::Done } else { Outcome::Difference })
}

/// Hash of all weights after a few steps of a small SimCLR: convolutions, norms, loss and optimiser are all in it.
fn step_hash(registry: &Registry, isa: Isa, threads: usize) -> Result<String> {
    let device = Device::Cpu(CpuDevice::with_isa(threads, isa)?);
    let spec = method::find("simclr", registry.methods)?;
    let mut config = settings::defaults(spec)?;
    for setting in ["batch=24", "size=16", "backbone=resnet-small", "width=0.5"] {
        config.apply_setting(setting)?;
    }
    let plan = Plan::of(&config, 24 * STEPS)?;
    let mut trainer = Trainer::new(spec, &config, &plan, &device)?;
    for step in 0..STEPS {
        let view = |number: u16| {
            let mut stream = Key::new(0, Purpose::Check).stream(step as u64, 0, number);
            let pixels: Vec<f32> = (0..24 * 16 * 16 * 3).map(|_| stream.uniform_f32()).collect();
            Ok(Tensor::constant(Array::from_slice(&pixels, &[24, 16, 16, 3], &device)?))
        };
        trainer.step(&Views::new(vec![view(0)?, view(1)?], (0..24).collect())?, Duration::ZERO)?;
    }
    weights_hash(trainer.params())
}

/// Whether a device opens, and with what; or why not.
fn state(name: &str) -> String {
    match Device::open(name) {
        Err(error) => error.sentence(),
        Ok(device) => match device.gpu().and_then(|gpu| gpu.product_library()) {
            Some(library) => format!("works, with {library}"),
            None => "works".to_string(),
        },
    }
}

fn platform() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Memory of the machine, where the system tells.
fn memory_gib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / (1024.0 * 1024.0))
}
