//! The CPU device: its worker threads, its memory pool, and the loops behind every primitive.

mod arena;
mod bf16;
pub(crate) mod contract;
mod memory;
mod pages;
pub(crate) mod pairs;
pub(crate) mod passes;
pub(crate) mod past;
pub(crate) mod samples;
mod shelf;
pub(crate) mod sinkhorn;
mod workers;

pub(crate) use arena::LARGE;
pub use memory::{Block, MemoryPool, MemoryStats};
pub(crate) use shelf::{Shelf, size_class};
pub use workers::Workers;

use crate::op_log::OpLog;
use crate::profile::Profiler;
use crate::{Error, ErrorKind, Numerics, Result};
use selfsame_kernels::isa::Isa;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A CPU with its own threads and memory pool. Cloning gives another handle to the same device.
#[derive(Clone)]
pub struct CpuDevice(Arc<Inner>);

struct Inner {
    workers: Workers,
    scratch: Arc<contract::Scratch>,
    memory: Arc<MemoryPool>,
    isa: Isa,
    finite_checks: Arc<AtomicBool>,
    numerics: Numerics,
    op_log: Arc<OpLog>,
    profiler: Arc<Profiler>,
}

impl CpuDevice {
    /// A device with `threads` worker threads on the fastest instruction set of this machine.
    ///
    /// # Errors
    /// When `threads` is zero or the system refuses a thread.
    pub fn new(threads: usize) -> Result<CpuDevice> {
        CpuDevice::with_isa(threads, Isa::detect())
    }

    /// A device that runs its loops on `isa`. The bits are those of every other level.
    ///
    /// # Errors
    /// As for [`CpuDevice::new`].
    pub fn with_isa(threads: usize, isa: Isa) -> Result<CpuDevice> {
        CpuDevice::build(threads, isa, Numerics::Strict)
    }

    fn build(threads: usize, isa: Isa, numerics: Numerics) -> Result<CpuDevice> {
        let (memory, profiler) = (Arc::new(MemoryPool::default()), Arc::new(Profiler::default()));
        let workers = Workers::new(threads, Arc::clone(&profiler))?;
        let (scratch, finite_checks, op_log) = (Arc::default(), Arc::default(), Arc::default());
        Ok(CpuDevice(Arc::new(Inner { workers, scratch, memory, isa, numerics, finite_checks, op_log, profiler })))
    }

    /// The same device for a rank: its memory and switches, with `threads` worker threads of the rank's own. What an
    /// operation returns stays with the threads of its first operand; arrays of both may meet.
    ///
    /// # Errors
    /// As for [`CpuDevice::new`].
    pub fn share(&self, threads: usize) -> Result<CpuDevice> {
        let Inner { scratch, memory, isa, numerics, finite_checks, op_log, profiler, .. } = &*self.0;
        Ok(CpuDevice(Arc::new(Inner {
            workers: Workers::new(threads, Arc::clone(profiler))?,
            scratch: Arc::clone(scratch),
            memory: Arc::clone(memory),
            isa: *isa,
            numerics: *numerics,
            finite_checks: Arc::clone(finite_checks),
            op_log: Arc::clone(op_log),
            profiler: Arc::clone(profiler),
        })))
    }

    /// A device with one thread per core that this process may use.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn all_cores() -> Result<CpuDevice> {
        let threads = std::thread::available_parallelism()
            .map_err(|e| Error::new(ErrorKind::Device, "cpu device", format!("the core count is unknown: {e}")))?;
        CpuDevice::new(threads.get())
    }

    /// The worker threads.
    pub fn workers(&self) -> &Workers {
        &self.0.workers
    }

    /// The memory pool.
    pub fn memory(&self) -> &Arc<MemoryPool> {
        &self.0.memory
    }

    /// Makes every differentiable operation on this device check what it computes, forward and backward, and fail
    /// with `NonFinite` at the first NaN or infinity. Slow; it answers where a bad value was born.
    pub fn set_finite_checks(&self, on: bool) {
        self.0.finite_checks.store(on, Ordering::Relaxed);
    }

    /// Whether operations check what they compute.
    pub fn checks_finite(&self) -> bool {
        self.0.finite_checks.load(Ordering::Relaxed)
    }

    /// This device where it has those numerics; else another, with threads and memory of its own.
    ///
    /// # Errors
    /// As for [`CpuDevice::new`].
    pub fn in_numerics(self, numerics: Numerics) -> Result<CpuDevice> {
        if self.numerics() == numerics {
            return Ok(self);
        }
        CpuDevice::build(self.workers().threads(), self.isa(), numerics)
    }

    /// Whether it keeps the canonical order; strict unless asked otherwise.
    pub fn numerics(&self) -> Numerics {
        self.0.numerics
    }

    /// The log of operations; off unless begun.
    #[inline]
    pub fn op_log(&self) -> &OpLog {
        &self.0.op_log
    }

    /// The profiler.
    #[inline]
    pub fn profiler(&self) -> &Arc<Profiler> {
        &self.0.profiler
    }

    /// Bytes that contractions hold for packed operands and tiles, beside what arrays hold.
    pub fn scratch_bytes(&self) -> usize {
        self.0.scratch.held()
    }

    /// What contractions run on.
    pub(crate) fn contraction(&self) -> contract::Context<'_> {
        contract::Context { workers: Some(&self.0.workers), isa: self.0.isa, scratch: &self.0.scratch }
    }

    /// The instruction set its loops run on.
    pub fn isa(&self) -> Isa {
        self.0.isa
    }

    /// Whether both are handles to one device, or [shares](CpuDevice::share) of one.
    pub fn is(&self, other: &CpuDevice) -> bool {
        Arc::ptr_eq(&self.0.memory, &other.0.memory)
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu ({} threads, {})", self.0.workers.threads(), self.0.isa.name())
    }
}
