//! `selfsame compare`: two runs side by side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selfsame_engine::Result;
use selfsame_methods::Observer;
use selfsame_methods::replay::{Difference, Place, Recorded, Side, locate};
use selfsame_methods::run::fingerprints::{self, Fingerprint};
use selfsame_methods::run::metrics::{self, Record, series};
use selfsame_methods::run::report::{self, Curve, Headline, Report, Series};
use selfsame_methods::run::{Manifest, RunDir};
use serde_json::{Value, json};

use super::output::{Output, table};
use super::progress::Progress;
use super::replay::{difference_json, difference_text, place_json, place_text};
use super::{Outcome, Registry};

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory
    first: PathBuf,
    /// Run directory
    second: PathBuf,
    /// Run the first step that differs again, on both sides, to name the operation and the element
    #[arg(long)]
    locate: bool,
    /// Write a page with plots of both runs
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Keys whose values depend on the clock or the machine, and so never show a difference of the computation.
const MEASURED: [&str; 3] = ["time/", "memory/", "images_per_second"];

/// Names of the two runs in sentences.
const NAMES: [&str; 2] = ["in the first", "in the second"];

/// What is compared of a run.
struct Run {
    config: toml::Table,
    manifest: Manifest,
    records: Vec<Record>,
    /// Empty when the run recorded none.
    fingerprints: Vec<Fingerprint>,
}

/// What the fingerprints of both say.
struct Bits {
    /// Steps that both recorded.
    compared: usize,
    /// The last of them that is the same, with all before it.
    through: Option<u64>,
    difference: Option<Difference>,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let (first, second) = (read(&args.first)?, read(&args.second)?);
    let settings = different_settings(&first.config, &second.config);
    let values = last_values(&first.records, &second.records);
    let metric = first_difference(&first.records, &second.records);
    let bits = compare_bits(&first.fingerprints, &second.fingerprints);
    let hashes = [&first, &second].map(|run| run.manifest.weights_hash.clone());
    let place = match &bits.difference {
        Some(difference) if args.locate => Some(place_of(args, registry, difference)?),
        _ => None,
    };
    if let Some(path) = &args.report {
        report::write(path, &page(args, [&first, &second], &bits, place.as_ref()))?;
    }
    if args.json {
        let settings: Vec<_> =
            settings.iter().map(|(key, a, b)| json!({ "key": key, "first": a, "second": b })).collect();
        let last: serde_json::Map<String, Value> =
            values.iter().map(|(key, a, b)| (key.clone(), json!([a, b]))).collect();
        let at = metric.as_ref().map(|(step, key)| json!({ "step": step, "key": key }));
        out.json(&json!({
            "configuration": settings, "last": last, "first_difference": at, "weights_hash": hashes,
            "fingerprints": {
                "compared": bits.compared, "through": bits.through,
                "difference": bits.difference.as_ref().map(difference_json), "place": place.as_ref().map(place_json),
            },
        }))?;
    } else {
        if !settings.is_empty() {
            let rows: Vec<Vec<String>> = settings.into_iter().map(|(key, a, b)| vec![key, a, b]).collect();
            out.text(&table(&["configuration", "first", "second"], &[false; 3], &rows))?;
            out.text("")?;
        }
        let number = |value: &Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.6}"));
        let rows: Vec<Vec<String>> = values.iter().map(|(key, a, b)| vec![key.clone(), number(a), number(b)]).collect();
        out.text(&table(&["last value", "first", "second"], &[false, true, true], &rows))?;
        let name = |hash: &Option<String>| hash.clone().unwrap_or_else(|| "unfinished".into());
        out.text(&format!("weights {} and {}", name(&hashes[0]), name(&hashes[1])))?;
        out.text(&match &metric {
            Some((step, key)) => format!("first difference at step {step}: {key}"),
            None => "the metrics are the same to the bit".to_string(),
        })?;
        bits.sentences().iter().try_for_each(|text| out.text(text))?;
        place.iter().try_for_each(|place| out.text(&place_text(place, NAMES)))?;
    }
    let same = metric.is_none() && bits.difference.is_none() && hashes[0] == hashes[1];
    Ok(if same { Outcome::Done } else { Outcome::Difference })
}

fn read(path: &Path) -> Result<Run> {
    let run = RunDir::open(path)?;
    let file = run.fingerprints_path();
    Ok(Run {
        config: run.read_config()?,
        manifest: run.read_manifest()?,
        records: metrics::read(&run.metrics_path())?,
        fingerprints: if file.exists() { fingerprints::read(&file)? } else { Vec::new() },
    })
}

fn compare_bits(first: &[Fingerprint], second: &[Fingerprint]) -> Bits {
    let other = |step: u64| second.iter().find(|line| line.step == step);
    let mut bits = Bits { compared: 0, through: None, difference: None };
    for (a, b) in first.iter().filter_map(|a| Some((a, other(a.step)?))) {
        bits.compared += 1;
        match a.first_difference(b) {
            None => bits.through = Some(a.step),
            Some((field, recorded, replayed)) => {
                bits.difference = Some(Difference { step: a.step, field, recorded, replayed });
                break;
            }
        }
    }
    bits
}

impl Bits {
    fn sentences(&self) -> Vec<String> {
        let mut texts: Vec<String> =
            self.through.iter().map(|step| format!("fingerprints identical through step {step}")).collect();
        texts.extend(self.difference.as_ref().map(|difference| difference_text(difference, NAMES)));
        if self.compared == 0 {
            texts.push("no step has a fingerprint in both".into());
        }
        texts
    }
}

