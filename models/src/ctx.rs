//! How a forward is run: a plain value handed down, no ambient state.

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

/// The circumstances of one forward: mode, gradients, the place of its images in the global batch, ranks, step.
///
/// A value: the builder methods return a changed copy. Copies share the collected buffer updates.
#[derive(Clone)]
pub struct Ctx {
    mode: Mode,
    tracks: bool,
    recompute: bool,
    local_stats: bool,
    first_image: usize,
    comm: Arc<Comm>,
    seed: u64,
    step: u64,
    view: usize,
    updates: Arc<Mutex<Vec<(Param, Array)>>>,
}

impl Ctx {
    fn new(mode: Mode) -> Ctx {
        Ctx {
            mode,
            tracks: true,
            recompute: false,
            local_stats: false,
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

    /// Batch norm normalises the images of this forward among themselves, whatever the ranks: the configuration
    /// `local`, whose results depend on how the batch is cut. Layers with statistics groups of their own keep to those.
    #[must_use]
    pub fn local_stats(mut self, local: bool) -> Ctx {
        self.local_stats = local;
        self
    }

    /// Whether batch statistics are those of this forward alone.
    pub fn has_local_stats(&self) -> bool {
        self.local_stats
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

    /// The value that `buffer` will have after the updates collected so far: what the next update builds on when
    /// several forwards of a step (one per view) change the same running statistics.
    pub fn current(&self, buffer: &Param) -> Array {
        let updates = self.pending();
        updates.iter().find(|(b, _)| b.is(buffer)).map_or_else(|| buffer.array(), |(_, value)| value.clone())
    }

    /// Collects a new value of `buffer`. The trainer commits all of them once per step.
    pub fn update(&self, buffer: &Param, value: Array) {
        let mut updates = self.pending();
        match updates.iter_mut().find(|(b, _)| b.is(buffer)) {
            Some((_, pending)) => *pending = value,
            None => updates.push((buffer.clone(), value)),
        }
    }

    /// The buffer values collected since the last call, one per buffer, in the order of their first update.
    pub fn take_updates(&self) -> Vec<(Param, Array)> {
        std::mem::take(&mut *self.pending())
    }

    fn pending(&self) -> MutexGuard<'_, Vec<(Param, Array)>> {
        self.updates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same circumstances for a repeated forward, whose buffer updates go nowhere.
    pub(crate) fn repeated(&self) -> Ctx {
        Ctx { updates: Arc::default(), ..self.clone() }
    }
}
