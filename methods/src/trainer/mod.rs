//! The trainer: one step of one method, and everything that a checkpoint has to hold.
//!
//! Data flows one way: views, the method's loss, backward, optimiser, buffer updates, after-step hooks. Nothing is
//! written before the loss and every gradient are known to be finite, so a failed step leaves the last state intact.

mod bits;
mod compute;
mod cut;
mod diagnose;
mod snapshot;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use selfsame_autograd::ParamSet;
use selfsame_autograd::optim::Optimizer;
use selfsame_autograd::schedule::Schedule;
use selfsame_engine::profile::Phase;
use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, ops};
use selfsame_models::{Ctx, Init};

use crate::config::Config;
use crate::eval::collapse;
use crate::method::{Method, MethodSpec, Views};
use crate::parts;
use crate::run::fingerprints::Detail;
use crate::sweep::Sweep;

pub use bits::StepBits;
pub(crate) use bits::entries;
pub use cut::Cut;
pub(crate) use watch::Watch;

use compute::{Computed, Job, Objective};

/// A method in training.
pub struct Trainer {
    method: Box<dyn Method>,
    params: ParamSet,
    optimizer: Box<dyn Optimizer>,
    optimizer_state: ParamSet,
    rate: Schedule,
    weight_decay: Schedule,
    /// Largest norm of each parameter's gradient.
    clip: Option<f64>,
    device: Device,
    cut: Cut,
    /// The device as each rank has it.
    shares: Vec<Device>,
    seed: u64,
    recompute: bool,
    rank_every: u64,
    images: usize,
    detail: Detail,
    step: u64,
}

/// How long a training lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Epochs.
    pub epochs: u64,
    /// Images of the training set.
    pub images: usize,
    /// Images of each epoch that are left out, being fewer than a batch.
    pub dropped: usize,
}

impl Plan {
    /// The plan for a data set of `images`.
    ///
    /// # Errors
    /// `Config` when there are fewer images than one batch.
    pub fn of(config: &Config, images: usize) -> Result<Plan> {
        let batch = config.at_least("batch", 2)?;
        if images < batch {
            return Err(Error::new(ErrorKind::Config, "configuration key 'batch'", batch.to_string())
                .expected(format!("at most the {images} images of the data set")));
        }
        let epochs = config.at_least("epochs", 1)? as u64;
        Ok(Plan { steps_per_epoch: (images / batch) as u64, epochs, images, dropped: images % batch })
    }

    /// Steps in all.
    pub fn steps(&self) -> u64 {
        self.steps_per_epoch * self.epochs
    }
}

/// Where the time of a step went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Waiting for the loader.
    pub data: Duration,
    /// Forward, loss included.
    pub forward: Duration,
    /// Backward.
    pub backward: Duration,
    /// Gradient norm, optimiser, buffers, hooks.
    pub optimizer: Duration,
    /// Hashing what was computed.
    pub fingerprint: Duration,
}

impl Times {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.data + self.forward + self.backward + self.optimizer + self.fingerprint
    }
}

/// What is known after a step.
#[derive(Clone, Debug)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// L2 norm of all gradients.
    pub grad_norm: f64,
    /// See [`collapse::embedding_std`].
    pub embedding_std: Option<f64>,
    /// See [`collapse::effective_rank`]; every `log_every` steps.
    pub effective_rank: Option<f64>,
    /// More numbers from the method.
    pub scalars: Vec<(String, f64)>,
    /// Where the time went.
    pub times: Times,
    /// Images per second of this step, data included.
    pub images_per_second: f64,
    /// Bytes that arrays hold after the step.
    pub memory_live: usize,
    /// The most that they have held.
    pub memory_peak: usize,
    /// Hashes of the step, when they are wanted: see [`Trainer::set_fingerprints`].
    pub bits: Option<StepBits>,
}

impl Trainer {
    /// Builds the method of `spec` from `config`, at step 0, on one rank: see [`Trainer::with_cut`].
    ///
    /// # Errors
    /// `Config` for values out of range, those of building, and as for [`Trainer::with_cut`].
    pub fn new(spec: &MethodSpec, config: &Config, plan: &Plan, device: &Device) -> Result<Trainer> {
        let seed = config.usize("seed")? as u64;
        let method = (spec.build)(config, &Init::new(device, seed), plan)?;
        let params = ParamSet::collect(|visitor| method.visit(visitor))?;
        let optimizer = parts::optimizer(config, &params)?;
        let trainer = Trainer {
            optimizer_state: ParamSet::collect(|visitor| optimizer.visit(visitor))?,
            optimizer,
            rate: parts::learning_rate(config, plan.steps(), plan.steps_per_epoch)?,
            weight_decay: parts::weight_decay(config, plan.steps())?,
            clip: parts::clip(config)?,
            recompute: config.bool("recompute")?,
            rank_every: config.at_least("log_every", 1)? as u64,
            device: device.clone(),
            shares: vec![device.clone()],
            cut: Cut::of(config, 1)?,
            images: plan.images,
            detail: Detail::Off,
            step: 0,
            method,
            params,
            seed,
        };
        trainer.expect_divisible()
    }

