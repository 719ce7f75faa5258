//! Where a step first differs between two executions: the operation, then the element.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use selfsame_engine::op_log::{Fault, LogOptions, LogPlace, OpRecord, OpTrace};
use selfsame_engine::{Device, Error, ErrorKind, Result, TensorFile, first_difference};

use super::scratch::{Outcome, Scratch, Start};
use super::{Execution, Recorded};
use crate::observer::Observer;
use crate::run::Fingerprint;
use crate::run::fingerprints::{Field, Work};
use crate::trainer::{StepRecord, entries};

/// One of the two executions.
pub struct Side<'a> {
    /// The run: its configuration and data.
    pub recorded: &'a Recorded,
    /// How to run it.
    pub execution: Execution,
}

/// The first place that differs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The step; earlier than asked where the runs recorded only some of their steps.
    pub step: u64,
    /// In words: `operation 214, forward of conv2d in encoder.layer1.0.conv1, output 0`.
    pub what: String,
    /// Shape of the array that differs; empty when it is not known.
    pub shape: Vec<usize>,
    /// Its first element that differs, with both values.
    pub element: Option<selfsame_engine::Difference>,
    /// What else there is to know, such as a side that does not compute what was recorded.
    pub remarks: Vec<String>,
}

/// What a step computed on one side.
struct Traced {
    trace: OpTrace,
    line: Fingerprint,
    scratch: Scratch,
}

/// Runs the step `step`, whose fingerprints first differ in `field`, on both sides and finds the first operation and
/// element that differ. `stop` becomes true when the user asks to stop.
///
/// # Errors
/// `Interrupted` when asked to stop; those of training.
pub fn locate(
    sides: [&Side; 2],
    step: u64,
    field: Field,
    stop: &Arc<AtomicBool>,
    observer: &mut dyn Observer,
) -> Result<Place> {
    let mut place = Place { step, what: field.name().into(), shape: vec![], element: None, remarks: vec![] };
    if matches!(field, Field::Indices | Field::Pixels) {
        place.remarks.push("the data, their order or their augmentation differ: no operation has run yet".into());
        return Ok(place);
    }
    let [left, right] = sides;
    let (start, step) = state_before(sides, step, stop, observer)?;
    place.step = step;
    observer.note(&format!("step {step} again on both sides, every operation logged"));
    let found = [traced(left, &start, step, None, stop)?, traced(right, &start, step, None, stop)?];
    for (side, made) in sides.iter().zip(&found) {
        let Some(recorded) = side.recorded.fingerprint(step).filter(|_| side.execution.fault.is_none()) else {
            continue;
        };
        let Some((field, ..)) = recorded.first_difference(&made.line) else { continue };
        let (device, path) = (side.execution.device.name(), side.recorded.path().display());
        let text = format!("on {device}, this program does not compute what {path} recorded: {} differ", field.name());
        place.remarks.push(text);
        place.remarks.extend(recorded.work.as_ref().and_then(|work| against_record(work, made)));
    }
    match first_entry(&found[0].trace, &found[1].trace) {
        Entry::Same => in_state(&mut place, &found)?,
        Entry::Incomparable(why) => {
            place.remarks.push(why);
            in_state(&mut place, &found)?;
        }
        Entry::At(at, record) => {
            place.what = described(at, record);
            place.shape = record.shape.clone();
            let kept = |side| Ok::<_, Error>(traced(side, &start, step, Some(at), stop)?.trace.kept);
            if let (Some(a), Some(b)) = (kept(left)?, kept(right)?) {
                place.element = first_difference(&a, &b.to_device(a.device())?)?;
            }
        }
    }
    Ok(place)
}

