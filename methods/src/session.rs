//! A training run in a run directory: epochs, metrics, checkpoints, kNN along the way, and a clean end when interrupted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selfsame_autograd::Tensor;
use selfsame_data::{Augment, Batch, Dataset, Loader, LoaderConfig, Split, open};
use selfsame_engine::{Device, Error, ErrorKind, Result};
use selfsame_kernels::order::LEAF;
use selfsame_models::weights;

use crate::config::Config;
use crate::eval::features::{Feed, extract, to_array};
use crate::eval::knn::{Knn, knn};
use crate::hash::weights_hash;
use crate::method::{Augmentations, MethodSpec, Views};
use crate::observer::Observer;
use crate::record::Recorder;
use crate::run::manifest::{Gpu, utc_now};
use crate::run::{CheckpointStore, Configured, CreateMode, EventWriter, Manifest, MetricsWriter, RunDir, Session};
use crate::sweep::Sweep;
use crate::trainer::{Clock, Cut, Plan, StepRecord, Trainer, Watch};
use crate::{parts, settings};

/// What to run, where, on what.
pub struct Pretrain {
    /// The method.
    pub spec: &'static MethodSpec,
    /// Its resolved configuration. When resuming it must equal the run's own.
    pub config: Config,
    /// The device to compute on.
    pub device: Device,
    /// Emulated ranks that share the batch and the device's threads. Does not change a bit of the result, but for batch
    /// norm `local`.
    pub ranks: usize,
    /// Background threads that prepare images. Does not change a bit of the result.
    pub workers: usize,
    /// The run directory.
    pub out: PathBuf,
    /// Begin a run, continue one, or replace one.
    pub mode: CreateMode,
    /// Becomes true when the run should stop after its step.
    pub stop: Arc<AtomicBool>,
}

