//! `selfsame profile`: what the steps of a method, or a loss, spend their time and memory on.
//!
//! Before a batch runs, its memory is planned from two small ones (`engine::profile::plan`); then it runs, on a device
//! of its own, and plan and measurement are shown side by side. Several batches make a sweep: a table and a plot.
//! Several losses, or one with different options, are shown side by side: `profile ntxent ntxent:temperature=0.5`.

mod loss;
mod plot;
mod report;
mod sweep;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use selfsame_data::{Split, open};
use selfsame_engine::profile::{MemoryLog, Plan, Probe, Recording, Roof, Trace, Written, plan};
use selfsame_engine::{Device, Error, ErrorKind, Result};
use selfsame_kernels::order::LEAF;
use selfsame_methods::profile::{Profiled, Request, probe_batches};
use selfsame_methods::{Config, MethodSpec, method, settings};
use serde_json::{Value, json};

use super::compute::{Compute, isa, threads};
use super::output::Output;
use super::{Outcome, Registry};
use loss::LossForm;
use report::mib;

/// Arguments of `profile`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A method, or losses to show side by side: NAME or NAME:key=value,key=value
    #[arg(required = true, value_name = "METHOD|LOSS")]
    names: Vec<String>,
    /// Images per step of a method, rows of the embeddings of a loss; several make a sweep
    #[arg(long, value_delimiter = ',', value_name = "N,N,...")]
    batch: Vec<usize>,
    /// Length of the embeddings of a loss
    #[arg(long, default_value_t = 128, value_name = "D")]
    dim: usize,
    /// Data set of a method: scenes, cifar10:DIR, ...
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Configuration file of a method
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// One value of the method's configuration; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Measured steps
    #[arg(long, default_value_t = 5, value_name = "N")]
    steps: usize,
    /// Steps before the measured ones
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: usize,
    /// Background threads that prepare images
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: usize,
    /// Only the plan: nothing but the two small batches it is made from is run
    #[arg(long)]
    plan: bool,
    /// Write a trace of the last batch for ui.perfetto.dev
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Write profile.json, profile.svg, report.txt and trace.json here
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is profiled.
enum Subject {
    Method { spec: &'static MethodSpec, request: Box<Request> },
    Loss(LossForm),
}

/// One batch of one subject.
struct Measured {
    label: String,
    batch: usize,
    planned: Option<Plan>,
    /// Absent when only the plan was asked for.
    run: Option<Run>,
}

/// What a run gave.
struct Run {
    recording: Recording,
    memory: MemoryLog,
    steps: Vec<Duration>,
    /// Bytes that contractions hold beside arrays.
    scratch: usize,
}

impl Run {
    /// The median step.
    fn step(&self) -> Duration {
        let mut steps = self.steps.clone();
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().unwrap_or_default()
    }

    /// Bytes at the peak.
    fn peak(&self) -> usize {
        self.memory.peak().map_or(0, |peak| peak.bytes())
    }

    /// Share of the time of the recorded steps that the loss took, forward and backward; `None` for a loss alone.
    fn loss_share(&self) -> Option<f64> {
        let loss = self.recording.regions.get("loss")?.as_secs_f64();
        Some(loss / self.steps.iter().sum::<Duration>().as_secs_f64())
    }
}

impl Subject {
    fn label(&self) -> String {
        match self {
            Subject::Method { spec, .. } => spec.name.to_string(),
            Subject::Loss(form) => form.label.clone(),
        }
    }

    /// What a batch counts.
    fn unit(&self) -> &'static str {
        match self {
            Subject::Method { .. } => "images",
            Subject::Loss(_) => "rows",
        }
    }

    fn probe(&self, batch: usize, device: &Device) -> Result<Probe> {
        match self {
            Subject::Method { request, .. } => request.probe(batch, device),
            Subject::Loss(form) => form.probe(batch, device),
        }
    }

    fn measure(&self, batch: usize, args: &Args, roof: Option<Roof>) -> Result<Run> {
        let device = args.compute.open()?;
        let Profiled { recording, memory, steps } = match self {
            Subject::Method { request, .. } => with_batch(request, batch)?.run(&device, roof)?,
            Subject::Loss(form) => form.run(batch, (args.warmup, args.steps.max(1)), &device, roof)?,
        };
        Ok(Run { recording, memory, steps, scratch: device.host().scratch_bytes() })
    }

    /// The memory of `batch`, from two small ones.
    fn plan(&self, batch: usize, args: &Args) -> Result<Option<Plan>> {
        let (images, unit) = match self {
            Subject::Method { request, .. } => (request.data.len(), request.unit()?),
            Subject::Loss(_) => (usize::MAX, LEAF),
        };
        let [small, large] = probe_batches(batch, images, unit);
        let probe = |batch| self.probe(batch, &args.compute.open()?);
        Ok(plan(&probe(small)?, &probe(large)?, batch))
    }
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let subjects = subjects(args, registry)?;
    let batches = batches(args, &subjects)?;
    let device = args.compute.open()?;
    let roof = match (&device, args.plan) {
        (Device::Cpu(cpu), false) => Some(Roof::measure(cpu)?),
        _ => None,
    };
    let machine = format!("{}, {} threads, {}", device.name(), threads(&device), isa(&device));
    drop(device);
    let mut text = String::new();
    let mut measured = Vec::new();
    for &batch in &batches {
        for subject in &subjects {
            let (label, unit) = (subject.label(), subject.unit());
            let planned = subject.plan(batch, args)?;
            if let Some(plan) = &planned {
                let sentence = report::plan_sentence(&label, unit, plan);
                if !args.json {
                    out.text(&sentence)?;
                }
                text += &format!("{sentence}\n");
            }
            let run = if args.plan { None } else { Some(subject.measure(batch, args, roof)?) };
            measured.push(Measured { label, batch, planned, run });
        }
    }
    let unit = subjects[0].unit();
    let last = measured.len() - subjects.len();
    for one in &measured[last..] {
        if let Some(run) = &one.run {
            let page = report::page(&machine, unit, one, run, roof);
            if !args.json {
                out.text(&page)?;
            }
            text += &page;
        }
    }
    if measured.len() > 1 {
        let table = sweep::table(unit, &measured);
        if !args.json {
            out.text(&table)?;
        }
        text += &table;
    }
    let traces = write_files(args, &measured, last, &text, unit, &machine, roof)?;
    if args.json {
        let mut object = json_of(&machine, unit, &measured, roof);
        object["traces"] = json!(traces.iter().map(|(path, size)| trace_json(path, size)).collect::<Vec<_>>());
        out.json(&object)?;
    } else {
        for (path, size) in &traces {
            let (events, bytes) = (size.events, size.bytes);
            let each = bytes / events.max(1);
            out.text(&format!("trace {}: {events} events, {bytes} bytes, {each} each", path.display()))?;
        }
    }
    Ok(Outcome::Done)
}

