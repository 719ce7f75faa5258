//! `selfsame replay`: a recorded run again, and where it first differs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use selfsame_engine::op_log::{Fault, LogPlace};
use selfsame_engine::{Device, ErrorKind, Result};
use selfsame_methods::Observer;
use selfsame_methods::replay::{self, Difference, Execution, Level, Place, Recorded, Replay, Side, Verdict, locate};
use selfsame_methods::run::fingerprints::{Digest, Field};
use serde_json::{Value, json};

use super::compute::Compute;
use super::output::Output;
use super::progress::Progress;
use super::{Outcome, Registry, interrupt};

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory
    dir: PathBuf,
    /// First and last step to compare, both included; all recorded ones when left out
    #[arg(long, value_name = "A..B", value_parser = steps)]
    steps: Option<(u64, u64)>,
    #[command(flatten)]
    compute: Compute,
    /// Emulated ranks
    #[arg(long, default_value_t = 1, value_name = "R")]
    ranks: usize,
    /// Images whose activations are held at a time, a multiple of 16; 0 for all
    #[arg(long, default_value_t = 0, value_name = "B")]
    micro_batch: usize,
    /// Background threads that prepare images
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: usize,
    /// Leave the replay as a run in this directory, to be created
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Name the step that differs, and do not look for the operation
    #[arg(long)]
    no_locate: bool,
    /// Flip a bit on purpose, in what entry ENTRY of the log of step STEP made: to see that it is found
    #[arg(long, value_name = "STEP:ENTRY:ELEMENT:BIT", value_parser = flip)]
    flip: Option<(u64, Fault)>,
    /// Replay under every condition that may not change a bit: threads, loader workers, micro-batches, ranks,
    /// instruction sets, kernels on the host
    #[arg(long, conflicts_with_all = ["out", "flip", "ranks", "micro_batch", "workers", "device", "threads", "numerics"])]
    levels: bool,
    /// Of the levels leave out portable loops and kernels on the host, which take a hundred times as long as the others
    #[arg(long, requires = "levels")]
    skip_slow: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let recorded = Recorded::open(&args.dir, registry.methods)?;
    let stop = interrupt::listen()?;
    if args.levels {
        return levels(args, &recorded, stop, out);
    }
    let device = args.compute.open()?;
    let differences = said_differences(&recorded, &device);
    let execution = Execution {
        ranks: args.ranks,
        micro_batch: args.micro_batch,
        workers: args.workers,
        fault: args.flip,
        ..Execution::on(device)
    };
    let mut progress = Progress::new(recorded.config().at_least("log_every", 1)? as u64);
    let request = Replay {
        recorded: &recorded,
        steps: args.steps,
        execution: execution.clone(),
        keep: args.out.clone(),
        stop: Arc::clone(&stop),
    };
    let verdict = replay::replay(&request, &mut progress);
    progress.finish();
    let verdict = verdict?;
    let mut place = None;
    let mut remark = None;
    if let Some(difference) = verdict.difference.as_ref().filter(|_| !args.no_locate) {
        match place_of(&recorded, difference, execution, &mut progress) {
            Ok(found) => place = Some(found),
            Err(error) => remark = Some(format!("the operation was not looked for: {}", error.sentence())),
        }
    }
    if args.json {
        out.json(&json!({
            "from": verdict.from, "through": verdict.through, "compared": verdict.compared,
            "differences": differences, "difference": verdict.difference.as_ref().map(difference_json),
            "place": place.as_ref().map(place_json), "remark": remark,
        }))?;
    } else {
        out.text(&sentence(&verdict))?;
        if let Some(difference) = &verdict.difference {
            out.text(&difference_text(difference, ["recorded", "replayed"]))?;
        }
        if let Some(place) = &place {
            out.text(&place_text(place, ["recorded", "replayed"]))?;
        }
        if let Some(remark) = &remark {
            out.text(remark)?;
        }
    }
    Ok(if verdict.difference.is_none() { Outcome::Done } else { Outcome::Difference })
}

/// What differs from the recording but for its execution, said before anything runs.
fn said_differences(recorded: &Recorded, device: &Device) -> Vec<String> {
    let differences = recorded.differences(device);
    differences.iter().for_each(|text| eprintln!("differs: {text}"));
    differences
}

/// Where the recorded execution, made again, and `execution` first differ.
fn place_of(
    recorded: &Recorded,
    difference: &Difference,
    execution: Execution,
    observer: &mut dyn Observer,
) -> Result<Place> {
    let sides = [&Side { recorded, execution: recorded.execution(difference.step)? }, &Side { recorded, execution }];
    // What stopped the replay was the difference: that flag is up.
    locate(sides, difference.step, difference.field, &Arc::default(), observer)
}