/// A run that ended by itself, or was asked to stop.
pub struct Run {
    /// Its directory.
    pub dir: RunDir,
    /// The trainer in its last state.
    pub trainer: Trainer,
    /// How long it was to last.
    pub plan: Plan,
    /// The training images.
    pub train: Arc<dyn Dataset>,
    /// The augmentation of each view.
    pub views: Augmentations,
    /// Labelled images, when the data set has them.
    pub labelled: Option<Labelled>,
    /// What the run was told.
    pub warnings: Vec<String>,
    /// Whether it stopped before its end.
    pub interrupted: bool,
    /// Facts for the manifest; also in the directory.
    pub manifest: Manifest,
    /// The configuration.
    pub config: Config,
    /// Hash of all weights; see [`weights_hash`].
    pub weights_hash: String,
    /// Known losses with their formulas.
    pub constants: Vec<(&'static str, f64)>,
}

/// Images of an evaluation forward. Does not change a bit of the features.
pub(crate) const EVAL_BATCH: usize = 128;

/// Trains. Everything is on disk when this returns; `encoder.safetensors` only after the last step.
///
/// # Errors
/// `Config` and `Io` before training begins; `NonFinite` when a loss does (the last checkpoint stays); `Io` when a
/// file cannot be written (the same). Any other, such as that of an image that cannot be read, comes after the steps
/// before it were saved.
pub fn pretrain(request: Pretrain, observer: &mut dyn Observer) -> Result<Run> {
    let Pretrain { spec, config, device, ranks, workers, out, mode, stop } = request;
    let data = config.str("data")?;
    // Everything that can be wrong is found out before the directory is touched.
    let train = open(data, Split::Unlabelled)?;
    let (labelled, mut warnings) = open_for_evaluation(data);
    let plan = Plan::of(&config, train.len())?;
    let mut trainer = Trainer::new(spec, &config, &plan, &device)?.with_cut(Cut::of(&config, ranks)?)?;
    let views = (spec.views)(&config)?;

    rehearse(&trainer, &train, &views, &device)?;
    let dir = RunDir::create(out, mode)?;
    if mode == CreateMode::Resume {
        expect_same_configuration(&dir.read_config()?, &config)?;
    }
    let mut store = dir.checkpoints(config.at_least("keep_checkpoints", 1)?)?;
    let mut manifest = first_manifest(&config, &*train, &device)?;
    if mode == CreateMode::Resume {
        let earlier = dir.read_manifest()?;
        if earlier.data_checksum != manifest.data_checksum {
            return Err(Error::new(ErrorKind::Config, format!("data {data}"), "other images than the run began with")
                .expected(format!("data of checksum {}", earlier.data_checksum.unwrap_or_default())));
        }
        if earlier.numerics != manifest.numerics {
            return Err(Error::new(ErrorKind::Config, "numerics", manifest.numerics)
                .expected(format!("{}, as the run began", earlier.numerics))
                .hint("their results differ: resume with the same --numerics"));
        }
        if let Some(first) = earlier.sessions.first() {
            trainer.cut().expect_groups_of(&first.micro_batches)?;
        }
        manifest.configuration = earlier.configuration;
        manifest.sessions = earlier.sessions;
        restore(&mut trainer, &store, &mut warnings)?;
    }
    let done = trainer.steps_done();
    manifest.sessions.push(session(&device, done, trainer.cut()));
    dir.write_config(&config.table())?;
    dir.write_manifest(&manifest)?;
    let mut metrics = if mode == CreateMode::Resume { dir.resume_metrics(done)?.0 } else { dir.metrics()? };
    let mut recorder = Recorder::open(&dir, &config, &trainer, mode == CreateMode::Resume, observer)?;
    let events = dir.events((mode == CreateMode::Resume).then_some(done))?;
    if done == 0 {
        // From here on there is always a good checkpoint to go back to.
        metrics.sync()?;
        recorder.sync()?;
        store.save(0, &trainer.snapshot()?)?;
    }

    let batch = config.usize("batch")?;
    let mut work = Work {
        saved: done,
        writes: trainer.writes(),
        batch,
        seed: config.usize("seed")? as u64,
        eval_every: config.usize("eval_every")? as u64,
        eval_images: config.at_least("eval_images", 1)?,
        checkpoint_every: config.at_least("checkpoint_every", 1)? as u64,
        eval_transform: parts::eval_transform(&config)?,
        watch: Watch::new(spec.facts, &config, batch)?,
        store,
        log: Log { metrics, events },
        recorder,
        train: Arc::clone(&train),
        labelled: labelled.clone(),
        warnings,
        views,
        workers,
        device,
        stop,
        plan,
    };
    if plan.dropped > 0 {
        let text = format!("the last {} images of each epoch's order are dropped: less than a batch", plan.dropped);
        observer.note(&text);
    }
    match trainer.cut().describe() {
        Some(text) if trainer.cut().is_exact() => observer.note(&text),
        text => work.warnings.extend(text),
    }
    work.warnings.iter().for_each(|text| observer.note(text));
    observer.begin(&plan, done);
    let interrupted = work.epochs(&mut trainer, observer)?;

    let hash = weights_hash(trainer.params())?;
    if !interrupted {
        let about = config.table().to_string();
        let method = trainer.method();
        weights::save(method.encoder(), method.encoder_path(), dir.encoder_path(), Some(&about))?;
        manifest.weights_hash = Some(hash.clone());
    }
    if let Some(session) = manifest.sessions.last_mut() {
        session.finished = Some(utc_now());
    }
    dir.write_manifest(&manifest)?;
    let constants = work.watch.constants().collect();
    let Work { warnings, views, .. } = work;
    Ok(Run {
        dir,
        trainer,
        plan,
        train,
        views,
        labelled,
        warnings,
        interrupted,
        manifest,
        config,
        weights_hash: hash,
        constants,
    })
}

/// Has the networks refuse a cut that they cannot take, on the first images, before anything is written.
fn rehearse(trainer: &Trainer, train: &Arc<dyn Dataset>, views: &[Arc<dyn Augment>], device: &Device) -> Result<()> {
    if !trainer.cut().runs_apart() {
        return Ok(());
    }
    let config = LoaderConfig { batch: LEAF.min(train.len()), views: views.to_vec(), ..LoaderConfig::default() };
    match Loader::new(Arc::clone(train), config)?.next() {
        Some(batch) => trainer.rehearse(&to_views(&batch?, device)?),
        None => Ok(()),
    }
}

/// Labelled images to measure an encoder with.
#[derive(Clone)]
pub struct Labelled {
    /// Where neighbours are looked for and probes are trained.
    pub train: Arc<dyn Dataset>,
    /// What accuracy is measured on.
    pub test: Arc<dyn Dataset>,
}

impl Labelled {
    /// Both splits of `spec`.
    ///
    /// # Errors
    /// Those of opening, and `Config` when the data set has no labels.
    pub fn open(spec: &str) -> Result<Labelled> {
        let (train, test) = (open(spec, Split::Train)?, open(spec, Split::Test)?);
        if train.classes().is_empty() || test.classes() != train.classes() {
            return Err(Error::new(ErrorKind::Config, format!("data {spec}"), "no labels")
                .expected("a data set whose training and test images have classes"));
        }
        Ok(Labelled { train, test })
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.train.classes().len()
    }
}

/// The labelled splits, or a sentence on why there are none: training goes on without them.
fn open_for_evaluation(spec: &str) -> (Option<Labelled>, Vec<String>) {
    match Labelled::open(spec) {
        Ok(labelled) => (Some(labelled), Vec::new()),
        Err(error) => (None, vec![format!("no kNN accuracy along the way: {}", error.sentence())]),
    }
}

/// A resumed run goes on as it began. The data's place may differ, whose checksum is compared elsewhere, and so may how
/// the batch is cut: [`Cut::expect_groups_of`] refuses what would change the bits.
fn expect_same_configuration(own: &toml::Table, given: &Config) -> Result<()> {
    let free = ["data", "recompute", "micro_batch", "grad_cache"].iter().chain(&settings::RECORDING);
    let free: Vec<&str> = free.copied().collect();
    for entry in given.entries().iter().filter(|entry| !free.contains(&entry.key.as_str())) {
        if own.get(&entry.key) != Some(&entry.value) {
            let key = &entry.key;
            let before = own.get(key).map_or("no such key".to_string(), ToString::to_string);
            return Err(Error::new(ErrorKind::Config, format!("configuration key '{key}'"), entry.value.to_string())
                .expected(format!("{before}, as the run began"))
                .hint("a resumed run keeps its configuration; start a new run to change it"));
        }
    }
    Ok(())
}

fn first_manifest(config: &Config, train: &dyn Dataset, device: &Device) -> Result<Manifest> {
    Ok(Manifest {
        version: env!("CARGO_PKG_VERSION").to_string(),
        method: config.str("method")?.to_string(),
        configuration: Configured::all(config),
        seed: config.usize("seed")? as u64,
        numerics: device.numerics().name().to_string(),
        data: config.str("data")?.to_string(),
        data_checksum: Some(format!("{:016x}", train.describe().checksum)),
        weights_hash: None,
        sessions: Vec::new(),
    })
}

fn session(device: &Device, done: u64, cut: &Cut) -> Session {
    let cpu = device.host();
    let session = Session::begin(done, device.name(), cpu.isa().name(), cpu.workers().threads(), cut.micro_batches());
    Session { gpu: Gpu::of(device), ..session }
}

/// Takes over the newest good checkpoint.
fn restore(trainer: &mut Trainer, store: &CheckpointStore, warnings: &mut Vec<String>) -> Result<()> {
    let Some(checkpoint) = store.latest()? else { return Ok(()) };
    trainer.restore(&checkpoint.payload, &store.path_of(checkpoint.step).display().to_string())?;
    warnings.extend(checkpoint.warnings);
    Ok(())
}

/// A run at work: what it reads, where it writes.
struct Work {
    train: Arc<dyn Dataset>,
    labelled: Option<Labelled>,
    views: Augmentations,
    eval_transform: Arc<dyn Augment>,
    batch: usize,
    seed: u64,
    workers: usize,
    eval_every: u64,
    eval_images: usize,
    checkpoint_every: u64,
    device: Device,
    plan: Plan,
    stop: Arc<AtomicBool>,
    store: CheckpointStore,
    /// Steps of the newest checkpoint.
    saved: u64,
    /// [`Trainer::writes`] after the last step that has all its lines.
    writes: u64,
    log: Log,
    recorder: Recorder,
    watch: Watch,
    warnings: Vec<String>,
}

impl Work {
    /// All epochs from where the trainer stands. Returns whether it was interrupted; the state is then saved.
    fn epochs(&mut self, trainer: &mut Trainer, observer: &mut dyn Observer) -> Result<bool> {
        while trainer.steps_done() < self.plan.steps() {
            let epoch = trainer.steps_done() / self.plan.steps_per_epoch;
            if self.epoch(epoch, trainer, observer).map_err(|error| self.kept(trainer, error))? {
                self.save(trainer)?;
                return Ok(true);
            }
            let finished = epoch + 1;
            let is_last = finished == self.plan.epochs;
            let is_due = is_last || (self.eval_every > 0 && finished.is_multiple_of(self.eval_every));
            if is_due && observer.measures() {
                self.evaluate(finished, trainer, observer).map_err(|error| self.kept(trainer, error))?;
            }
            if is_last || finished.is_multiple_of(self.checkpoint_every) {
                self.save(trainer)?;
            }
        }
        Ok(false)
    }

