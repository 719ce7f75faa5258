//! `selfsame study methods`: every method on the built-in data with one small backbone and about the same compute, with
//! the ablations that its paper names; a page of results.
//!
//! - [`arms`]: what is trained, and what is expected of it.
//! - [`commit`]: of which sources.
//! - [`row`]: the result of one arm, kept under a key of all that it depends on.
//! - [`page`]: the results as a page.
//! - [`check`]: whether they are those of another page.

mod arms;
mod check;
mod commit;
mod page;
mod row;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_methods::measure::Scope;
use selfsame_methods::run::{CreateMode, RunDir};
use selfsame_methods::{Config, Pretrain, method, settings, train_and_report};

use super::compute::Compute;
use super::interrupt;
use super::output::Output;
use super::pretrain::stopped;
use super::progress::Progress;
use super::{Outcome, Registry};
use arms::{ARMS, Arm};
use check::Compared;
use page::Entry;
use row::{Key, Row};

/// Arguments of `study`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The study; `methods` is there
    #[arg(value_parser = ["methods"])]
    name: String,
    /// Only these arms
    #[arg(long, value_delimiter = ',', value_name = "ARM,ARM,...")]
    arms: Vec<String>,
    /// Only the first N seeds of each arm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seeds: Option<u32>,
    /// Folder of the runs and their results; what is there and not out of date is not run again
    #[arg(long, default_value = "runs/study", value_name = "DIR")]
    out: PathBuf,
    /// Write the page there, from all results so far
    #[arg(long, value_name = "FILE.md")]
    page: Option<PathBuf>,
    /// Compare the results with those on a page that was written before, say of another machine or of older code
    #[arg(long, value_name = "FILE.md", conflicts_with = "plan")]
    check: Option<PathBuf>,
    /// Say what would run, and run nothing
    #[arg(long)]
    plan: bool,
    /// Change one value in every arm; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    compute: Compute,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let chosen = chosen(&args.arms, args.seeds.unwrap_or(u32::MAX))?;
    let stop = interrupt::listen()?;
    let mut entries = Vec::new();
    for (arm, seed) in chosen {
        let config = arm_config(arm, seed, &args.settings, registry)?;
        let key = Key::of(&config);
        let folder = args.out.join(format!("{}-{seed}", arm.name));
        let known = Row::read(&folder)?;
        let fresh = known.as_ref().is_some_and(|row| row.key == key);
        if args.plan {
            let state = match (&known, fresh) {
                (_, true) => "done",
                (Some(_), false) => "out of date",
                (None, _) => "to do",
            };
            out.text(&format!("{:<40} seed {seed}  {state}", arm.name))?;
        } else if !fresh {
            out.text(&format!("{} seed {seed}", arm.name))?;
            let study = Study { args, registry, stop: Arc::clone(&stop) };
            study.trained(arm, seed, config, &folder)?.write(&folder)?;
        }
        if let Some(row) = Row::read(&folder)? {
            let Some(session) = RunDir::open(&folder)?.read_manifest()?.sessions.pop() else {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    folder.display().to_string(),
                    "a manifest without a session",
                )
                .hint("delete the folder to run the arm again"));
            };
            entries.push(Entry { arm, is_fresh: row.key == key, row, session });
        }
    }
    if args.plan {
        return Ok(Outcome::Done);
    }
    let page = page::page(&entries);
    let outcome = args.check.as_deref().map(|published| against(&page, published, out)).transpose()?;
    match &args.page {
        Some(path) => std::fs::write(path, page).map_err(|error| Error::io(path, &error))?,
        None if args.check.is_none() => out.text(&page)?,
        None => {}
    }
    Ok(outcome.unwrap_or(Outcome::Done))
}

/// Prints how the rows of `page` compare with those of the page at `published`.
fn against(page: &str, published: &Path, out: &mut Output) -> Result<Outcome> {
    let text = std::fs::read_to_string(published).map_err(|error| Error::io(published, &error))?;
    let compared = check::compared(page, &text);
    if compared.is_empty() {
        return Err(Error::new(ErrorKind::Config, published.display().to_string(), "none of these arms and seeds")
            .expected("a page that `selfsame study methods --page` wrote"));
    }
    for Compared { arm, seed, differences } in &compared {
        let found = if differences.is_empty() { "the same".into() } else { differences.join("; ") };
        out.text(&format!("{arm:<40} seed {seed}  {found}"))?;
    }
    let same = compared.iter().filter(|row| row.differences.is_empty()).count();
    out.text(&format!("{same} of {} rows have the same results as {}", compared.len(), published.display()))?;
    Ok(if same == compared.len() { Outcome::Done } else { Outcome::Difference })
}

