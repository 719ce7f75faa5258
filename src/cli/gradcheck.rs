//! `selfsame gradcheck`: every backward against finite differences, every loss against its oracle too.

use selfsame_autograd::{OpSpec, gradcheck};
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_losses::{LossSpec, check_all};
use serde_json::json;

use super::output::{Output, table};
use super::{Outcome, Registry};

/// Arguments of `gradcheck`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of an operation or a loss; all when left out
    name: Option<String>,
    /// Generated cases for each
    #[arg(long, default_value_t = 64, value_name = "N")]
    cases: u64,
    /// Seed of the cases
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let wanted = |name: &str| args.name.as_deref().is_none_or(|only| only == name);
    let ops: Vec<&OpSpec> = registry.ops.iter().copied().filter(|op| wanted(op.name)).collect();
    let losses: Vec<&'static LossSpec> = registry.losses.iter().copied().filter(|loss| wanted(loss.name)).collect();
    if let (Some(name), true, true) = (&args.name, ops.is_empty(), losses.is_empty()) {
        let known = registry.ops.iter().map(|op| op.name).chain(registry.losses.iter().map(|loss| loss.name));
        let error = Error::new(ErrorKind::Config, "gradcheck", format!("no operation or loss '{name}'"));
        return Err(match nearest(name, known) {
            Some(known) => error.hint(format!("is '{known}' meant?")),
            None => error.hint("`selfsame gradcheck` without a name checks all and lists them"),
        });
    }
    let mut outcomes = gradcheck::check(&ops, args.cases, args.seed)?;
    outcomes.extend(check_all(&losses, args.cases, args.seed)?);
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    if args.json {
        let checks: Vec<_> = outcomes
            .iter()
            .map(|o| json!({ "name": o.op, "cases": o.cases, "worst": o.worst, "failure": o.failure }))
            .collect();
        out.json(&json!({ "checks": checks, "failed": failed }))?;
    } else {
        let rows: Vec<Vec<String>> = outcomes
            .iter()
            .map(|o| {
                let verdict = o.failure.clone().unwrap_or_else(|| "ok".into());
                vec![o.op.to_string(), o.cases.to_string(), format!("{:.4}", o.worst), verdict]
            })
            .collect();
        out.text(&table(&["operation", "cases", "worst/tolerance", ""], &[false, true, true, false], &rows))?;
        out.text(&format!("{} checked, {failed} failed", outcomes.len()))?;
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Difference })
}
