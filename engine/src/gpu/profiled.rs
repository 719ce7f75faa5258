//! A launcher that tells the profiler of each kernel: its time, and its cost by the kernel's own declaration.

use crate::profile::{Kind, Profiler, SpanLane, Work};
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher, Product, Products};
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
        self.profiler.record(SpanLane::Named(Launcher::name(self)), Kind::Kernel, kernel.name, [started, ended], work);
        Ok(seconds)
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        self.launcher.synchronize()
    }

    fn products(&self) -> Option<&dyn Products> {
        self.launcher.products().map(|_| self as &dyn Products)
    }
}

impl Products for Profiled<'_> {
    fn name(&self) -> &str {
        self.launcher.products().map_or("", Products::name)
    }

    fn multiply(&self, product: &Product) -> Result<(), LaunchError> {
        let Some(library) = self.launcher.products() else { return Ok(()) };
        let [m, n, k, batch] = [product.m, product.n, product.k, product.batch].map(u64::from);
        let work = Work { flop: 2 * batch * m * n * k, special: 0, bytes: 4 * batch * (m * k + k * n + m * n) };
        self.watched("library product", work, || library.multiply(product))
    }
}

impl Profiled<'_> {
    fn transfer(
        &self,
        name: &'static str,
        bytes: usize,
        work: impl FnOnce() -> Result<(), LaunchError>,
    ) -> Result<(), LaunchError> {
        self.watched(name, Work::moving(bytes), work)
    }

    /// Runs what is no kernel, waits for it, and records it.
    fn watched(
        &self,
        name: &'static str,
        cost: Work,
        work: impl FnOnce() -> Result<(), LaunchError>,
    ) -> Result<(), LaunchError> {
        let started = Instant::now();
        work()?;
        self.launcher.synchronize()?;
        let lane = SpanLane::Named(Launcher::name(self));
        self.profiler.record(lane, Kind::Kernel, name, [started, Instant::now()], cost);
        Ok(())
    }
}
