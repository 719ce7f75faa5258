//! Where arrays live and primitives run.

use crate::cpu::{CpuDevice, MemoryStats};
use crate::names::nearest;
use crate::{Error, ErrorKind, Result};

/// A device. Each family of primitives matches on it once.
#[derive(Clone, Debug)]
pub enum Device {
    /// The host's processor.
    Cpu(CpuDevice),
}

impl Device {
    /// Opens a device by name: `cpu`, with one thread per core.
    ///
    /// # Errors
    /// Names the known devices when there is none of that name.
    pub fn open(name: &str) -> Result<Device> {
        match name {
            "cpu" => Device::cpu(),
            _ => {
                let error = Error::new(ErrorKind::Device, "device", format!("'{name}'")).expected("cpu");
                Err(match nearest(name, ["cpu"]) {
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

    /// Bytes in use.
    pub fn memory(&self) -> MemoryStats {
        match self {
            Device::Cpu(cpu) => cpu.memory().stats(),
        }
    }

    /// Makes every differentiable operation on this device check what it computes; see
    /// [`CpuDevice::set_finite_checks`].
    pub fn set_finite_checks(&self, on: bool) {
        match self {
            Device::Cpu(cpu) => cpu.set_finite_checks(on),
        }
    }

    /// Whether operations check what they compute.
    pub fn checks_finite(&self) -> bool {
        match self {
            Device::Cpu(cpu) => cpu.checks_finite(),
        }
    }

    /// Whether both are handles to one device.
    pub fn is(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu(a), Device::Cpu(b)) => a.is(b),
        }
    }
}
