//! The GPU device, written once over the launcher interface: `simt` runs the kernels on the host, every access
//! checked; `cuda:N` runs them on a GPU.
//!
//! An array of this device lives in the device's memory, with a copy in the host's where one is asked for
//! (`storage`). A primitive launches kernels; what no kernel computes (f64, say) falls back to the CPU, gives the
//! same bits, and is counted ([`GpuDevice::host_fallbacks`]), so that nobody is slow without knowing.

mod axes;
pub(crate) mod batch_norm;
pub(crate) mod contract;
pub(crate) mod convert;
pub(crate) mod copy;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
pub mod cuda;
pub(crate) mod elementwise;
mod fast;
pub(crate) mod index;
pub(crate) mod interpolate;
pub(crate) mod join;
pub(crate) mod optim;
pub(crate) mod pairs;
pub(crate) mod pool;
mod profiled;
pub(crate) mod random;
pub(crate) mod rows;
pub(crate) mod samples;
pub(crate) mod sinkhorn;
pub(crate) mod sort;
mod storage;
pub(crate) mod update;

use axes::{Axes, extent};
use profiled::Profiled;
pub(crate) use storage::GpuBlock;

use crate::cpu::{CpuDevice, MemoryStats};
use crate::profile::{Ledger, MemoryLog, Owner};
use crate::{Array, DType, Error, ErrorKind, Numerics, Result};
use selfsame_kernels::launch::{Buffer, LaunchError, Launcher};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A device that runs kernels. Cloning gives another handle to the same device.
#[derive(Clone)]
pub struct GpuDevice(Arc<Inner>);

/// What computes behind a GPU's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// As its maker calls it, for example `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// The driver's release and interface, for example `570.86.15, CUDA 12.8`.
    pub driver: String,
}

struct Inner {
    launcher: Box<dyn Launcher>,
    hardware: Option<Hardware>,
    host: CpuDevice,
    numerics: Numerics,
    usage: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    ledger: Ledger,
    host_fallbacks: BTreeMap<&'static str, u64>,
}

impl GpuDevice {
    /// A device over `launcher`; what has no kernel runs on `host`.
    pub fn new(launcher: Box<dyn Launcher>, host: CpuDevice, numerics: Numerics) -> GpuDevice {
        GpuDevice::on(None, launcher, host, numerics)
    }

    /// A device over `launcher`, which runs on `hardware`.
    pub(crate) fn on(
        hardware: Option<Hardware>,
        launcher: Box<dyn Launcher>,
        host: CpuDevice,
        numerics: Numerics,
    ) -> GpuDevice {
        GpuDevice(Arc::new(Inner { launcher, hardware, host, numerics, usage: Mutex::default() }))
    }

    /// The GPU and its driver; none of a launcher that computes on the host.
    pub fn hardware(&self) -> Option<&Hardware> {
        self.0.hardware.as_ref()
    }

    /// Whether contractions keep the canonical order.
    pub fn numerics(&self) -> Numerics {
        self.0.numerics
    }

    /// The device's own library of matrix products, where it has one; fast numerics use it.
    pub fn product_library(&self) -> Option<&str> {
        self.0.launcher.products().map(|library| library.name())
    }

    /// The device's name: `simt`, `cuda:0`.
    pub fn name(&self) -> &str {
        self.0.launcher.name()
    }

    /// The CPU beside it: computes what no kernel does, and holds host copies.
    pub fn host(&self) -> &CpuDevice {
        &self.0.host
    }

    /// Waits for all work, and reports what it did wrong.
    ///
    /// # Errors
    /// `Device` when a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        self.submit(|launcher| launcher.synchronize())
    }

    /// Hands work to the launcher.
    ///
    /// # Errors
    /// `Device` or `OutOfMemory`, as the launcher says.
    #[track_caller]
    pub fn submit<T>(&self, work: impl FnOnce(&dyn Launcher) -> std::result::Result<T, LaunchError>) -> Result<T> {
        let launcher = self.0.launcher.as_ref();
        if self.0.host.profiler().is_on() {
            return submitted(work(&Profiled { launcher, profiler: self.0.host.profiler() }));
        }
        submitted(work(launcher))
    }

    /// Bytes of device memory in use.
    pub fn memory(&self) -> MemoryStats {
        MemoryStats::of(&self.usage().ledger, 0)
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.usage().ledger.reset_peak();
    }

    pub(crate) fn scope(&self) -> Owner {
        self.usage().ledger.scope()
    }

    pub(crate) fn set_scope(&self, owner: Owner) -> Owner {
        self.usage().ledger.set_scope(owner)
    }

    pub(crate) fn begin_memory_log(&self) {
        self.usage().ledger.begin_log(false);
    }

    pub(crate) fn end_memory_log(&self) -> Option<MemoryLog> {
        self.usage().ledger.end_log()
    }

    /// The operations that ran on the CPU beside the device so far, and how often.
    pub fn host_fallbacks(&self) -> Vec<(&'static str, u64)> {
        self.usage().host_fallbacks.iter().map(|(op, n)| (*op, *n)).collect()
    }

    pub(crate) fn count_fallback(&self, op: &'static str) {
        *self.usage().host_fallbacks.entry(op).or_default() += 1;
    }

    /// Whether both are handles to one device.
    pub fn is(&self, other: &GpuDevice) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn free(&self, buffer: Buffer) {
        self.0.launcher.free(buffer);
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        // Every update is complete before anything can fail: a panic elsewhere leaves the counters consistent.
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An array whose elements a kernel is about to write.
    pub(crate) fn empty(&self, shape: &[usize], dtype: DType, owner: &'static str) -> Result<Array> {
        let bytes = crate::element_count(shape)? * dtype.size();
        Ok(Array::on_gpu(GpuBlock::on_device(self, bytes, owner, shape)?, shape, dtype, self))
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (beside {:?})", self.name(), self.host())
    }
}

/// The result of a launcher, with its error as one of the engine.
///
/// # Errors
/// `OutOfMemory` or `Device`, as the launcher said.
#[track_caller]
pub fn submitted<T>(result: std::result::Result<T, LaunchError>) -> Result<T> {
    result.map_err(failure)
}

/// What a launch did wrong, as an error of the engine. Not a `From`: a second conversion into `Error` would make
/// `Ok(..?)` in closures ambiguous for everyone.
#[track_caller]
fn failure(error: LaunchError) -> Error {
    match error {
        LaunchError::Arguments { kernel, got, expected } => {
            Error::new(ErrorKind::Device, format!("kernel {kernel}"), got).expected(expected)
        }
        LaunchError::OutOfMemory { bytes, detail } => {
            Error::new(ErrorKind::OutOfMemory, "device memory", format!("a request for {bytes} bytes"))
                .expected(detail)
                .hint("a smaller batch, or recomputation of blocks")
        }
        LaunchError::Findings { kernel, findings } => {
            let got = format!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
            Error::new(ErrorKind::Device, format!("kernel {kernel}"), got).expected("a correct kernel")
        }
        LaunchError::Device { got, hint } => Error::new(ErrorKind::Device, "device", got).hint(hint),
    }
}
