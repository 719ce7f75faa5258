//! Arguments shared by all commands that compute: device, threads, numerics.

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Device, Numerics, Result};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Compute {
    /// Device to compute on
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) device: String,
    /// Threads of the CPU device; all cores when left out. Does not change a bit of the result
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Numerics: strict (canonical order, the same bits everywhere), fast (on a GPU tensor cores, on the CPU Winograd's
    /// convolutions) or bf16 (on the CPU: convolutions and linear layers of numbers rounded to bf16); strict unless the
    /// device is a GPU
    #[arg(long, value_name = "KIND")]
    pub(crate) numerics: Option<String>,
}

impl Compute {
    /// Opens the device.
    pub(crate) fn open(&self) -> Result<Device> {
        let numerics = match &self.numerics {
            Some(name) => Numerics::parse(name)?,
            None => Numerics::default_of(&self.device),
        };
        let cpu = match self.threads {
            Some(threads) => CpuDevice::new(threads)?,
            None => CpuDevice::all_cores()?,
        };
        Device::open_with(&self.device, cpu, numerics)
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
