//! `selfsame demo`: the whole path on the built-in data, with a recipe tuned for two cores.

use std::path::{Path, PathBuf};
use std::time::Instant;

use selfsame_engine::Result;
use selfsame_methods::measure::Scope;
use selfsame_methods::run::{CreateMode, RunDir};
use selfsame_methods::{Pretrain, method, settings, train_and_report};
use serde_json::json;

use super::compute::Compute;
use super::interrupt;
use super::output::Output;
use super::pretrain::stopped;
use super::progress::Progress;
use super::{Outcome, Registry};

/// The recipe, and what `--fast` changes of it.
const RECIPE: &str = include_str!("../../configs/demo.toml");
const FAST: &str = include_str!("../../configs/demo-fast.toml");

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run directory; an earlier demo there is replaced, any other run is not
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    out: PathBuf,
    /// A smaller run for continuous integration
    #[arg(long)]
    fast: bool,
    /// Change one value of the recipe; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Seed of everything random
    #[arg(long, value_name = "S")]
    seed: Option<u32>,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let started = Instant::now();
    let spec = method::find("simclr", registry.methods)?;
    let mut config = settings::defaults(spec)?;
    config.apply_recipe("demo", RECIPE)?;
    if args.fast {
        config.apply_recipe("demo-fast", FAST)?;
    }
    args.settings.iter().try_for_each(|setting| config.apply_setting(setting))?;
    if let Some(seed) = args.seed {
        settings::set_argument(&mut config, "seed", i64::from(seed))?;
    }
    let mut progress = Progress::new(config.at_least("log_every", 1)? as u64);
    let request = Pretrain {
        spec,
        config,
        device: args.compute.open()?,
        ranks: 1,
        workers: 1,
        out: args.out.clone(),
        mode: if holds_demo(&args.out) { CreateMode::Replace } else { CreateMode::New },
        stop: interrupt::listen()?,
    };
    let finished = train_and_report(request, Scope { baselines: true, linear: true }, &mut progress);
    progress.finish();
    let finished = finished?;
    stopped(&finished)?;

    let measured = finished.measured.as_ref();
    let knn = measured.map(|m| m.knn.overall);
    let untrained = measured.and_then(|m| m.knn_untrained);
    let pixels = measured.and_then(|m| m.knn_pixels);
    let linear = measured.and_then(|m| m.linear.as_ref()).map(|accuracy| accuracy.overall);
    let (hash, seconds) = (&finished.run.weights_hash, started.elapsed().as_secs_f64());
    if args.json {
        out.json(&json!({
            "knn": knn, "knn_untrained": untrained, "knn_pixels": pixels, "linear": linear,
            "weights_hash": hash, "report": finished.report, "seconds": seconds,
        }))?;
        return Ok(Outcome::Done);
    }
    let percent = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{:.1} %", 100.0 * value));
    out.text(&format!(
        "kNN {} (untrained {}, raw pixels {}), linear probe {}, weights {hash}, {seconds:.0} s, report {}",
        percent(knn),
        percent(untrained),
        percent(pixels),
        percent(linear),
        finished.report.display()
    ))?;
    Ok(Outcome::Done)
}

/// Whether the run in `folder` was begun by this command, and so may be made again.
fn holds_demo(folder: &Path) -> bool {
    let manifest = RunDir::open(folder).and_then(|run| run.read_manifest());
    manifest.is_ok_and(|manifest| {
        let command = manifest.sessions.first().map(|session| session.command.as_slice());
        command.is_some_and(|words| words.get(1).is_some_and(|word| word == "demo"))
    })
}
