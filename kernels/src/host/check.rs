//! The check of kernels: all their cases under many schedules.

use super::counters::Counters;
use super::finding::Finding;
use super::launcher::{HostLauncher, Options};
use super::schedule::Schedule;
use crate::case::{Case, CaseError};
use crate::kernel::KernelSpec;
use crate::launch::LaunchError;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the check of a kernel found.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// The kernel.
    pub kernel: &'static str,
    /// Its cases.
    pub cases: usize,
    /// Runs of those.
    pub runs: u64,
    /// What the checker reported, each once.
    pub findings: Vec<Finding>,
    /// Cases with wrong values or failed launches, with their schedule.
    pub failures: Vec<String>,
    /// What the cases did, run once in order.
    pub counters: Counters,
    /// The time that it took.
    pub elapsed: Duration,
}

impl KernelReport {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.failures.is_empty()
    }
}

/// What the check of several kernels found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// By kernel.
    pub kernels: Vec<KernelReport>,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.kernels.iter().all(KernelReport::is_clean)
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirty = self.kernels.iter().filter(|report| !report.is_clean());
        for report in dirty {
            writeln!(f, "kernel {}:", report.kernel)?;
            report.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))?;
            report.failures.iter().try_for_each(|failure| writeln!(f, "  {failure}"))?;
        }
        let sum = |of: fn(&KernelReport) -> u64| self.kernels.iter().map(of).sum::<u64>();
        let seconds: f64 = self.kernels.iter().map(|report| report.elapsed.as_secs_f64()).sum();
        let clean = self.kernels.iter().filter(|report| report.is_clean()).count();
        let (cases, runs) = (sum(|report| report.cases as u64), sum(|report| report.runs));
        write!(f, "{clean} of {} kernels clean; {cases} cases, {runs} runs, {seconds:.1} s", self.kernels.len())
    }
}

/// Failures that are kept per kernel.
const KEPT: usize = 8;

/// Runs every case of the kernels in order, and then under `seeds` further schedules, random and adversarial in turn,
/// every third one with pauses between accesses; compares the results and collects what the checker finds. `workers`
/// threads of the host share the kernels. `progress` is called after each kernel.
///
/// The kernels are those of [`crate::device`], or a user's own.
pub fn check(
    kernels: &[&'static KernelSpec],
    seeds: u64,
    workers: usize,
    progress: &(dyn Fn(&KernelReport) + Sync),
) -> CheckReport {
    let kernels = shared_out(kernels, workers, |kernel| {
        let report = check_kernel(kernel, seeds);
        progress(&report);
        report
    });
    CheckReport { kernels }
}

/// Calls `work` on each kernel, on `workers` threads; the results are in the kernels' order.
pub(super) fn shared_out<R: Send>(
    kernels: &[&'static KernelSpec],
    workers: usize,
    work: impl Fn(&'static KernelSpec) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<_> = kernels.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                while let Some((kernel, result)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    kernels.get(index).zip(results.get(index))
                } {
                    *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(work(kernel));
                }
            });
        }
    });
    let done = |result: Mutex<Option<R>>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().filter_map(done).collect()
}

fn check_kernel(kernel: &'static KernelSpec, seeds: u64) -> KernelReport {
    let start = Instant::now();
    let cases = (kernel.cases)();
    let mut report = KernelReport {
        kernel: kernel.name,
        cases: cases.len(),
        runs: 0,
        findings: Vec::new(),
        failures: Vec::new(),
        counters: Counters::default(),
        elapsed: Duration::ZERO,
    };
    let mut launcher = HostLauncher::with(Options::checked());
    report.run(kernel, &cases, &launcher, "in order");
    report.counters = launcher.take_counters().remove(kernel.name).unwrap_or_default();
    for seed in 0..seeds {
        let schedule = if seed % 2 == 0 { Schedule::Random(seed / 2) } else { Schedule::Adversarial(seed / 2) };
        let preempt = if seed % 3 == 2 { NonZeroU32::new(8) } else { None };
        launcher.reschedule(schedule, preempt);
        report.run(kernel, &cases, &launcher, &format!("{schedule:?}"));
    }
    report.elapsed = start.elapsed();
    report
}

impl KernelReport {
    fn run(&mut self, kernel: &'static KernelSpec, cases: &[Case], launcher: &HostLauncher, schedule: &str) {
        for case in cases {
            self.runs += 1;
            match case.run(kernel, launcher) {
                Ok(()) | Err(CaseError::Launch(LaunchError::Findings { .. })) => {}
                Err(error) if self.failures.len() < KEPT => {
                    self.failures.push(format!("case {} ({schedule}): {error}", case.name));
                }
                Err(_) => {}
            }
        }
        for finding in launcher.take_findings() {
            let same =
                |known: &Finding| (known.kind, known.at, &known.memory) == (finding.kind, finding.at, &finding.memory);
            if !self.findings.iter().any(same) {
                self.findings.push(finding);
            }
        }
    }
}
