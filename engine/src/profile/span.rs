//! [`Profiler`]: opens and closes spans while it is on. [`Span`]: one of them, closed on drop.

use super::ledger::Owner;
use super::recording::{Kind, Opened, Recorder, Recording};
use super::roof::Roof;
use super::work::Work;
use crate::Device;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The profiler of one device. Off until [`Profiler::start`].
#[derive(Default)]
pub struct Profiler {
    on: AtomicBool,
    recorder: Mutex<Recorder>,
}

impl Profiler {
    /// Whether spans are recorded.
    #[inline]
    pub fn is_on(&self) -> bool {
        // Nothing is published through the flag: a span that sees an old value is recorded, or is not.
        self.on.load(Ordering::Relaxed)
    }

    /// Begins a recording; one that was going on is lost. `roof` is what spans are held against.
    pub fn start(&self, roof: Option<Roof>) {
        self.recorder().begin(roof);
        self.on.store(true, Ordering::Relaxed);
    }

    /// Ends the recording. Spans that are open are left out.
    pub fn stop(&self) -> Recording {
        self.on.store(false, Ordering::Relaxed);
        self.recorder().finish()
    }

    /// Opens a span on the calling thread's lane.
    #[inline]
    pub fn open(self: &Arc<Self>, kind: Kind, name: &'static str, work: impl FnOnce() -> Work) -> Span {
        if !self.is_on() {
            return Span::closed();
        }
        self.opened(Opened { work: work(), ..Opened::new(kind, name) })
    }

    /// Opens the span of a differentiable operation, `backward` or forward. `module` is the path of the module whose
    /// parameters it uses and is asked for only while the profiler is on; `region` the one that its forward ran in.
    #[inline]
    pub fn open_op(
        self: &Arc<Self>,
        name: &'static str,
        backward: bool,
        region: Option<&'static str>,
        module: impl FnOnce() -> Option<String>,
    ) -> Span {
        if !self.is_on() {
            return Span::closed();
        }
        let kind = if backward { Kind::OpBackward } else { Kind::Op };
        self.opened(Opened { module: module(), region, ..Opened::new(kind, name) })
    }

    #[cold]
    fn opened(self: &Arc<Self>, span: Opened) -> Span {
        let (generation, depth) = self.recorder().open(span);
        Span { at: Some(Place { profiler: Arc::clone(self), generation, depth }), thread: PhantomData }
    }

    /// The region that the calling thread is in, while the profiler is on.
    #[inline]
    pub fn region(&self) -> Option<&'static str> {
        if self.is_on() { self.recorder().region() } else { None }
    }

    /// The name of the innermost span of the calling thread, while the profiler is on.
    pub(crate) fn current(&self) -> Option<&'static str> {
        if self.is_on() { self.recorder().current() } else { None }
    }

    /// Records a span of a lane of its own that is over.
    pub(crate) fn record(&self, lane: SpanLane<'_>, kind: Kind, name: &'static str, time: [Instant; 2], work: Work) {
        if self.is_on() {
            self.recorder().record(lane, kind, name, time, work);
        }
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        // A panic inside leaves at worst a lane with an open span, which the next recording clears.
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a span that is over goes.
pub(crate) enum SpanLane<'a> {
    /// The lane of that name.
    Named(&'a str),
    /// The lane of the calling thread.
    Thread,
}

/// An open span of the calling thread; closed on drop. Spans of a thread close in the reverse order of opening.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    at: Option<Place>,
    /// A span is closed on the thread that opened it.
    thread: PhantomData<*const ()>,
}

struct Place {
    profiler: Arc<Profiler>,
    generation: u64,
    depth: usize,
}

impl Span {
    /// One that records nothing.
    #[inline]
    pub fn closed() -> Span {
        Span { at: None, thread: PhantomData }
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if let Some(Place { profiler, generation, depth }) = self.at.take() {
            let now = Instant::now();
            profiler.recorder().close(generation, depth, now);
        }
    }
}

/// The parts of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Waiting for the batch and moving it to the device.
    Data,
    /// Forward, loss included.
    Forward,
    /// Backward.
    Backward,
    /// Gradient norm, optimiser, buffers, hooks.
    Optimizer,
}

impl Phase {
    /// Its name in tables and traces.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Data => "data",
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Optimizer => "optimizer",
        }
    }

    fn owner(self) -> Owner {
        match self {
            Phase::Data => Owner::Data,
            Phase::Forward | Phase::Backward | Phase::Optimizer => Owner::Workspace,
        }
    }
}

/// A phase of the calling thread, until it is dropped.
#[must_use = "a phase ends when it is dropped"]
pub struct PhaseScope {
    _span: Span,
    _owner: OwnerScope,
}

/// New memory of a device belongs to an owner, until this is dropped.
#[must_use = "the scope ends when it is dropped"]
pub struct OwnerScope {
    device: Device,
    before: Owner,
}

impl Drop for OwnerScope {
    fn drop(&mut self) {
        self.device.set_owner_scope(self.before);
    }
}

impl Device {
    /// The device's profiler.
    #[inline]
    pub fn profiler(&self) -> &Arc<Profiler> {
        self.host().profiler()
    }

    /// Opens the span of a primitive.
    #[inline]
    pub fn span(&self, name: &'static str, work: impl FnOnce() -> Work) -> Span {
        self.profiler().open(Kind::Primitive, name, work)
    }

    /// Opens a region: a named part of a phase, such as the loss. Differentiable operations recorded inside belong to
    /// it, forward and backward.
    #[inline]
    pub fn region(&self, name: &'static str) -> Span {
        self.profiler().open(Kind::Region, name, Work::default)
    }

    /// Enters a phase of a step: a span, and the owner of what is computed meanwhile.
    pub fn phase(&self, phase: Phase) -> PhaseScope {
        PhaseScope {
            _span: self.profiler().open(Kind::Phase, phase.name(), Work::default),
            _owner: self.owned_by(phase.owner()),
        }
    }

    /// Makes `owner` that of new memory of this device. The scope is the device's, not the thread's: a device is used
    /// by one training at a time.
    pub fn owned_by(&self, owner: Owner) -> OwnerScope {
        OwnerScope { before: self.set_owner_scope(owner), device: self.clone() }
    }
}

impl fmt::Debug for Profiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "profiler ({})", if self.is_on() { "on" } else { "off" })
    }
}
