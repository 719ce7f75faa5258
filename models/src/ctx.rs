//! How a forward is run: a plain value handed down, no ambient state.

use crate::Updates;
use selfsame_autograd::{Param, Tensor};
use selfsame_engine::{Array, Comm, Result, Rows};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether layers behave as in training or as in evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Batch norm normalises by the batch and collects running statistics; dropout drops.
    Train,
    /// Batch norm normalises by its running statistics; dropout does nothing.
    Eval,
}

/// What batch norm normalises by in training, where its layers have no statistics groups of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNormMode {
    /// Statistics of the whole batch: micro-batches advance layer by layer, as ranks do. The bits of one large batch.
    #[default]
    Lockstep,
    /// Statistics of the images of this forward alone: one group per micro-batch and rank, so that results depend on
    /// how the batch is cut.
    Local,
    /// Running statistics, which then stay as they are; in layers with groups too. Samples do not see each other.
    Frozen,
}

impl BatchNormMode {
    /// The names that [`BatchNormMode::parse`] takes.
    pub const NAMES: [&str; 3] = ["lockstep", "local", "frozen"];

    /// The mode called `name`.
    pub fn parse(name: &str) -> Option<BatchNormMode> {
        match name {
            "lockstep" => Some(BatchNormMode::Lockstep),
            "local" => Some(BatchNormMode::Local),
            "frozen" => Some(BatchNormMode::Frozen),
            _ => None,
        }
    }
}

/// The circumstances of one forward: mode, gradients, the place of its images in the global batch, ranks, step.
///
/// A value: the builder methods return a changed copy. Copies share the collected buffer updates.
#[derive(Clone)]
pub struct Ctx {
    mode: Mode,
    tracks: bool,
    recompute: bool,
    batch_norm: BatchNormMode,
    apart: bool,
    first_image: usize,
    comm: Arc<Comm>,
    seed: u64,
    step: u64,
    view: usize,
    updates: Arc<Mutex<Updates>>,
}

impl Ctx {
    fn new(mode: Mode) -> Ctx {
        Ctx {
            mode,
            tracks: true,
            recompute: false,
            batch_norm: BatchNormMode::default(),
            apart: false,
            first_image: 0,
            comm: Arc::new(Comm::single()),
            seed: 0,
            step: 0,
            view: 0,
            updates: Arc::default(),
        }
    }

    /// A training forward with gradients, of the whole batch, on one rank.
    pub fn train() -> Ctx {
        Ctx::new(Mode::Train)
    }

    /// An evaluation forward. Parameters are still tracked (a probe may train through it): see [`Ctx::no_grad`].
    pub fn eval() -> Ctx {
        Ctx::new(Mode::Eval)
    }

    /// Parameters are handed out as constants: nothing of this forward is kept for a backward.
    #[must_use]
    pub fn no_grad(mut self) -> Ctx {
        self.tracks = false;
        self
    }

    /// Sets the global index of the first image here, when the batch is cut into micro-batches or over ranks.
    /// Must be a multiple of 16; [`Ctx::rows`] refuses other cuts.
    #[must_use]
    pub fn first_image(mut self, index: usize) -> Ctx {
        self.first_image = index;
        self
    }

    /// Sets the ranks that share the batch.
    #[must_use]
    pub fn comm(mut self, comm: Arc<Comm>) -> Ctx {
        self.comm = comm;
        self
    }

    /// Sets what dropout masks are keyed by, besides layer, view and image.
    #[must_use]
    pub fn step(mut self, seed: u64, step: u64) -> Ctx {
        self.seed = seed;
        self.step = step;
        self
    }

    /// Sets which view of its images this forward sees, so that views get different dropout masks.
    #[must_use]
    pub fn view(mut self, view: usize) -> Ctx {
        self.view = view;
        self
    }

    /// Blocks keep only their input and compute the rest again during backward: less memory, one more forward.
    #[must_use]
    pub fn recompute(mut self, recompute: bool) -> Ctx {
        self.recompute = recompute;
        self
    }

    /// Sets what batch norm normalises by.
    #[must_use]
    pub fn batch_norm(mut self, mode: BatchNormMode) -> Ctx {
        self.batch_norm = mode;
        self
    }

    /// Says that this part of the batch runs apart from the others, which are done before or come later: what needs
    /// all of them at once, such as statistics of the whole batch, is refused.
    #[must_use]
    pub fn apart(mut self, apart: bool) -> Ctx {
        self.apart = apart;
        self
    }

    /// What batch norm normalises by.
    pub fn batch_norm_mode(&self) -> BatchNormMode {
        self.batch_norm
    }

    /// Whether the other parts of the batch are out of reach.
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    /// Train or eval.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether this is a training forward.
    pub fn is_train(&self) -> bool {
        self.mode == Mode::Train
    }

    /// Whether blocks should recompute: asked for, and of use because there will be a backward.
    pub fn recomputes(&self) -> bool {
        self.recompute && self.tracks
    }

    /// The ranks that share the batch.
    pub fn ranks(&self) -> &Arc<Comm> {
        &self.comm
    }

    /// Steps of training before this one: for what begins or ends at some step.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// (seed, step, view) for dropout keys.
    pub(crate) fn draw(&self) -> (u64, u64, usize) {
        (self.seed, self.step, self.view)
    }

    /// Global index of the first image here.
    pub fn first(&self) -> usize {
        self.first_image
    }

    /// The parameter as an operand: a tracked use of it, or a constant under [`Ctx::no_grad`].
    pub fn param(&self, param: &Param) -> Tensor {
        if self.tracks { param.tensor() } else { param.constant() }
    }

    /// Which rows of activation `x` `[images, …, channels]` belong to which image of the global batch.
    ///
    /// # Errors
    /// As for [`Rows::of`].
    pub fn rows(&self, x: &Tensor) -> Result<Rows> {
        Rows::of(x.shape(), self.first_image)
    }

    /// Collects a new value of `buffer`, which every rank must have computed alike. The trainer commits all of them once
    /// per step.
    pub fn update(&self, buffer: &Param, value: Array) {
        self.pending().set(buffer, value);
    }

    /// Collects an observation for the running average `buffer` ← (1 - momentum) · `buffer` + momentum · newest.
    ///
    /// `values` `[groups, …]` holds one for each statistics group here, by the global index of its first image. The
    /// newest is the mean over the groups of the whole batch; observations of several forwards (one per view) move the
    /// average one after the other.
    ///
    /// # Errors
    /// `Shape` when `values` are not one per group.
    pub fn observe(&self, buffer: &Param, momentum: f64, groups: &[usize], values: &Array) -> Result<()> {
        self.pending().observe(buffer, momentum, groups, values)
    }

    /// What was collected since the last call.
    pub fn take_updates(&self) -> Updates {
        std::mem::take(&mut *self.pending())
    }

    fn pending(&self) -> MutexGuard<'_, Updates> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same circumstances for a repeated forward, whose buffer updates go nowhere.
    pub(crate) fn repeated(&self) -> Ctx {
        Ctx { updates: Arc::default(), ..self.clone() }
    }
}