    /// The rest of `epoch`. Returns whether it was interrupted.
    fn epoch(&mut self, epoch: u64, trainer: &mut Trainer, observer: &mut dyn Observer) -> Result<bool> {
        let start_batch = (trainer.steps_done() % self.plan.steps_per_epoch) as usize;
        if start_batch == 0 {
            let sweep = Sweep {
                dataset: &self.train,
                views: &self.views,
                eval_transform: &self.eval_transform,
                workers: self.workers,
                device: &self.device,
                seed: self.seed,
                epoch,
            };
            trainer.before_epoch(epoch, &sweep)?;
        }
        let config = LoaderConfig {
            batch: self.batch,
            views: self.views.clone(),
            seed: self.seed,
            epoch,
            workers: self.workers,
            order: trainer.begin_epoch(epoch)?,
            start_batch,
            ..LoaderConfig::default()
        };
        let mut loader = Loader::new(Arc::clone(&self.train), config)?;
        loop {
            let mut clock = Clock::start();
            let Some(batch) = loader.next() else { return Ok(false) };
            let batch = batch?;
            let views = to_views(&batch, &self.device)?;
            self.recorder.before(trainer);
            observer.before_step(trainer.steps_done() + 1);
            let mut record = trainer.step(&views, clock.lap())?;
            self.recorder.after((&batch.indices, &views), &mut record, &self.device, observer)?;
            self.log.step(&record)?;
            observer.step(&record);
            if let Some(text) = self.watch.see(record.loss) {
                self.log.metrics.warn(record.step, &text)?;
                observer.note(&text);
                self.warnings.push(text);
            }
            self.writes = trainer.writes();
            if self.stop.load(Ordering::Relaxed) && record.step < self.plan.steps() {
                return Ok(true);
            }
        }
    }