    /// Cuts batches so. Ranks are threads of this process, each with its share of the device's threads.
    ///
    /// # Errors
    /// `Numerics` for micro-batches of a method that cannot be divided; `Device` when the system refuses a thread.
    pub fn with_cut(mut self, cut: Cut) -> Result<Trainer> {
        let (threads, ranks) = (self.device.host().workers().threads(), cut.ranks());
        self.shares = match ranks {
            1 => vec![self.device.clone()],
            _ => {
                let share = |rank: usize| (rank + 1) * threads / ranks - rank * threads / ranks;
                (0..ranks).map(|rank| self.device.share(share(rank).max(1))).collect::<Result<_>>()?
            }
        };
        self.cut = cut;
        self.expect_divisible()
    }

    fn expect_divisible(self) -> Result<Trainer> {
        if self.cut.has_micro_batches() && self.method.indivisible().is_some() {
            return Err(self.method.undivided());
        }
        Ok(self)
    }

    /// How batches are cut.
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// The method.
    pub fn method(&self) -> &dyn Method {
        &*self.method
    }

    /// Its parameters and buffers.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// The device it computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The first part of an epoch that has no step yet: see [`Method::before_epoch`].
    ///
    /// # Errors
    /// Those of the method; `Config` when it names a parameter that it does not have.
    pub fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<()> {
        let renewed = self.method.before_epoch(epoch, sweep)?;
        renewed.iter().try_for_each(|path| self.optimizer.reset(path))
    }

    /// The sampler's order of an epoch, if the method has one: see [`Method::begin_epoch`].
    ///
    /// # Errors
    /// Those of the method; `Config` when the order is not as long as the training set.
    pub fn begin_epoch(&mut self, epoch: u64) -> Result<Option<Arc<[usize]>>> {
        let Some(order) = self.method.begin_epoch(epoch)? else { return Ok(None) };
        if order.len() != self.images {
            return Err(Error::new(ErrorKind::Config, "order of an epoch", format!("{} images", order.len()))
                .expected(format!("{}, as the training set", self.images)));
        }
        Ok(Some(order.into()))
    }

    /// One step on the views of one batch; `waited` is the time that the batch took to arrive.
    ///
    /// # Errors
    /// `NonFinite`, naming the operation that produced the first NaN or infinity, and those of the operations. The
    /// state is then that before the step.
    pub fn step(&mut self, views: &Views, waited: Duration) -> Result<StepRecord> {
        let lr = self.rate.at(self.step);
        let (computed, operations) = self.logged(|| self.compute(views));
        let computed = match computed {
            Err(error) if error.kind() == ErrorKind::NonFinite => return Err(self.diagnose(views, &error.sentence())),
            result => result?,
        };
        let Computed { objective: Objective { loss, scalars, embeddings }, grads, updates, forward, backward } =
            computed;
        let bits = self.gradient_bits(&grads)?;
        let mut clock = Clock::start();
        let phase = self.device.phase(Phase::Optimizer);
        let grads = match self.clip {
            Some(largest) => grads.clip_each(largest)?,
            None => grads,
        };
        self.optimizer.set_weight_decay(self.weight_decay.at(self.step));
        let stats = match self.optimizer.step(&self.params, &grads, lr) {
            Err(error) if error.kind() == ErrorKind::NonFinite => return Err(self.diagnose(views, &error.sentence())),
            result => result?,
        };
        drop(grads);
        updates.commit()?;
        self.method.after_step(self.step)?;
        drop(phase);
        let optimizer = clock.lap();
        self.step += 1;

        let bits = bits.map(|bits| self.with_state(bits, operations)).transpose()?;
        let fingerprint = bits.as_ref().map_or(Duration::ZERO, |bits| bits.time);
        let embeddings = embeddings.as_ref();
        let ranked = embeddings.filter(|_| parts::is_watched(self.step, self.rank_every));
        let times = Times { data: waited, forward, backward, optimizer, fingerprint };
        let memory = self.device.memory();
        Ok(StepRecord {
            step: self.step,
            loss,
            lr,
            grad_norm: stats.grad_norm,
            embedding_std: embeddings.map(collapse::embedding_std).transpose()?,
            effective_rank: ranked.map(collapse::effective_rank).transpose()?,
            scalars,
            times,
            images_per_second: views.images() as f64 / times.total().as_secs_f64(),
            memory_live: memory.live,
            memory_peak: memory.peak,
            bits,
        })
    }

    /// Runs the networks on a few images as the cut will, and keeps nothing: what cannot be cut is refused now.
    ///
    /// # Errors
    /// `Numerics`, with the reason; and those of the operations.
    pub fn rehearse(&self, views: &Views) -> Result<()> {
        let cx = Ctx::train().batch_norm(self.cut.batch_norm()).no_grad().apart(self.cut.runs_apart());
        self.method.embed(views, &cx)?;
        self.method.targets(views, &cx).map(drop)
    }

    /// Loss, gradients and buffer updates of a batch under this trainer's cut; nothing is written.
    fn compute(&self, views: &Views) -> Result<Computed> {
        // A context for each part: what it collects is its own.
        let (seed, step, recompute, batch_norm) = (self.seed, self.step, self.recompute, self.cut.batch_norm());
        let context = || Ctx::train().step(seed, step).recompute(recompute).batch_norm(batch_norm);
        Job { method: &*self.method, cut: &self.cut, shares: &self.shares, context: &context }.run(views)
    }
}

/// The one element of a float array.
pub(crate) fn scalar(array: &Array) -> Result<f64> {
    ops::cast(array, DType::F64)?.item::<f64>()
}

/// Measures laps.
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Time since the start or the last lap.
    pub(crate) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}
