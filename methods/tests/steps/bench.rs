//! A method in training on a few images.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use selfsame_autograd::{Grads, ParamSet, Tensor};
use selfsame_data::augment::EvalTransform;
use selfsame_data::{Augment, Batch, Dataset, Loader, LoaderConfig, Split, open};
use selfsame_engine::{DType, Device, ops};
use selfsame_methods::eval::features::to_array;
use selfsame_methods::method::{Method, MethodSpec, Views};
use selfsame_methods::trainer::{Plan, StepRecord, Trainer};
use selfsame_methods::{Config, Sweep, settings};
use selfsame_models::{Ctx, Init};

/// Steps in an epoch of [`Bench`].
pub(crate) const STEPS: u64 = 3;
/// Images in a batch.
pub(crate) const BATCH: usize = 16;
/// Epochs of the plan.
pub(crate) const EPOCHS: u64 = 4;

/// A trainer, and the images of its three steps an epoch.
pub(crate) struct Bench {
    pub(crate) trainer: Trainer,
    dataset: Arc<dyn Dataset>,
    views: Vec<Arc<dyn Augment>>,
    device: Device,
}

/// The configuration of `spec` for small images and narrow networks, then `changed`.
pub(crate) fn config(spec: &MethodSpec, changed: &[&str]) -> Config {
    let mut config = settings::defaults(spec).unwrap();
    let (batch, epochs) = (format!("batch={BATCH}"), format!("epochs={EPOCHS}"));
    let own = ["hidden=24", "dim=12", "bottleneck=12", "outputs=20", "prototypes=6", "small_crops=1", "small_size=8"];
    let common = ["backbone=resnet-small", "stem=small", "width=0.25", "size=16", "warmup_epochs=0", "lr=0.1"];
    for setting in common.into_iter().chain([&batch[..], &epochs]).chain(own) {
        if config.entry(setting.split('=').next().unwrap()).is_ok() {
            config.apply_setting(setting).unwrap();
        }
    }
    changed.iter().for_each(|setting| config.apply_setting(setting).unwrap());
    config
}

/// Three batches and two images more, which no epoch sees all of.
fn images() -> usize {
    STEPS as usize * BATCH + 2
}

pub(crate) fn plan(config: &Config) -> Plan {
    Plan::of(config, images()).unwrap()
}

/// One for all: arrays of two devices do not mix.
fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::cpu_with(1).unwrap());
    DEVICE.clone()
}

impl Bench {
    pub(crate) fn new(spec: &'static MethodSpec, changed: &[&str]) -> Bench {
        let (device, config) = (device(), config(spec, changed));
        Bench {
            trainer: Trainer::new(spec, &config, &plan(&config), &device).unwrap(),
            dataset: open(&format!("scenes:train={},test=20", images()), Split::Train).unwrap(),
            views: (spec.views)(&config).unwrap(),
            device,
        }
    }

    /// What comes before an epoch.
    pub(crate) fn begin(&mut self, epoch: u64) {
        let eval_transform: Arc<dyn Augment> = Arc::new(EvalTransform::new(16));
        let sweep = Sweep {
            dataset: &self.dataset,
            views: &self.views,
            eval_transform: &eval_transform,
            workers: 0,
            device: &self.device,
            seed: 0,
            epoch,
        };
        self.trainer.before_epoch(epoch, &sweep).unwrap();
    }

    /// The batches of an epoch, in the method's order.
    pub(crate) fn batches(&mut self, epoch: u64) -> Vec<Views> {
        let order = self.trainer.begin_epoch(epoch).unwrap();
        let views = self.views.clone();
        let loader = LoaderConfig { batch: BATCH, views, workers: 0, epoch, order, ..LoaderConfig::default() };
        let loader = Loader::new(Arc::clone(&self.dataset), loader).unwrap();
        loader.take(STEPS as usize).map(|batch| to_views(&batch.unwrap(), &self.device)).collect()
    }

    /// The first batch of the first epoch.
    pub(crate) fn batch(&mut self) -> Views {
        self.batches(0).remove(0)
    }

    pub(crate) fn step(&mut self, views: &Views) -> StepRecord {
        self.trainer.step(views, Duration::ZERO).unwrap()
    }

    /// A whole epoch; its records.
    pub(crate) fn epoch(&mut self, epoch: u64) -> Vec<StepRecord> {
        self.begin(epoch);
        self.batches(epoch).iter().map(|views| self.step(views)).collect()
    }

    /// Every parameter and buffer whose path begins so, in f64 by path.
    pub(crate) fn values(&self, prefix: &str) -> BTreeMap<String, Vec<f64>> {
        values(self.trainer.params(), prefix)
    }

    /// The labels or other integers at `path`.
    pub(crate) fn integers(&self, path: &str) -> Vec<i64> {
        self.trainer.params().get(path).unwrap().array().to_vec().unwrap()
    }
}

/// The views of a batch.
pub(crate) fn to_views(batch: &Batch, device: &Device) -> Views {
    let view = |view| Tensor::constant(to_array(view, device).unwrap());
    Views::new(batch.views.iter().map(view).collect(), batch.indices.clone()).unwrap()
}

pub(crate) fn values(params: &ParamSet, prefix: &str) -> BTreeMap<String, Vec<f64>> {
    let wide = |array| ops::cast(&array, DType::F64).unwrap().to_vec::<f64>().unwrap();
    let found = params.iter().filter(|(path, _)| path.starts_with(prefix));
    found.map(|(path, param)| (path.to_string(), wide(param.array()))).collect()
}

/// A method by itself, and its parameters.
pub(crate) fn built(spec: &'static MethodSpec, changed: &[&str]) -> (Box<dyn Method>, ParamSet) {
    let (device, config) = (device(), config(spec, changed));
    let method = (spec.build)(&config, &Init::new(&device, 0), &plan(&config)).unwrap();
    let params = ParamSet::collect(|visitor| method.visit(visitor)).unwrap();
    (method, params)
}

/// The loss on `views` at step `step`, and its gradients.
pub(crate) fn loss(method: &dyn Method, views: &Views, step: u64) -> (f64, Grads) {
    let found = method.loss(views, &Ctx::train().step(0, step)).unwrap();
    let value = ops::cast(found.loss.array(), DType::F64).unwrap().item::<f64>().unwrap();
    (value, found.loss.backward().unwrap())
}
