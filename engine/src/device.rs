//! Where arrays live and primitives run.

use crate::cpu::{CpuDevice, MemoryStats};
use crate::gpu::GpuDevice;
use crate::names::nearest;
use crate::op_log::OpLog;
use crate::profile::{MemoryLog, Owner};
use crate::{Error, ErrorKind, Numerics, Result};
use selfsame_kernels::host::{HostLauncher, Options};

/// The devices by name.
const NAMES: [&str; 4] = ["cpu", "simt", "simt:unchecked", "cuda:0"];

/// A device. Each family of primitives matches on it once.
#[derive(Clone, Debug)]
pub enum Device {
    /// The host's processor.
    Cpu(CpuDevice),
    /// A device that runs kernels: a GPU, or the host executor in its place.
    Gpu(GpuDevice),
}

impl Device {
    /// Opens a device by name, with one CPU thread per core: `cpu`; `simt`, kernels on the host with every access
    /// checked; `simt:unchecked`, the same with bounds checked alone, on several threads; `cuda` or `cuda:N`, a GPU.
    /// Numerics are [`Numerics::default_of`] that name.
    ///
    /// # Errors
    /// Names the known devices when there is none of that name.
    pub fn open(name: &str) -> Result<Device> {
        Device::open_with(name, CpuDevice::all_cores()?, Numerics::default_of(name))
    }

    /// Opens a device by name, with the numerics asked for; `cpu` is the CPU ([`CpuDevice::in_numerics`]), or that beside
    /// the device.
    ///
    /// # Errors
    /// As for [`Device::open`]; `Numerics` for bf16 anywhere but on the CPU.
    pub fn open_with(name: &str, cpu: CpuDevice, numerics: Numerics) -> Result<Device> {
        if name == "cpu" {
            return cpu.in_numerics(numerics).map(Device::Cpu);
        }
        let is_cuda = name == "cuda" || name.starts_with("cuda:");
        match name {
            "simt" | "simt:unchecked" if numerics == Numerics::Bf16 => Err(no_kernels(name)),
            _ if is_cuda && numerics == Numerics::Bf16 => Err(no_kernels(name)),
            "simt" => Ok(simt(Options { count: false, ..Options::checked() }, cpu, numerics)),
            "simt:unchecked" => Ok(simt(Options::unchecked(cpu.workers().threads()), cpu, numerics)),
            _ if is_cuda => cuda(name, cpu, numerics),
            _ => {
                let error = Error::new(ErrorKind::Device, "device", format!("'{name}'")).expected(NAMES.join(" or "));
                Err(match nearest(name, NAMES) {
                    Some(known) => error.hint(format!("is '{known}' meant?")),
                    None => error,
                })
            }
        }
    }

