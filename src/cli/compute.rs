//! Arguments shared by all commands that compute: device, threads, numerics.

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Device, Error, ErrorKind, Result};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Compute {
    /// Device to compute on
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) device: String,
    /// Threads of the CPU device; all cores when left out. Does not change a bit of the result
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Numerics: strict (canonical order, the same bits everywhere)
    #[arg(long, default_value = "strict", value_name = "KIND")]
    pub(crate) numerics: String,
}

impl Compute {
    /// Opens the device.
    pub(crate) fn open(&self) -> Result<Device> {
        if self.numerics != "strict" {
            return Err(Error::new(ErrorKind::Config, "--numerics", format!("'{}' on device cpu", self.numerics))
                .expected("strict: the only numerics of this device"));
        }
        let cpu = match self.threads {
            Some(threads) => CpuDevice::new(threads)?,
            None => CpuDevice::all_cores()?,
        };
        Device::open_beside(&self.device, cpu)
    }
}

/// Threads that a device computes with.
pub(crate) fn threads(device: &Device) -> usize {
    device.host().workers().threads()
}

/// Name of the instruction set that a device computes with.
pub(crate) fn isa(device: &Device) -> &'static str {
    device.host().isa().name()
}
