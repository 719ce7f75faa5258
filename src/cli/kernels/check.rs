//! `selfsame kernels check`: every case, every access; with `--mutate`, whether mistakes would be seen.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::host::check::{CheckReport, KernelReport, check};
use selfsame_kernels::host::equivalent::EQUIVALENT;
use selfsame_kernels::host::mutation::{Score, score};
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
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let kernels = super::chosen(registry, args.name.as_deref())?;
    let threads = args.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
    let start = Instant::now();
    let report = CheckReport {
        kernels: for_each(&kernels, threads, |kernel| check(&[kernel], args.seeds, &mut |_| {}).kernels).concat(),
    };
    let score = args.mutate.then(|| mutate(&kernels, threads)).transpose()?;
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
    let passed = report.is_clean() && score.is_none_or(|score| score.survived.is_empty() && score.stale.is_empty());
    Ok(if passed { Outcome::Done } else { Outcome::Difference })
}

/// The results of `work` for each kernel, in order, several at a time; progress on standard error.
fn for_each<R: Send>(
    kernels: &[&'static KernelSpec],
    threads: usize,
    work: impl Fn(&'static KernelSpec) -> R + Sync,
) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(kernel);
                    let mut results = results.lock().expect("no thread panics while it holds the lock");
                    results.push((kernel.name, result));
                    if results.len() % 50 == 0 {
                        eprintln!("{} of {} kernels", results.len(), kernels.len());
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no thread panicked with the lock");
    let place = |name: &str| kernels.iter().position(|kernel| kernel.name == name);
    results.sort_by_key(|(name, _)| place(name));
    results.into_iter().map(|(_, result)| result).collect()
}

fn mutate(kernels: &[&'static KernelSpec], threads: usize) -> Result<Score> {
    let mut total = Score::default();
    for score in for_each(kernels, threads, |kernel| score(&[kernel], EQUIVALENT, &mut |_, _| {})) {
        let score = score.map_err(|e| Error::new(ErrorKind::Device, "kernels check", e.to_string()))?;
        total.killed_by_checker += score.killed_by_checker;
        total.killed_by_value += score.killed_by_value;
        total.equivalent.extend(score.equivalent);
        total.survived.extend(score.survived);
        total.stale.extend(score.stale);
        total.elapsed += score.elapsed;
    }
    Ok(total)
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
    let lines = |mutants: &[selfsame_kernels::host::mutation::Mutated]| -> Vec<String> {
        mutants.iter().map(ToString::to_string).collect()
    };
    json!({
        "share": score.share(),
        "killed_by_checker": score.killed_by_checker,
        "killed_by_value": score.killed_by_value,
        "equivalent": score.equivalent.len(),
        "survived": lines(&score.survived),
        "stale": score.stale,
    })
}