/// The state before the first step that differs, up to the recorded step `step`, and that step.
fn state_before(
    sides: [&Side; 2],
    step: u64,
    stop: &Arc<AtomicBool>,
    observer: &mut dyn Observer,
) -> Result<(Start, u64)> {
    let [left, right] = sides;
    let earlier = |line: &&Fingerprint| line.step < step && right.recorded.fingerprint(line.step).is_some();
    let same = left.recorded.fingerprints().iter().rev().find(earlier).map_or(0, |line| line.step);
    let base = advance(left, left.recorded.nearest(same)?, same, stop, observer)?;
    if step == same + 1 {
        return Ok((base, step));
    }
    observer.note(&format!("steps {} to {step} on both sides: only some were recorded", same + 1));
    let lines = [lines(left, &base, step, stop)?, lines(right, &base, step, stop)?];
    let differs = |(a, b): &(&Fingerprint, &Fingerprint)| a.first_difference(b).is_some();
    let step = lines[0].iter().zip(&lines[1]).find(differs).map_or(step, |(line, _)| line.step);
    Ok((advance(left, base, step - 1, stop, observer)?, step))
}

/// The state at `step`, reached from `start`.
fn advance(side: &Side, start: Start, step: u64, stop: &Arc<AtomicBool>, observer: &mut dyn Observer) -> Result<Start> {
    if start.step() == step {
        return Ok(start);
    }
    observer.note(&format!("from step {} to step {step}, to begin there", start.step()));
    let scratch = Scratch::create(None)?;
    run_until(side, &start, step, None, stop, &scratch)?;
    let saved = scratch.saved()?.filter(|saved| saved.step == step);
    saved.map(Start::Checkpoint).ok_or_else(|| unreached(step))
}

/// Every step's fingerprint, from `start` to `step`.
fn lines(side: &Side, start: &Start, step: u64, stop: &Arc<AtomicBool>) -> Result<Vec<Fingerprint>> {
    let scratch = Scratch::create(None)?;
    Ok(run_until(side, start, step, None, stop, &scratch)?.lines)
}

/// Runs the one step from `start`, with its operations logged and what is at `keep` kept.
fn traced(side: &Side, start: &Start, step: u64, keep: Option<LogPlace>, stop: &Arc<AtomicBool>) -> Result<Traced> {
    let scratch = Scratch::create(None)?;
    let Watcher { trace, mut lines, .. } = run_until(side, start, step, keep, stop, &scratch)?;
    let line = lines.pop().filter(|line| line.step == step).ok_or_else(|| unreached(step))?;
    Ok(Traced { trace: trace.unwrap_or_default(), line, scratch })
}

fn unreached(step: u64) -> Error {
    Error::new(ErrorKind::Config, "replay", format!("step {step} was not reached")).expected("a run of so many steps")
}

/// Runs `side` from `start` to the end of `step` in `scratch`, with the operations of that step logged and what
/// is at `keep` kept.
fn run_until(
    side: &Side,
    start: &Start,
    step: u64,
    keep: Option<LogPlace>,
    stop: &Arc<AtomicBool>,
    scratch: &Scratch,
) -> Result<Watcher> {
    let mut watcher = Watcher {
        device: side.execution.device.clone(),
        stop: Arc::default(),
        user: Arc::clone(stop),
        keep,
        fault: side.execution.fault,
        step,
        trace: None,
        lines: Vec::new(),
    };
    let own = Arc::clone(&watcher.stop);
    let outcome = scratch.run(side.recorded, &side.execution, start, 1, own, &mut watcher)?;
    if outcome == Outcome::Stopped && stop.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Interrupted, "replay", format!("stopped on the way to step {step}")));
    }
    Ok(watcher)
}

/// Logs the operations of one step, keeps all fingerprints, and ends the run after that step.
struct Watcher {
    device: Device,
    stop: Arc<AtomicBool>,
    user: Arc<AtomicBool>,
    keep: Option<LogPlace>,
    fault: Option<(u64, Fault)>,
    step: u64,
    trace: Option<OpTrace>,
    lines: Vec<Fingerprint>,
}

