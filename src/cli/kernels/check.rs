//! `selfsame kernels check`: every case, every access; with `--mutate`, whether mistakes would be seen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use selfsame_engine::{Device, Error, ErrorKind, Result};
use selfsame_kernels::host::mutation::{Mutated, Score, score};
use selfsame_kernels::host::{EQUIVALENT, KernelReport, check};
use selfsame_kernels::kernel::KernelSpec;
use serde_json::json;

use super::super::output::Output;
use super::super::{Outcome, Registry};

/// Arguments of `kernels check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel or a family; all when left out
    name: Option<String>,
    /// Further schedules of threads and blocks, random and adversarial, beside the plain order
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// Break each kernel on purpose, one place at a time, and tell what went unnoticed
    #[arg(long)]
    mutate: bool,
    /// Threads; all cores when left out
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// simt: on the host, every access checked; cuda:N: on a GPU, results compared
    #[arg(long, default_value = "simt", value_name = "NAME")]
    device: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let kernels = super::chosen(registry, args.name.as_deref())?;
    if args.device != "simt" {
        return on_device(args, &kernels, out);
    }
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let start = Instant::now();
    let progress = Progress { done: AtomicUsize::new(0), of: kernels.len() };
    let report = check(&kernels, args.seeds, threads, &|_| progress.one_more("checked"));
    let progress = Progress { done: AtomicUsize::new(0), of: kernels.len() };
    let mutate = || score(&kernels, EQUIVALENT, threads, &|_, _| progress.one_more("mutated"));
    let score = args.mutate.then(mutate).transpose();
    let score = score.map_err(|e| Error::new(ErrorKind::Device, "kernels check", e.to_string()))?;
    let seconds = start.elapsed().as_secs_f64();
    if args.json {
        out.json(&json!({
            "kernels": report.kernels.iter().map(kernel_json).collect::<Vec<_>>(),
            "clean": report.is_clean(),
            "mutation": score.as_ref().map(score_json),
            "seconds": seconds,
        }))?;
    } else {
        out.text(&report.to_string())?;
        if let Some(score) = &score {
            out.text(&score.to_string())?;
        }
        out.text(&format!("{seconds:.1} s on {threads} threads"))?;
    }
    // Of a part of the kernels, no more can be asked than that entries for others are not reached.
    let is_noticed = |score: Score| {
        score.survived.is_empty() && score.stale.is_empty() && (args.name.is_some() || score.unreached.is_empty())
    };
    let passed = report.is_clean() && score.is_none_or(is_noticed);
    Ok(if passed { Outcome::Done } else { Outcome::Difference })
}

/// Runs every case on a GPU and compares the results.
fn on_device(args: &Args, kernels: &[&'static KernelSpec], out: &mut Output) -> Result<Outcome> {
    if args.mutate {
        return Err(Error::new(ErrorKind::Config, "kernels check", format!("--mutate on {}", args.device))
            .expected("--device simt, where mistakes can be planted"));
    }
    let device = Device::open(&args.device)?;
    let gpu = device.gpu().ok_or_else(|| {
        Error::new(ErrorKind::Device, "kernels check", format!("--device {}", args.device)).expected("simt or cuda:N")
    })?;
    let (mut cases, mut failures) = (0, Vec::new());
    for kernel in kernels {
        for case in (kernel.cases)() {
            cases += 1;
            let run = gpu.submit(|launcher| Ok(case.run(kernel, launcher)))?;
            failures.extend(run.err().map(|error| format!("{} ({}): {error}", kernel.name, case.name)));
        }
    }
    if args.json {
        out.json(&json!({
            "device": format!("{device:?}"), "kernels": kernels.len(), "cases": cases, "failures": failures,
        }))?;
    } else {
        failures.iter().try_for_each(|failure| out.text(failure))?;
        out.text(&format!("{} kernels, {cases} cases on {device:?}: {} failed", kernels.len(), failures.len()))?;
    }
    Ok(if failures.is_empty() { Outcome::Done } else { Outcome::Difference })
}

/// How many kernels are through, on standard error now and then.
struct Progress {
    done: AtomicUsize,
    of: usize,
}

impl Progress {
    fn one_more(&self, what: &str) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(25) {
            eprintln!("{done} of {} kernels {what}", self.of);
        }
    }
}

fn kernel_json(report: &KernelReport) -> serde_json::Value {
    json!({
        "name": report.kernel,
        "cases": report.cases,
        "runs": report.runs,
        "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failures": report.failures,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

fn score_json(score: &Score) -> serde_json::Value {
    let lines = |mutants: &[Mutated]| -> Vec<String> { mutants.iter().map(ToString::to_string).collect() };
    json!({
        "share": score.share(),
        "killed_by_checker": score.killed_by_checker,
        "killed_by_value": score.killed_by_value,
        "equivalent": score.equivalent.len(),
        "survived": lines(&score.survived),
        "stale": score.stale,
        "unreached": score.unreached,
    })
}