/// Every level, a line each as it ends. A level that the method refuses is no difference, and is counted apart.
fn levels(args: &Args, recorded: &Recorded, user: Arc<AtomicBool>, out: &mut Output) -> Result<Outcome> {
    let mut levels = recorded.levels(args.steps)?;
    let differences = levels.first().map_or(Vec::new(), |level| said_differences(recorded, &level.execution.device));
    levels.retain(|level| !(args.skip_slow && level.slow));
    let width = levels.iter().map(|level| level.what.len()).max().unwrap_or(0);
    let mut objects = Vec::new();
    let [mut identical, mut refused, mut different] = [0; 3];
    for Level { name, what, execution, steps, .. } in levels {
        let request = Replay { recorded, steps: Some(steps), execution, keep: None, stop: Arc::default() };
        let started = Instant::now();
        let verdict = replay::replay(&request, &mut Stopping { user: &user, stop: Arc::clone(&request.stop) });
        let seconds = started.elapsed().as_secs_f64();
        let (state, count, result) = match verdict {
            Ok(verdict) if verdict.difference.is_none() => ("identical", &mut identical, sentence(&verdict)),
            Ok(verdict) => ("different", &mut different, sentence(&verdict)),
            Err(error) if error.kind() == ErrorKind::Numerics => {
                ("refused", &mut refused, format!("refused: {}", error.sentence()))
            }
            Err(error) => return Err(error),
        };
        *count += 1;
        let line = format!("{name}  {what:<width$}  {seconds:7.1} s  {result}");
        if args.json {
            eprintln!("{line}");
        } else {
            out.text(&line)?;
        }
        objects.push(json!({ "level": name, "what": what, "state": state, "result": result, "seconds": seconds }));
    }
    if args.json {
        out.json(&json!({
            "differences": differences, "levels": objects,
            "identical": identical, "refused": refused, "different": different,
        }))?;
    } else {
        out.text(&format!("{identical} identical, {refused} refused, {different} different"))?;
    }
    Ok(if different == 0 { Outcome::Done } else { Outcome::Difference })
}

/// Passes the user's wish to stop on to one of many replays.
struct Stopping<'a> {
    user: &'a AtomicBool,
    stop: Arc<AtomicBool>,
}

impl Observer for Stopping<'_> {
    fn step(&mut self, _: &selfsame_methods::trainer::StepRecord) {
        if self.user.load(std::sync::atomic::Ordering::Relaxed) {
            self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn sentence(verdict: &Verdict) -> String {
    match verdict.difference {
        None => format!("identical through step {}: {} fingerprints", verdict.through, verdict.compared),
        Some(_) if verdict.compared < 2 => "the first fingerprint differs".to_string(),
        Some(_) => format!("identical through step {}", verdict.through),
    }
}

/// A difference as a sentence; `names` are those of the two sides.
pub(crate) fn difference_text(difference: &Difference, names: [&str; 2]) -> String {
    let Difference { step, field, recorded, replayed } = difference;
    let value = |digest: Digest| match field {
        Field::Loss => format!("{:?} ({digest})", f64::from_bits(digest.0)),
        _ => digest.to_string(),
    };
    let [first, second] = names;
    format!("step {step} differs in {}: {} {first}, {} {second}", field.name(), value(*recorded), value(*replayed))
}

/// A place as sentences.
pub(crate) fn place_text(place: &Place, names: [&str; 2]) -> String {
    let mut text = format!("first difference at step {}: {}", place.step, place.what);
    if let Some(found) = &place.element {
        let [a, b] = [0, 1].map(|side| format!("{} (0x{}) {}", found.values[side], found.bits[side], names[side]));
        let (shape, elements) = (&place.shape, place.shape.iter().product::<usize>());
        text += &format!("\nelement {:?} of {shape:?}: {a}, {b}; {} of {elements} differ", found.index, found.count);
    }
    place.remarks.iter().for_each(|remark| text += &format!("\n{remark}"));
    text
}

/// A difference for `--json`.
pub(crate) fn difference_json(difference: &Difference) -> Value {
    let Difference { step, field, recorded, replayed } = difference;
    json!({ "step": step, "field": field.name(), "values": [recorded.to_string(), replayed.to_string()] })
}

/// A place for `--json`.
pub(crate) fn place_json(place: &Place) -> Value {
    let element = place
        .element
        .as_ref()
        .map(|found| json!({ "index": found.index, "values": found.values, "bits": found.bits, "count": found.count }));
    json!({
        "step": place.step, "what": place.what, "shape": place.shape, "element": element, "remarks": place.remarks,
    })
}

fn steps(text: &str) -> std::result::Result<(u64, u64), String> {
    let wrong = || format!("'{text}': expected A..B, two steps of which the first is 1, both included");
    let (first, last) = text.split_once("..").ok_or_else(wrong)?;
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if 1 <= first && first <= last => Ok((first, last)),
        _ => Err(wrong()),
    }
}

fn flip(text: &str) -> std::result::Result<(u64, Fault), String> {
    let numbers: Option<Vec<u64>> = text.split(':').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[step, entry, element, bit]) if bit < 32 => {
            let place = LogPlace { index: entry as usize, lane: 0 };
            Ok((step, Fault { place, element: element as usize, bit: bit as u32 }))
        }
        _ => Err(format!("'{text}': expected STEP:ENTRY:ELEMENT:BIT, four numbers, the last below 32")),
    }
}
