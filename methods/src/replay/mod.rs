//! Runs a recorded run again, and says whether it computed the same bits; if not, where they first differ.
//!
//! A replay is the same training in a scratch directory, from the beginning or from a checkpoint, with its fingerprints
//! compared as they come ([`replay`]). At the first one that differs, that step alone is run on both sides, from the
//! state before it, with every operation logged; the first entry that differs names the operation, and one more run of
//! the step keeps its result on both sides, which names the element ([`locate`]). The two sides are the recorded
//! execution, made again on the device that the manifest names, and the replaying one; or those of two recorded runs.

mod levels;
mod locate;
mod recorded;
mod scratch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use selfsame_engine::op_log::{Fault, LogOptions};
use selfsame_engine::{Device, Error, ErrorKind, Result};

use crate::observer::Observer;
use crate::run::Fingerprint;
use crate::run::fingerprints::{Digest, Field};
use crate::trainer::{Plan, StepRecord};

pub use levels::Level;
pub use locate::{Place, Side, locate};
pub use recorded::Recorded;
use scratch::Outcome;
pub(crate) use scratch::Scratch;

/// How to run the steps: on what, cut how. None of it may change a bit in strict numerics.
#[derive(Clone)]
pub struct Execution {
    /// The device.
    pub device: Device,
    /// Emulated ranks.
    pub ranks: usize,
    /// Images whose activations are held at a time; 0 for the whole share of a rank.
    pub micro_batch: usize,
    /// Whether micro-batches run one after another with a second forward; as configured when left out.
    pub grad_cache: Option<bool>,
    /// Whether blocks compute their forward again in backward; as configured when left out.
    pub recompute: Option<bool>,
    /// Background threads that prepare images.
    pub workers: usize,
    /// A bit to flip at a step, on purpose: to see that the replay finds it.
    pub fault: Option<(u64, Fault)>,
}

impl Execution {
    /// The whole batch at once on `device`, with one loader worker.
    pub fn on(device: Device) -> Execution {
        Execution { device, ranks: 1, micro_batch: 0, grad_cache: None, recompute: None, workers: 1, fault: None }
    }
}

/// What to replay.
pub struct Replay<'a> {
    /// The run.
    pub recorded: &'a Recorded,
    /// First and last step to compare, of which the run's first is 1; all recorded ones when left out.
    pub steps: Option<(u64, u64)>,
    /// How to run it.
    pub execution: Execution,
    /// Where to leave the replay as a run of its own; a temporary directory when left out.
    pub keep: Option<PathBuf>,
    /// Becomes true when the user asks to stop.
    pub stop: Arc<AtomicBool>,
}

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The step whose state it began from.
    pub from: u64,
    /// The last step that was compared and is the same; `from` when there is none.
    pub through: u64,
    /// Fingerprints that were compared.
    pub compared: u64,
    /// The first difference.
    pub difference: Option<Difference>,
}

/// The first step that differs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The step.
    pub step: u64,
    /// The first of its parts that differs.
    pub field: Field,
    /// Its hash as recorded.
    pub recorded: Digest,
    /// Its hash as replayed.
    pub replayed: Digest,
}

/// Replays a run and compares fingerprints up to the first that differs.
///
/// # Errors
/// `Config` for steps that the run does not have; `Interrupted` when asked to stop; those of training.
pub fn replay(request: &Replay, observer: &mut dyn Observer) -> Result<Verdict> {
    let recorded = request.recorded;
    let (first, last) = recorded.steps(request.steps)?;
    let start = recorded.nearest(first - 1)?;
    let from = start.step();
    let stop = Arc::clone(&request.stop);
    let mut comparer = Comparer::new(recorded, (first, last), &request.execution, Arc::clone(&stop), observer);
    let scratch = Scratch::create(request.keep.clone())?;
    let run = scratch.run(recorded, &request.execution, &start, recorded.every(), stop, &mut comparer)?;
    let Comparer { through, compared, difference, ended, .. } = comparer;
    if run == Outcome::Stopped && !ended {
        return Err(Error::new(ErrorKind::Interrupted, "replay", format!("stopped after step {through}")));
    }
    Ok(Verdict { from, through: through.max(from), compared, difference })
}

/// Compares fingerprints as they come, and ends the run at the last one or at the first that differs.
struct Comparer<'a> {
    recorded: BTreeMap<u64, &'a Fingerprint>,
    last: u64,
    fault: Option<(u64, Fault)>,
    device: Device,
    stop: Arc<AtomicBool>,
    observer: &'a mut dyn Observer,
    through: u64,
    compared: u64,
    difference: Option<Difference>,
    /// Whether this, and not the user, has ended the run.
    ended: bool,
}

impl<'a> Comparer<'a> {
    fn new(
        recorded: &'a Recorded,
        (first, last): (u64, u64),
        execution: &Execution,
        stop: Arc<AtomicBool>,
        observer: &'a mut dyn Observer,
    ) -> Comparer<'a> {
        // The state that the first step begins with counts as well.
        let wanted = first.saturating_sub(1)..=last;
        let lines = recorded.fingerprints().iter().filter(|line| wanted.contains(&line.step));
        Comparer {
            recorded: lines.map(|line| (line.step, line)).collect(),
            last,
            fault: execution.fault,
            device: execution.device.clone(),
            stop,
            observer,
            through: 0,
            compared: 0,
            difference: None,
            ended: false,
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Observer for Comparer<'_> {
    fn begin(&mut self, plan: &Plan, done: u64) {
        self.observer.begin(plan, done);
    }

    fn before_step(&mut self, step: u64) {
        if let Some((_, fault)) = self.fault.filter(|(at, _)| *at == step) {
            self.device.host().op_log().begin(LogOptions { fault: Some(fault), keep: None });
        }
    }

    fn fingerprint(&mut self, found: &Fingerprint) {
        let Some(recorded) = self.recorded.get(&found.step).filter(|_| self.difference.is_none()) else { return };
        self.compared += 1;
        match recorded.first_difference(found) {
            None => self.through = found.step,
            Some((field, recorded, replayed)) => {
                self.difference = Some(Difference { step: found.step, field, recorded, replayed });
                self.end();
            }
        }
    }

    fn measures(&self) -> bool {
        false
    }

    fn step(&mut self, record: &StepRecord) {
        self.device.host().op_log().end();
        self.observer.step(record);
        if record.step >= self.last {
            self.end();
        }
    }

    fn note(&mut self, text: &str) {
        self.observer.note(text);
    }
}
