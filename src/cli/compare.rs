//! `selfsame compare`: two runs side by side.

use std::path::PathBuf;

use selfsame_engine::Result;
use selfsame_methods::run::RunDir;
use selfsame_methods::run::metrics::{self, Record};
use serde_json::{Value, json};

use super::Outcome;
use super::output::{Output, table};

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory
    first: PathBuf,
    /// Run directory
    second: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Keys whose values depend on the clock or the machine, and so never show a difference of the computation.
const MEASURED: [&str; 3] = ["time/", "memory/", "images_per_second"];

/// What is compared of a run.
struct Side {
    config: toml::Table,
    records: Vec<Record>,
    hash: Option<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result<Outcome> {
    let (first, second) = (read(&args.first)?, read(&args.second)?);
    let settings = different_settings(&first.config, &second.config);
    let values = last_values(&first.records, &second.records);
    let difference = first_difference(&first.records, &second.records);
    let same_hash = first.hash == second.hash;
    if args.json {
        let settings: Vec<_> =
            settings.iter().map(|(key, a, b)| json!({ "key": key, "first": a, "second": b })).collect();
        let last: serde_json::Map<String, Value> =
            values.iter().map(|(key, a, b)| (key.clone(), json!([a, b]))).collect();
        let at = difference.as_ref().map(|(step, key)| json!({ "step": step, "key": key }));
        out.json(&json!({
            "configuration": settings, "last": last, "first_difference": at,
            "weights_hash": [first.hash, second.hash],
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
        out.text(&format!("weights {} and {}", name(&first.hash), name(&second.hash)))?;
        out.text(&match &difference {
            Some((step, key)) => format!("first difference at step {step}: {key}"),
            None => "the metrics are the same to the bit".to_string(),
        })?;
    }
    Ok(if difference.is_none() && same_hash { Outcome::Done } else { Outcome::Difference })
}

fn read(path: &std::path::Path) -> Result<Side> {
    let run = RunDir::open(path)?;
    let hash = run.read_manifest()?.weights_hash;
    Ok(Side { config: run.read_config()?, records: metrics::read(&run.metrics_path())?, hash })
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