    fn save(&mut self, trainer: &Trainer) -> Result<()> {
        self.log.sync()?;
        self.recorder.sync()?;
        self.store.save(trainer.steps_done(), &trainer.snapshot()?)?;
        self.saved = trainer.steps_done();
        Ok(())
    }

    /// `error`, which ends the training, after the steps before it were saved. Not after a NaN, to which the same steps
    /// would lead again, nor where part of a step or of the preparation of an epoch is written: the last checkpoint is
    /// then the state to go back to.
    fn kept(&mut self, trainer: &Trainer, error: Error) -> Error {
        let done = trainer.steps_done();
        if done == 0 || error.kind() == ErrorKind::NonFinite {
            return error;
        }
        let is_whole = trainer.writes() == self.writes;
        // Of two errors the first is the one to report.
        if self.saved < done && !(is_whole && self.save(trainer).is_ok()) {
            return error;
        }
        let hint = match error.kind() {
            ErrorKind::Io | ErrorKind::Corrupt => {
                "the steps done are saved: --resume goes on from there with the images that the run began with; others, \
                 such as repaired ones, want a new run"
            }
            _ => "the steps done are saved: --resume goes on from there",
        };
        Error::new(error.kind(), format!("after step {done}"), error.sentence()).hint(hint)
    }

