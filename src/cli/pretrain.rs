//! `selfsame pretrain`: train a method on a data set without labels.

use std::path::PathBuf;

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_methods::measure::Scope;
use selfsame_methods::run::{CreateMode, RunDir};
use selfsame_methods::{Config, Finished, MethodSpec, Pretrain, method, settings, train_and_report};
use serde_json::json;

use super::compute::Compute;
use super::interrupt;
use super::output::Output;
use super::progress::Progress;
use super::{Outcome, Registry};

/// Arguments of `pretrain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the method; `selfsame methods` lists them
    method: String,
    /// Data set: scenes, cifar10:DIR, cifar100:DIR, stl10:DIR, idx:DIR, folder:DIR, shards:DIR
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    /// Run directory, to be created
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Configuration file, such as another run's config.toml
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// One configuration value; may be given many times. `selfsame show METHOD` lists the keys
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Seed of everything random
    #[arg(long, value_name = "S")]
    seed: Option<u32>,
    /// Continue the run in --out from its last checkpoint, with its own configuration
    #[arg(long, conflicts_with_all = ["config", "settings", "seed"])]
    resume: bool,
    /// Images whose activations are held at a time, a multiple of 16 (key micro_batch): less memory, the same bits but
    /// for batch_norm = "local"
    #[arg(long, value_name = "B")]
    micro_batch: Option<u32>,
    /// Emulated ranks: threads of this process that share batch and cores. The same bits for any number
    #[arg(long, default_value_t = 1, value_name = "R")]
    ranks: usize,
    #[command(flatten)]
    compute: Compute,
    /// Background threads that prepare images. Does not change a bit of the result
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let spec = method::find(&args.method, registry.methods)?;
    let config = configuration(args, spec)?;
    let mut progress = Progress::new(config.at_least("log_every", 1)? as u64);
    let request = Pretrain {
        spec,
        config,
        device: args.compute.open()?,
        ranks: args.ranks,
        workers: args.workers,
        out: args.out.clone(),
        mode: if args.resume { CreateMode::Resume } else { CreateMode::New },
        stop: interrupt::listen()?,
    };
    let finished = train_and_report(request, Scope::default(), &mut progress);
    progress.finish();
    let finished = finished?;
    let knn = finished.measured.as_ref().map(|measured| measured.knn.overall);
    if args.json {
        out.json(&json!({
            "steps": finished.run.trainer.steps_done(), "interrupted": finished.run.interrupted, "knn": knn,
            "weights_hash": finished.run.weights_hash, "run": finished.run.dir.path(), "report": finished.report,
        }))?;
    }
    stopped(&finished)?;
    if !args.json {
        let knn = knn.map(|knn| format!("kNN {:.1} %, ", 100.0 * knn)).unwrap_or_default();
        out.text(&format!("{knn}weights {}, report {}", finished.run.weights_hash, finished.report.display()))?;
    }
    Ok(Outcome::Done)
}

/// An interrupted run as the error that it ends the command with.
pub(crate) fn stopped(finished: &Finished) -> Result<()> {
    let run = &finished.run;
    if !run.interrupted {
        return Ok(());
    }
    let (done, steps) = (run.trainer.steps_done(), run.plan.steps());
    Err(Error::new(ErrorKind::Interrupted, "interrupted", format!("{done} of {steps} steps are done and saved")).hint(
        format!("continue with: selfsame pretrain {} --out {} --resume", run.manifest.method, run.dir.path().display()),
    ))
}

fn configuration(args: &Args, spec: &'static MethodSpec) -> Result<Config> {
    let mut config = if args.resume {
        let own = RunDir::open(&args.out)?;
        settings::resolve(spec, Some(&own.path().join("config.toml")), &[])?
    } else {
        settings::resolve(spec, args.config.as_deref(), &args.settings)?
    };
    if let Some(data) = &args.data {
        settings::set_argument(&mut config, "data", data.as_str())?;
    }
    if let Some(images) = args.micro_batch {
        settings::set_argument(&mut config, "micro_batch", i64::from(images))?;
    }
    if let Some(seed) = args.seed {
        settings::set_argument(&mut config, "seed", i64::from(seed))?;
    }
    Ok(config)
}
