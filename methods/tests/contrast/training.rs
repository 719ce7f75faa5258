//! A training of a few epochs on a few images, seen from within.

use selfsame_data::augment::EvalTransform;
use selfsame_data::{Augment, Dataset, Loader, LoaderConfig, Split, open};
use selfsame_engine::{Array, Device, Result};
use selfsame_methods::method::MethodSpec;
use selfsame_methods::trainer::{Plan, Trainer};
use selfsame_methods::{Sweep, Views, settings};
use std::sync::Arc;
use std::time::Duration;

/// Images of the training set: two batches.
pub(crate) const IMAGES: usize = 64;

pub(crate) struct Training {
    trainer: Trainer,
    device: Device,
    data: Arc<dyn Dataset>,
    views: Vec<Arc<dyn Augment>>,
    order: Option<Vec<usize>>,
    /// Of all steps.
    pub(crate) losses: Vec<f64>,
    pub(crate) scalars: Vec<(String, f64)>,
}

impl Training {
    pub(crate) fn build(spec: &'static MethodSpec, changed: &[&str]) -> Result<Training> {
        let device = Device::cpu_with(1)?;
        let mut config = settings::defaults(spec)?;
        let small = ["backbone=resnet-small", "stem=small", "width=0.25", "size=16", "warmup_epochs=0", "bn_group=16"];
        let small = small.into_iter().chain(["batch=32", "epochs=5"]);
        small.chain(changed.iter().copied()).try_for_each(|setting| config.apply_setting(setting))?;
        let plan = Plan::of(&config, IMAGES)?;
        Ok(Training {
            trainer: Trainer::new(spec, &config, &plan, &device)?,
            device,
            data: open(&format!("scenes:train={IMAGES},test=20"), Split::Train)?,
            views: (spec.views)(&config)?,
            order: None,
            losses: Vec::new(),
            scalars: Vec::new(),
        })
    }

    pub(crate) fn new(spec: &'static MethodSpec, changed: &[&str]) -> Training {
        Training::build(spec, changed).unwrap()
    }

    /// Begins `epoch`; returns the order that the method wants.
    pub(crate) fn begin(&mut self, epoch: u64) -> Option<Vec<usize>> {
        let eval: Arc<dyn Augment> = Arc::new(EvalTransform::new(16));
        let sweep = Sweep {
            dataset: &self.data,
            views: &self.views,
            eval_transform: &eval,
            workers: 0,
            device: &self.device,
            seed: 0,
            epoch,
        };
        self.trainer.before_epoch(epoch, &sweep).unwrap();
        self.order = self.trainer.begin_epoch(epoch).unwrap().map(|order| order.to_vec());
        self.order.clone()
    }

    /// The first step of `epoch`; returns its images.
    pub(crate) fn step(&mut self, epoch: u64) -> Vec<usize> {
        self.some_steps(epoch, 1)
    }

    /// All steps of `epoch`, which has begun.
    pub(crate) fn steps(&mut self, epoch: u64) {
        self.some_steps(epoch, usize::MAX);
    }

    /// All of an epoch.
    pub(crate) fn epoch(&mut self, epoch: u64) {
        self.begin(epoch);
        self.steps(epoch);
    }

    fn some_steps(&mut self, epoch: u64, most: usize) -> Vec<usize> {
        let config = LoaderConfig {
            batch: 32,
            views: self.views.clone(),
            workers: 0,
            epoch,
            order: self.order.clone().map(Arc::from),
            ..LoaderConfig::default()
        };
        let mut images = Vec::new();
        for batch in Loader::new(Arc::clone(&self.data), config).unwrap().take(most) {
            let batch = batch.unwrap();
            let view = |view: &selfsame_data::View| {
                let shape = [view.batch, view.height, view.width, view.channels];
                selfsame_autograd::Tensor::constant(Array::from_slice(&view.pixels, &shape, &self.device).unwrap())
            };
            images.extend(&batch.indices);
            let views = Views::new(batch.views.iter().map(view).collect(), batch.indices).unwrap();
            let record = self.trainer.step(&views, Duration::ZERO).unwrap();
            self.losses.push(record.loss);
            self.scalars.extend(record.scalars);
        }
        images
    }

    /// Of parameters and buffers.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.trainer.params().iter().map(|(path, _)| path.to_string()).collect()
    }

    fn array(&self, path: &str) -> Array {
        self.trainer.params().get(path).unwrap_or_else(|| panic!("no {path}")).array()
    }

    pub(crate) fn values(&self, path: &str) -> Vec<f32> {
        self.array(path).to_vec().unwrap()
    }

    pub(crate) fn integers(&self, path: &str) -> Vec<i64> {
        self.array(path).to_vec().unwrap()
    }

    /// The bits of floats or integers.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u64> {
        match self.array(path).to_vec::<f32>() {
            Ok(values) => values.into_iter().map(|value| u64::from(value.to_bits())).collect(),
            Err(_) => self.integers(path).into_iter().map(|value| value as u64).collect(),
        }
    }
}