    /// The CPU with one thread per core.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn cpu() -> Result<Device> {
        CpuDevice::all_cores().map(Device::Cpu)
    }

    /// The CPU with `threads` threads.
    ///
    /// # Errors
    /// When `threads` is zero or the system refuses a thread.
    pub fn cpu_with(threads: usize) -> Result<Device> {
        CpuDevice::new(threads).map(Device::Cpu)
    }

    /// The device's name, as [`Device::open`] takes it.
    pub fn name(&self) -> &str {
        match self {
            Device::Cpu(_) => "cpu",
            Device::Gpu(gpu) => gpu.name(),
        }
    }

    /// The same device for one of several ranks in this process, with `threads` CPU threads of its own; a GPU is handed
    /// out whole.
    ///
    /// # Errors
    /// As for [`CpuDevice::new`].
    pub fn share(&self, threads: usize) -> Result<Device> {
        match self {
            Device::Cpu(cpu) => cpu.share(threads).map(Device::Cpu),
            Device::Gpu(gpu) => Ok(Device::Gpu(gpu.clone())),
        }
    }

    /// The CPU: this device, or the one beside it.
    pub fn host(&self) -> &CpuDevice {
        match self {
            Device::Cpu(cpu) => cpu,
            Device::Gpu(gpu) => gpu.host(),
        }
    }

    /// The device that runs kernels, if this is one.
    pub fn gpu(&self) -> Option<&GpuDevice> {
        match self {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(gpu),
        }
    }

    /// Whether it keeps the canonical order.
    pub fn numerics(&self) -> Numerics {
        match self {
            Device::Cpu(cpu) => cpu.numerics(),
            Device::Gpu(gpu) => gpu.numerics(),
        }
    }

    /// Bytes in use.
    pub fn memory(&self) -> MemoryStats {
        match self {
            Device::Cpu(cpu) => cpu.memory().stats(),
            Device::Gpu(gpu) => gpu.memory(),
        }
    }

    /// Makes `owner` that of new memory and returns the one before.
    pub(crate) fn set_owner_scope(&self, owner: Owner) -> Owner {
        let before = self.host().memory().set_scope(owner);
        self.gpu().map_or(before, |gpu| gpu.set_scope(owner))
    }

    /// Begins to log every change of this device's memory, with what lives now at the front.
    pub fn begin_memory_log(&self) {
        match self {
            Device::Cpu(cpu) => cpu.memory().begin_log(),
            Device::Gpu(gpu) => gpu.begin_memory_log(),
        }
    }

    /// Ends the log; `None` when none was begun.
    pub fn end_memory_log(&self) -> Option<MemoryLog> {
        match self {
            Device::Cpu(cpu) => cpu.memory().end_log(),
            Device::Gpu(gpu) => gpu.end_memory_log(),
        }
    }

    /// Makes every differentiable operation on this device check what it computes; see
    /// [`CpuDevice::set_finite_checks`].
    pub fn set_finite_checks(&self, on: bool) {
        self.host().set_finite_checks(on);
    }

    /// Whether operations check what they compute.
    pub fn checks_finite(&self) -> bool {
        self.host().checks_finite()
    }

    /// The log of operations, while one is being written.
    #[inline]
    pub fn op_log(&self) -> Option<&OpLog> {
        Some(self.host().op_log()).filter(|log| log.is_on())
    }

    /// Whether both are handles to one device.
    pub fn is(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu(a), Device::Cpu(b)) => a.is(b),
            (Device::Gpu(a), Device::Gpu(b)) => a.is(b),
            _ => false,
        }
    }
}

/// Why bf16 numerics are refused on a device that is not the CPU.
fn no_kernels(name: &str) -> Error {
    Error::new(ErrorKind::Numerics, "numerics", format!("bf16 on {name}"))
        .expected("strict or fast")
        .hint("bf16 numerics are the CPU's: there are no kernels in that order")
}

fn simt(options: Options, cpu: CpuDevice, numerics: Numerics) -> Device {
    Device::Gpu(GpuDevice::new(Box::new(HostLauncher::with(options)), cpu, numerics))
}

/// Opens GPU `cuda:N`; `cuda` is the first.
#[cfg(feature = "cuda")]
fn cuda(name: &str, cpu: CpuDevice, numerics: Numerics) -> Result<Device> {
    let number = name.strip_prefix("cuda:").unwrap_or("0");
    let number: usize = number.parse().map_err(|_| {
        Error::new(ErrorKind::Device, "device", format!("'{name}'")).expected("cuda:N with N a number from 0")
    })?;
    let launcher = crate::gpu::submitted(crate::gpu::cuda::CudaLauncher::open(number))?;
    Ok(Device::Gpu(GpuDevice::on(Some(launcher.hardware()), Box::new(launcher), cpu, numerics)))
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _: CpuDevice, _: Numerics) -> Result<Device> {
    Err(Error::new(ErrorKind::Device, "device", format!("'{name}'"))
        .expected("a build with the feature cuda")
        .hint("leave out --no-default-features, or use cpu or simt"))
}
