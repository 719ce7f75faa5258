//! A launcher that tells the profiler of each kernel: its time, and its cost by the kernel's own declaration.

use crate::profile::{Kind, Profiler, SpanLane, Work};
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher};
use std::time::{Duration, Instant};

/// `launcher`, watched. Each kernel is waited for, so that its time is its own.
#[derive(Debug)]
pub(super) struct Profiled<'a> {
    pub(super) launcher: &'a dyn Launcher,
    pub(super) profiler: &'a Profiler,
}

impl Launcher for Profiled<'_> {
    fn name(&self) -> &str {
        self.launcher.name()
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError> {
        self.launcher.allocate(bytes)
    }

    fn free(&self, buffer: Buffer) {
        self.launcher.free(buffer);
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        self.transfer("upload", bytes.len(), || self.launcher.upload(to, bytes))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        let moved = bytes.len();
        self.transfer("download", moved, || self.launcher.download(from, bytes))
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        self.transfer("device copy", 2 * bytes, || self.launcher.copy(from, to, bytes))
    }

    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError> {
        self.run_timed(kernel, geometry, args).map(drop)
    }

    fn run_timed(
        &self,
        kernel: &'static KernelSpec,
        geometry: Geometry,
        args: &[ArgValue],
    ) -> Result<f64, LaunchError> {
        let started = Instant::now();
        let seconds = self.launcher.run_timed(kernel, geometry, args)?;
        let (cost, (read, written)) = ((kernel.cost)(args), kernel.traffic(args));
        let work = Work { flop: cost.flop + cost.tensor_flop, special: cost.special, bytes: read + written };
        let ended = started + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.profiler.record(SpanLane::Named(self.name()), Kind::Kernel, kernel.name, [started, ended], work);
        Ok(seconds)
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        self.launcher.synchronize()
    }
}

impl Profiled<'_> {
    fn transfer<T>(
        &self,
        name: &'static str,
        bytes: usize,
        work: impl FnOnce() -> Result<T, LaunchError>,
    ) -> Result<T, LaunchError> {
        let started = Instant::now();
        let done = work()?;
        self.launcher.synchronize()?;
        let time = [started, Instant::now()];
        self.profiler.record(SpanLane::Named(self.name()), Kind::Kernel, name, time, Work::moving(bytes));
        Ok(done)
    }
}