impl Observer for Watcher {
    fn before_step(&mut self, step: u64) {
        let fault = self.fault.filter(|(at, _)| *at == step).map(|(_, fault)| fault);
        if step == self.step || fault.is_some() {
            self.device.host().op_log().begin(LogOptions { keep: self.keep, fault });
        }
    }

    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        self.lines.push(fingerprint.clone());
    }

    fn measures(&self) -> bool {
        false
    }

    fn step(&mut self, record: &StepRecord) {
        let trace = self.device.host().op_log().end();
        if record.step == self.step {
            self.trace = Some(trace);
        }
        if record.step >= self.step || self.user.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Where a step differs from what was recorded of it, as far as the record is dense enough to tell. Its values are not
/// known: only hashes were recorded.
fn against_record(recorded: &Work, made: &Traced) -> Option<String> {
    let now = entries(&made.trace);
    if let Some((then, now)) = recorded.operations.iter().zip(&now).find(|(then, now)| then != now) {
        return Some(format!("of its operations, the first to differ is {now}, recorded as {then}"));
    }
    let now = &made.line.work.as_ref()?.gradient;
    let path = recorded.gradient.iter().find(|(path, digest)| now.get(*path) != Some(digest))?.0;
    Some(format!("of its gradients, the first to differ is that of {path}"))
}

/// How two logs compare.
enum Entry<'a> {
    Same,
    /// Other operations ran.
    Incomparable(String),
    /// The same operation made something else.
    At(LogPlace, &'a OpRecord),
}

fn first_entry<'a>(a: &'a OpTrace, b: &OpTrace) -> Entry<'a> {
    if !a.lanes.keys().eq(b.lanes.keys()) {
        let (a, b) = (a.lanes.len(), b.lanes.len());
        return Entry::Incomparable(format!("the batch was cut in {a} parts and in {b}: operations cannot be paired"));
    }
    let first = a.lanes.iter().zip(b.lanes.values()).filter_map(|((&lane, a), b)| {
        let index = (0..a.len().max(b.len())).find(|&index| a.get(index) != b.get(index))?;
        Some((LogPlace { index, lane }, a.get(index), b.get(index)))
    });
    match first.min_by_key(|(at, ..)| *at) {
        None => Entry::Same,
        Some((at, Some(a), Some(b))) if (OpRecord { hash: 0, ..a.clone() }) == (OpRecord { hash: 0, ..b.clone() }) => {
            Entry::At(at, a)
        }
        Some((at, a, b)) => {
            let name = |record: Option<&OpRecord>| record.map_or("nothing".into(), |record| described(at, record));
            Entry::Incomparable(format!("other operations ran: {} and {}", name(a), name(b)))
        }
    }
}

/// An entry in words.
fn described(at: LogPlace, record: &OpRecord) -> String {
    let OpRecord { op, direction, part, module, .. } = record;
    let module = module.as_ref().map(|module| format!(" in {module}")).unwrap_or_default();
    let lane = if at.lane == 0 { String::new() } else { format!(" of part {}", at.lane) };
    format!("entry {}{lane}, {} of {op}{module}, array {part}", at.index, direction.name())
}

/// Looks at gradients by their hashes, and at the state after the step by its elements.
fn in_state(place: &mut Place, found: &[Traced; 2]) -> Result<()> {
    let [Some(a), Some(b)] = found.each_ref().map(|side| side.line.work.as_ref()) else { return Ok(()) };
    let mut others = a.gradient.iter().filter(|(path, digest)| b.gradient.get(*path) != Some(digest));
    place.what = match others.next() {
        Some((path, _)) => format!("the gradient of {path}, and of {} more parameters", others.count()),
        None => "the update by optimiser, buffers or hooks: all gradients are the same".into(),
    };
    let mut states = Vec::new();
    for side in found {
        let Some(saved) = side.scratch.saved()? else { return Ok(()) };
        let name = side.scratch.path().display().to_string();
        states.push(TensorFile::from_bytes(&saved.payload, &name, &Device::cpu_with(1)?)?.tensors);
    }
    for (name, value) in &states[0] {
        let Some(other) = states[1].get(name) else { continue };
        if let Some(element) = first_difference(value, other)? {
            place.what += &format!("; after the step, the first to differ is {name}");
            (place.shape, place.element) = (value.shape().to_vec(), Some(element));
            return Ok(());
        }
    }
    Ok(())
}
