//! Steps of a method under the profiler, with the loader running; and probes, from which the memory of a batch is
//! planned before it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use selfsame_data::{Augment, Dataset, DatasetInfo, Image, Loader, LoaderConfig, Sample};
use selfsame_engine::profile::{Kind, MemoryLog, Phase, Probe, Profiler, Recording, Roof, Work};
use selfsame_engine::{Device, Error, ErrorKind, Result};
use selfsame_kernels::order::LEAF;
use selfsame_kernels::philox::Stream;

use crate::config::Config;
use crate::method::MethodSpec;
use crate::session::to_views;
use crate::settings;
use crate::trainer::{Plan, Trainer};

/// What to profile.
pub struct Request {
    /// The method.
    pub spec: &'static MethodSpec,
    /// Its resolved configuration, batch included.
    pub config: Config,
    /// The images.
    pub data: Arc<dyn Dataset>,
    /// Background threads that prepare images.
    pub workers: usize,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
}

/// What was measured.
pub struct Profiled {
    /// The measured steps.
    pub recording: Recording,
    /// Every change of the memory, from the first parameter on.
    pub memory: MemoryLog,
    /// The time of each measured step, waiting for data included.
    pub steps: Vec<Duration>,
}

impl Request {
    /// Runs the steps on `device`, which should be freshly opened: what lives there already counts.
    ///
    /// # Errors
    /// `Config` when the data set has fewer images than a batch; those of training.
    pub fn run(&self, device: &Device, roof: Option<Roof>) -> Result<Profiled> {
        device.begin_memory_log();
        let plan = Plan::of(&self.config, self.data.len())?;
        let mut trainer = Trainer::new(self.spec, &self.config, &plan, device)?;
        let mut batches = Batches::new(self, device)?;
        let mut steps = Vec::with_capacity(self.steps);
        for step in 0..self.warmup + self.steps {
            if step == self.warmup {
                device.profiler().start(roof);
            }
            let started = Instant::now();
            let phase = device.phase(Phase::Data);
            let batch = batches.next()?;
            let views = to_views(&batch, device)?;
            drop(phase);
            trainer.step(&views, started.elapsed())?;
            if step >= self.warmup {
                steps.push(started.elapsed());
            }
        }
        let recording = device.profiler().stop();
        let memory = device.end_memory_log().ok_or_else(|| {
            Error::new(ErrorKind::Config, "profile", "the memory log was ended by another profile")
                .expected("one profile of a device at a time")
        })?;
        Ok(Profiled { recording, memory, steps })
    }

    /// The images that batches are made of: pairs of micro-batches (what is live at the peak of a few is not yet what is
    /// live at the peak of many), statistics groups of batch norm, or leaves of the sums over samples.
    ///
    /// # Errors
    /// `Config` when `micro_batch` or `bn_group` is no number.
    pub fn unit(&self) -> Result<usize> {
        let pair = 2 * self.config.usize("micro_batch")?;
        Ok(pair.max(self.config.usize("bn_group")?).max(LEAF))
    }

    /// Runs two steps of `batch` images on `device` for their memory alone.
    ///
    /// # Errors
    /// As for [`Request::run`].
    pub fn probe(&self, batch: usize, device: &Device) -> Result<Probe> {
        let mut config = self.config.clone();
        settings::set_argument(&mut config, "batch", batch as i64)?;
        let is_cut = config.usize("micro_batch")? > 0;
        let request = Request { config, data: Arc::clone(&self.data), warmup: 2, steps: 0, ..*self };
        Ok(Probe { batch, is_cut, log: request.run(device, None)?.memory })
    }
}

/// The two batches to probe for the memory of `batch` images: the smallest two whose sums over samples form as many
/// trees as those of `batch` do, one per bit of the number of units, as long as that takes but a few units and at most
/// `images` images. A unit is a leaf of these sums, or several leaves that go together ([`Request::unit`]), of which there
/// are at least two: a single one is the whole batch, and nothing is cut.
pub fn probe_batches(batch: usize, images: usize, unit: usize) -> [usize; 2] {
    let trees = batch.div_ceil(unit).count_ones().clamp(1, 3);
    let least = if unit > LEAF { 2 } else { 1 };
    let of = |trees: u32| {
        let fewest = ((1usize << trees) - 1).max(least);
        [fewest, fewest + (1 << fewest.ilog2())].map(|units| units * unit)
    };
    (1..=trees).rev().map(of).find(|[_, large]| *large <= images).unwrap_or_else(|| of(1))
}

/// Batches of epoch after epoch.
struct Batches {
    data: Arc<dyn Dataset>,
    config: LoaderConfig,
    loader: Loader,
}

impl Batches {
    fn new(request: &Request, device: &Device) -> Result<Batches> {
        let profiler = device.profiler();
        let watched = |inner| -> Arc<dyn Augment> { Arc::new(Watched { inner, profiler: Arc::clone(profiler) }) };
        let config = LoaderConfig {
            batch: request.config.usize("batch")?,
            views: (request.spec.views)(&request.config)?.into_iter().map(watched).collect(),
            seed: request.config.usize("seed")? as u64,
            workers: request.workers,
            ..LoaderConfig::default()
        };
        let data: Arc<dyn Dataset> =
            Arc::new(Watched { inner: Arc::clone(&request.data), profiler: Arc::clone(profiler) });
        Ok(Batches { loader: Loader::new(Arc::clone(&data), config.clone())?, data, config })
    }

    fn next(&mut self) -> Result<selfsame_data::Batch> {
        if let Some(batch) = self.loader.next() {
            return batch;
        }
        self.config.epoch += 1;
        self.loader = Loader::new(Arc::clone(&self.data), self.config.clone())?;
        self.loader.next().unwrap_or_else(|| Err(Error::new(ErrorKind::Config, "profile", "an epoch without a batch")))
    }
}