    /// kNN of the test images among the training images, when there are labels.
    fn evaluate(&mut self, epoch: u64, trainer: &Trainer, observer: &mut dyn Observer) -> Result<()> {
        let Some(labelled) = &self.labelled else { return Ok(()) };
        let transform = Arc::clone(&self.eval_transform);
        let feed = Feed { transform, batch: EVAL_BATCH, workers: self.workers, limit: self.eval_images };
        let encoder = trainer.method().encoder();
        let bank = extract(encoder, &labelled.train, &feed, &self.device)?;
        let queries = extract(encoder, &labelled.test, &feed, &self.device)?;
        let accuracy = knn(&bank, &queries, labelled.classes(), &Knn::default())?.overall;
        self.log.evaluated(trainer.steps_done(), epoch, accuracy)?;
        observer.evaluated(epoch, accuracy);
        Ok(())
    }
}

/// The views of a batch as constants on `device`.
pub(crate) fn to_views(batch: &Batch, device: &Device) -> Result<Views> {
    let view = |view| Ok(Tensor::constant(to_array(view, device)?));
    Views::new(batch.views.iter().map(view).collect::<Result<_>>()?, batch.indices.clone())
}

/// `metrics.jsonl` and the TensorBoard events: the same numbers twice.
struct Log {
    metrics: MetricsWriter,
    events: EventWriter,
}

impl Log {
    fn step(&mut self, record: &StepRecord) -> Result<()> {
        let seconds = |time: Duration| time.as_secs_f64();
        let times = &record.times;
        let mut values = vec![
            ("loss", record.loss),
            ("lr", record.lr),
            ("grad/norm", record.grad_norm),
            ("time/data", seconds(times.data)),
            ("time/forward", seconds(times.forward)),
            ("time/backward", seconds(times.backward)),
            ("time/optimizer", seconds(times.optimizer)),
            ("images_per_second", record.images_per_second),
            ("memory/live", record.memory_live as f64),
            ("memory/peak", record.memory_peak as f64),
        ];
        if times.fingerprint > Duration::ZERO {
            values.push(("time/fingerprint", seconds(times.fingerprint)));
        }
        values.extend(record.embedding_std.map(|value| ("embed/std", value)));
        values.extend(record.effective_rank.map(|value| ("embed/rank", value)));
        values.extend(record.scalars.iter().map(|(key, value)| (key.as_str(), *value)));
        self.write(record.step, &values)
    }

    fn evaluated(&mut self, step: u64, epoch: u64, knn: f64) -> Result<()> {
        self.write(step, &[("epoch", epoch as f64), ("eval/knn", knn)])
    }

    fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.metrics.write(step, values)?;
        values.iter().try_for_each(|&(key, value)| self.events.scalar(step, key, value as f32))
    }

    fn sync(&mut self) -> Result<()> {
        self.metrics.sync()?;
        self.events.sync()
    }
}

#[cfg(test)]
mod tests;