/// One method, or one loss or more.
fn subjects(args: &Args, registry: &Registry) -> Result<Vec<Subject>> {
    let is_method = |name: &str| registry.methods.iter().any(|spec| spec.name == name);
    if let [name] = &args.names[..]
        && is_method(name)
    {
        let spec = method::find(name, registry.methods)?;
        let mut config = settings::resolve(spec, args.config.as_deref(), &args.settings)?;
        if let Some(data) = &args.data {
            settings::set_argument(&mut config, "data", data.as_str())?;
        }
        let data = open(config.str("data")?, Split::Unlabelled)?;
        let (warmup, steps) = (args.warmup, args.steps.max(1));
        let request = Request { spec, config, data, workers: args.workers, warmup, steps };
        return Ok(vec![Subject::Method { spec, request: Box::new(request) }]);
    }
    if let Some(name) = args.names.iter().find(|name| is_method(name)) {
        return Err(Error::new(ErrorKind::Config, "profile", format!("method '{name}' beside others"))
            .expected("one method, or losses"));
    }
    let known: Vec<&str> = registry.methods.iter().map(|spec| spec.name).collect();
    let form = |text: &String| LossForm::parse(text, args.dim, &args.settings, registry.losses, &known);
    args.names.iter().map(|text| form(text).map(Subject::Loss)).collect()
}

/// The batches asked for, or the one of the configuration.
fn batches(args: &Args, subjects: &[Subject]) -> Result<Vec<usize>> {
    let batches = match (&args.batch[..], subjects) {
        ([], [Subject::Method { request, .. }, ..]) => vec![request.config.usize("batch")?],
        ([], _) => vec![4096],
        (given, _) => given.to_vec(),
    };
    if let Some(batch) = batches.iter().find(|batch| **batch < 2) {
        return Err(Error::new(ErrorKind::Config, "--batch", batch.to_string()).expected("at least 2"));
    }
    Ok(batches)
}

fn with_batch(request: &Request, batch: usize) -> Result<Request> {
    let mut config: Config = request.config.clone();
    settings::set_argument(&mut config, "batch", batch as i64)?;
    Ok(Request { config, data: Arc::clone(&request.data), ..*request })
}

/// Writes what was asked for; the traces with their sizes.
fn write_files(
    args: &Args,
    measured: &[Measured],
    last: usize,
    text: &str,
    unit: &str,
    machine: &str,
    roof: Option<Roof>,
) -> Result<Vec<(PathBuf, Written)>> {
    let mut paths: Vec<PathBuf> = args.trace.iter().cloned().collect();
    if let Some(dir) = &args.out {
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            fs::write(&path, content).map_err(|error| Error::io(path.display().to_string(), &error))
        };
        fs::create_dir_all(dir).map_err(|error| Error::io(dir.display().to_string(), &error))?;
        write("report.txt", text)?;
        write("profile.json", &format!("{:#}\n", json_of(machine, unit, measured, roof)))?;
        write("profile.svg", &plot::svg(unit, measured))?;
        paths.push(dir.join("trace.json"));
    }
    let mut traces = Vec::new();
    for path in paths {
        for (number, one) in measured[last..].iter().enumerate() {
            let Some(run) = &one.run else { continue };
            let path = if number == 0 { path.clone() } else { numbered(&path, number + 1) };
            let failed = |error: &std::io::Error| Error::io(path.display().to_string(), error);
            let mut file = BufWriter::new(File::create(&path).map_err(|error| failed(&error))?);
            let size =
                Trace::new(&run.recording, Some(&run.memory)).write(&mut file).map_err(|error| failed(&error))?;
            file.into_inner().map_err(|error| failed(error.error()))?;
            traces.push((path, size));
        }
    }
    Ok(traces)
}

/// `trace.json` as `trace-2.json`.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{number}{extension}"))
}

fn trace_json(path: &Path, size: &Written) -> Value {
    json!({ "file": path, "events": size.events, "bytes": size.bytes })
}

fn json_of(machine: &str, unit: &str, measured: &[Measured], roof: Option<Roof>) -> Value {
    let roof =
        roof.map(|roof| json!({ "flops": roof.flops, "specials": roof.specials, "bytes_per_second": roof.bandwidth }));
    let profiles: Vec<Value> = measured.iter().map(report::json_of).collect();
    json!({ "machine": machine, "unit": unit, "roof": roof, "profiles": profiles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_traces_are_numbered() {
        assert_eq!(numbered(Path::new("a/trace.json"), 2), Path::new("a/trace-2.json"));
        assert_eq!(numbered(Path::new("trace"), 3), Path::new("trace-3"));
    }
}
