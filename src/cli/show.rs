//! `selfsame show`: the resolved configuration of a method, every value with its source and advice.

use std::path::PathBuf;

use selfsame_engine::Result;
use selfsame_methods::{method, settings};
use serde_json::{Map, json};

use super::output::Output;
use super::{Outcome, Registry};

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the method
    method: String,
    /// Settings on top of the defaults
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Configuration file between defaults and settings
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let spec = method::find(&args.method, registry.methods)?;
    let config = settings::resolve(spec, args.config.as_deref(), &args.settings)?;
    if !args.json {
        out.text(&config.describe())?;
        return Ok(Outcome::Done);
    }
    let values: Map<String, serde_json::Value> = config
        .entries()
        .iter()
        .map(|entry| {
            let value = json!({ "value": entry.value, "source": entry.source.to_string(), "advice": entry.advice });
            (entry.key.clone(), value)
        })
        .collect();
    out.json(&json!({ "method": spec.name, "configuration": values }))?;
    Ok(Outcome::Done)
}