/// The arms called `names`, or all, once for each of the first `seeds` seeds that they have.
fn chosen(names: &[String], seeds: u32) -> Result<Vec<(&'static Arm, u32)>> {
    for name in names {
        if !ARMS.iter().any(|arm| arm.name == name) {
            let error = Error::new(ErrorKind::Config, format!("arm '{name}'"), "no such arm of the study");
            return Err(match nearest(name, ARMS.iter().map(|arm| arm.name)) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error.expected(ARMS.iter().map(|arm| arm.name).collect::<Vec<_>>().join(", ")),
            });
        }
    }
    let chosen = ARMS.iter().filter(|arm| names.is_empty() || names.iter().any(|name| name == arm.name));
    Ok(chosen.flat_map(|arm| (0..arm.seeds().min(seeds)).map(move |seed| (arm, seed))).collect())
}

/// The method's defaults, the recipe of all arms, the method's own for small images, the arm's settings, those given.
fn arm_config(arm: &Arm, seed: u32, given: &[String], registry: &Registry) -> Result<Config> {
    let spec = method::find(arm.method, registry.methods)?;
    let mut config = settings::defaults(spec)?;
    config.apply_recipe("small images", arms::COMMON)?;
    config.apply_recipe(arm.method, arm.recipe)?;
    for setting in arm.settings.iter().copied().chain(given.iter().map(String::as_str)) {
        config.apply_setting(setting)?;
    }
    settings::set_argument(&mut config, "seed", i64::from(seed))?;
    Ok(config)
}

/// What all arms share.
struct Study<'a> {
    args: &'a Args,
    registry: &'a Registry,
    stop: Arc<AtomicBool>,
}

impl Study<'_> {
    /// Trains an arm, or goes on where it was interrupted, and measures it.
    fn trained(&self, arm: &Arm, seed: u32, config: Config, folder: &Path) -> Result<Row> {
        let started = Instant::now();
        let spec = method::find(arm.method, self.registry.methods)?;
        let key = Key::of(&config);
        let mut progress = Progress::new(config.at_least("log_every", 1)? as u64);
        let request = Pretrain {
            spec,
            mode: mode(folder, &config),
            config,
            device: self.args.compute.open()?,
            ranks: 1,
            workers: 1,
            out: folder.to_path_buf(),
            stop: Arc::clone(&self.stop),
        };
        let finished = train_and_report(request, Scope { baselines: true, linear: true }, &mut progress);
        progress.finish();
        let finished = finished?;
        stopped(&finished)?;
        Row::of(arm, seed, key, &finished, started.elapsed().as_secs_f64())
    }
}

/// Goes on with a run of the same configuration and replaces any other: the folder is the study's own.
fn mode(folder: &Path, config: &Config) -> CreateMode {
    match RunDir::open(folder).and_then(|run| run.read_config()) {
        Ok(table) if table == config.table() && !folder.join(row::FILE).exists() => CreateMode::Resume,
        _ if folder.exists() => CreateMode::Replace,
        _ => CreateMode::New,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_methods::METHODS;

    #[test]
    fn every_method_has_an_arm_and_every_arm_a_configuration() {
        let registry = Registry::built_in();
        for spec in METHODS {
            assert!(ARMS.iter().any(|arm| arm.name == spec.name), "{} is in no arm", spec.name);
        }
        for arm in ARMS {
            let config =
                arm_config(arm, 7, &["epochs=3".into()], &registry).unwrap_or_else(|e| panic!("{}: {e}", arm.name));
            assert_eq!((config.usize("seed").unwrap(), config.usize("epochs").unwrap()), (7, 3), "{}", arm.name);
            // An ablation changes what its settings name of the method's own arm.
            for setting in arm.settings {
                let own = arm_config(&Arm { settings: &[], ..*arm }, 7, &[], &registry).unwrap();
                let key = setting.split('=').next().unwrap();
                assert_ne!(own.entry(key).unwrap().value, config.entry(key).unwrap().value, "{}: {key}", arm.name);
            }
        }
    }

    #[test]
    fn an_arm_is_run_once_for_each_of_its_first_seeds() {
        let seeds = |seeds| -> Vec<u32> {
            chosen(&["simclr".into(), "byol".into()], seeds).unwrap().into_iter().map(|(_, seed)| seed).collect()
        };
        assert_eq!((seeds(u32::MAX), seeds(2), seeds(1)), (vec![0, 1, 2, 0], vec![0, 1, 0], vec![0, 0]));
    }

    #[test]
    fn an_unknown_arm_gets_the_nearest() {
        let error = chosen(&["byol-no-predictr".into()], 1).map(drop).unwrap_err();
        assert!(error.sentence().contains("byol-no-predictor"), "{}", error.sentence());
    }
}
