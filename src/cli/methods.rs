//! `selfsame methods`: what is there.

use selfsame_engine::Result;
use selfsame_methods::settings;
use serde_json::json;

use super::output::{Output, table};
use super::{Outcome, Registry};

/// Arguments of `methods`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a Markdown table
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    if args.json {
        let mut methods = Vec::new();
        for spec in registry.methods {
            methods.push(json!({
                "name": spec.name, "title": spec.title, "paper": spec.paper,
                "family": spec.family.name(), "status": spec.status.name(),
                "views": (spec.views)(&settings::defaults(spec)?)?.len(),
            }));
        }
        out.json(&json!({ "methods": methods }))?;
        return Ok(Outcome::Done);
    }
    let headings = ["name", "paper", "family", "status", "title"];
    let rows: Vec<Vec<String>> = registry
        .methods
        .iter()
        .map(|spec| {
            [spec.name, spec.paper, spec.family.name(), spec.status.name(), spec.title].map(String::from).into()
        })
        .collect();
    if args.markdown {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = line(&headings.map(String::from));
        text.push_str("|---|---|---|---|---|\n");
        rows.iter().for_each(|row| text.push_str(&line(row)));
        out.text(&text)?;
    } else {
        out.text(&table(&headings, &[false; 5], &rows))?;
    }
    Ok(Outcome::Done)
}