/// Where both runs, made again, first differ.
fn place_of(args: &Args, registry: &Registry, difference: &Difference) -> Result<Place> {
    let open = |path: &Path| Recorded::open(path, registry.methods);
    let (first, second) = (open(&args.first)?, open(&args.second)?);
    let execution = |recorded: &Recorded| recorded.execution(difference.step);
    let sides = [
        &Side { execution: execution(&first)?, recorded: &first },
        &Side { execution: execution(&second)?, recorded: &second },
    ];
    let mut progress = Progress::new(1);
    let observer: &mut dyn Observer = &mut progress;
    let place = locate(sides, difference.step, difference.field, &Arc::default(), observer);
    progress.finish();
    place
}

/// A page with the curves of both runs.
fn page(args: &Args, runs: [&Run; 2], bits: &Bits, place: Option<&Place>) -> Report {
    let names = [&args.first, &args.second].map(|path| path.display().to_string());
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.records).flat_map(|record| &record.values) {
        if key != "epoch" && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let curve = |key: &&str| Curve {
        title: key.to_string(),
        x_label: "step".into(),
        y_label: String::new(),
        series: (0..2).map(|i| Series { label: names[i].clone(), points: series(&runs[i].records, key) }).collect(),
        constants: Vec::new(),
    };
    let headline =
        |label: &str, value: String, detail: String| Headline { label: label.into(), value, detail, fraction: None };
    let mut headlines = vec![headline(
        "identical through step",
        bits.through.map_or("-".into(), |step| step.to_string()),
        format!("of {} steps with fingerprints in both", bits.compared),
    )];
    headlines.extend(bits.difference.as_ref().map(|difference| {
        let detail = difference_text(difference, NAMES);
        headline("first difference", format!("step {}", difference.step), detail)
    }));
    headlines.extend(place.map(|place| headline("first operation", place.what.clone(), place_text(place, NAMES))));
    let second = runs[1].manifest.rows();
    let both = |(key, a): (String, String)| {
        let b = second.iter().find(|(other, _)| *other == key).map_or("-", |(_, value)| value);
        let value = if a == b { a } else { format!("{a} | {b}") };
        (key, value)
    };
    let manifest = runs[0].manifest.rows().into_iter().map(both).collect();
    Report {
        title: format!("{} and {}", names[0], names[1]),
        subtitle: "Two runs side by side".into(),
        headlines,
        curves: keys.iter().map(curve).collect(),
        manifest,
        ..Report::default()
    }
}

fn different_settings(first: &toml::Table, second: &toml::Table) -> Vec<(String, String, String)> {
    let text = |value: Option<&toml::Value>| value.map_or("-".to_string(), ToString::to_string);
    let only_second = second.keys().filter(|key| !first.contains_key(*key));
    first
        .keys()
        .chain(only_second)
        .filter(|key| first.get(*key) != second.get(*key))
        .map(|key| (key.clone(), text(first.get(key)), text(second.get(key))))
        .collect()
}

/// Every key of either run with its last value in both.
fn last_values(first: &[Record], second: &[Record]) -> Vec<(String, Option<f64>, Option<f64>)> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in first.iter().chain(second).flat_map(|record| &record.values) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let last = |records: &[Record], key: &str| {
        records.iter().rev().find_map(|record| record.values.iter().find(|(name, _)| name == key).map(|(_, v)| *v))
    };
    keys.into_iter().map(|key| (key.to_string(), last(first, key), last(second, key))).collect()
}

/// Step and key of the first computed value that differs in a bit, or that only one run has.
fn first_difference(first: &[Record], second: &[Record]) -> Option<(u64, String)> {
    let computed = |records: &[Record]| -> Vec<(u64, String, u64)> {
        let lines = records.iter().filter(|record| record.warning.is_none());
        lines
            .flat_map(|record| record.values.iter().map(|(key, value)| (record.step, key.clone(), value.to_bits())))
            .filter(|(_, key, _)| !MEASURED.iter().any(|measured| key.starts_with(measured)))
            .collect()
    };
    let (first, second) = (computed(first), computed(second));
    let at = first.iter().zip(&second).position(|(a, b)| a != b);
    let at = at.or_else(|| (first.len() != second.len()).then_some(first.len().min(second.len())))?;
    let (step, key, _) = first.get(at).into_iter().chain(second.get(at)).min_by_key(|(step, ..)| *step)?;
    Some((*step, key.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, values: &[(&str, f64)]) -> Record {
        Record { step, values: values.iter().map(|(key, value)| (key.to_string(), *value)).collect(), warning: None }
    }

    #[test]
    fn clock_times_are_no_difference_and_one_bit_is() {
        let first = [record(1, &[("loss", 4.0), ("time/data", 0.1)]), record(2, &[("loss", 3.0)])];
        let second = [record(1, &[("loss", 4.0), ("time/data", 0.2)]), record(2, &[("loss", 3.0)])];
        assert_eq!(first_difference(&first, &second), None);
        let other = [second[0].clone(), record(2, &[("loss", 3.0f64.next_up())])];
        assert_eq!(first_difference(&first, &other), Some((2, "loss".into())));
        assert_eq!(first_difference(&first, &second[..1]), Some((2, "loss".into())));
    }
}