/// A data set or transform that tells the profiler what it does.
struct Watched<T> {
    inner: T,
    profiler: Arc<Profiler>,
}

impl Dataset for Watched<Arc<dyn Dataset>> {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let _span = self.profiler.open(Kind::Load, "load", Work::default);
        self.inner.get(index)
    }

    fn classes(&self) -> &[String] {
        self.inner.classes()
    }

    fn describe(&self) -> DatasetInfo {
        self.inner.describe()
    }
}

impl Augment for Watched<Arc<dyn Augment>> {
    fn apply(&self, image: &mut Image, rng: &mut Stream) -> Result<()> {
        let _span = self.profiler.open(Kind::Augment, "augment", Work::default);
        self.inner.apply(image, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::simclr;
    use selfsame_data::{Split, open};
    use selfsame_engine::profile::{Owner, Plan as MemoryPlan, plan};

    fn request(settings: &[&str]) -> Request {
        let mut config = crate::settings::defaults(&simclr::SPEC).unwrap();
        let small = ["backbone=resnet-small", "stem=small", "width=0.25"];
        small.iter().chain(settings).for_each(|setting| config.apply_setting(setting).unwrap());
        let data = open("scenes:train=128,test=20", Split::Train).unwrap();
        Request { spec: &simclr::SPEC, config, data, workers: 1, warmup: 1, steps: 1 }
    }

    fn total(bytes: [usize; 7]) -> f64 {
        bytes.iter().sum::<usize>() as f64
    }

    #[test]
    fn probes_form_as_many_trees_as_the_batch() {
        assert_eq!(probe_batches(512, 5000, LEAF), [16, 32]);
        assert_eq!(probe_batches(96, 5000, LEAF), [48, 80]);
        assert_eq!(probe_batches(96, 70, LEAF), [16, 32]);
        assert_eq!(probe_batches(112, 5000, LEAF), [112, 176]);
        assert_eq!(probe_batches(96, 5000, 32), [96, 160]);
        assert_eq!(probe_batches(512, 5000, 32), [64, 128]);
        for batch in [16, 40, 96, 333] {
            let trees = |batch: usize| batch.div_ceil(LEAF).count_ones();
            probe_batches(batch, 5000, LEAF)
                .iter()
                .for_each(|&probe| assert_eq!(trees(probe), trees(batch), "{batch}"));
        }
    }

    /// The plan of a step, and how much of what it then needs that is.
    fn planned(settings: &[&str]) -> (MemoryPlan, f64) {
        let request = request(settings);
        let batch = request.config.usize("batch").unwrap();
        let fresh = || Device::cpu_with(2).unwrap();
        let [small, large] = probe_batches(batch, request.data.len(), request.unit().unwrap())
            .map(|batch| request.probe(batch, &fresh()).unwrap());
        let planned = plan(&small, &large, batch).unwrap();
        let measured = request.run(&fresh(), None).unwrap().memory.peak().unwrap();
        let ratio = planned.bytes() as f64 / measured.bytes() as f64;
        (planned, ratio)
    }

    #[test]
    fn the_plan_of_a_step_is_within_one_percent_of_its_memory() {
        let cases =
            [&["optimizer=adamw", "batch=128"][..], &["recompute=true", "batch=96"], &["bn_group=32", "batch=128"]];
        for settings in cases {
            let (planned, ratio) = planned(settings);
            assert!((ratio - 1.0).abs() < 0.01, "{settings:?}: {ratio}, {:?}", planned.by_owner);
            assert!(!planned.pieces.is_empty(), "the logs of the probes agree");
            assert!(planned.of(Owner::Saved) > 0 && planned.of(Owner::Parameters) > 0);
        }
    }

    #[test]
    fn the_plan_of_micro_batches_is_within_five_percent() {
        let settings = ["micro_batch=16", "batch_norm=frozen", "batch=96"];
        let (planned, ratio) = planned(&settings);
        assert!((ratio - 1.0).abs() < 0.05, "{ratio}, {:?}", planned.by_owner);
    }

    #[test]
    fn a_profiled_step_has_phases_owners_and_a_loss() {
        let request = request(&["batch=32", "optimizer=sgd"]);
        let device = Device::cpu_with(2).unwrap();
        let profiled = request.run(&device, None).unwrap();
        let recording = &profiled.recording;
        for phase in [Phase::Data, Phase::Forward, Phase::Backward, Phase::Optimizer] {
            assert!(recording.time(Kind::Phase, phase.name()) > Duration::ZERO, "{phase:?}");
        }
        for name in ["conv2d", "conv2d_input_grad", "conv2d_weight_grad", "linear", "sgd_step"] {
            assert!(recording.totals.contains_key(&(Kind::Primitive, name)), "{name}");
        }
        assert!(recording.totals[&(Kind::OpBackward, "conv2d")].calls > 0);
        assert!(recording.module_time.keys().any(|path| path.starts_with("encoder.")));
        let loss = recording.regions["loss"];
        assert!(loss > Duration::ZERO && loss < profiled.steps[0]);

        // The batch, the parameters and as much optimiser state are there at the peak, and belong to their owners.
        let peak = profiled.memory.peak().unwrap();
        let of = |owner: Owner| peak.by_owner[owner as usize];
        assert!(of(Owner::Data) >= 2 * 32 * 32 * 32 * 3 * 4);
        assert!(of(Owner::Parameters) >= of(Owner::Optimizer) && of(Owner::Optimizer) > 0);
        assert!(of(Owner::Saved) as f64 > 0.5 * (total(peak.by_owner) - of(Owner::Parameters) as f64));
        assert_eq!(device.memory().live, 0, "what the run allocated is gone with it");
    }
}
