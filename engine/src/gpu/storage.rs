//! Memory of an array on a GPU device: on the device, on the host, or both.
//!
//! Kernels read and write the device's copy; primitives without a kernel, and whoever asks for the values, the host's.
//! A copy is made when it is first asked for; writing one makes the other stale.

use super::GpuDevice;
use crate::Result;
use crate::cpu::Block;
use selfsame_kernels::launch::{Address, Buffer};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) struct GpuBlock {
    gpu: GpuDevice,
    bytes: usize,
    owner: &'static str,
    /// The host's copy, where there is a current one. Without it the device's copy is current.
    host: OnceLock<Block>,
    device: Mutex<OnDevice>,
}

struct OnDevice {
    buffer: Option<Buffer>,
    current: bool,
}

impl GpuBlock {
    /// Uninitialised memory on the device.
    pub(crate) fn on_device(gpu: &GpuDevice, bytes: usize, owner: &'static str) -> Result<GpuBlock> {
        let buffer = reserve(gpu, bytes, owner)?;
        Ok(GpuBlock::new(gpu, bytes, owner, OnceLock::new(), OnDevice { buffer: Some(buffer), current: true }))
    }

    /// Memory that `block` holds on the host; it comes to the device when a kernel needs it.
    pub(crate) fn on_host(gpu: &GpuDevice, bytes: usize, owner: &'static str, block: Block) -> GpuBlock {
        GpuBlock::new(gpu, bytes, owner, OnceLock::from(block), OnDevice { buffer: None, current: false })
    }

    fn new(gpu: &GpuDevice, bytes: usize, owner: &'static str, host: OnceLock<Block>, device: OnDevice) -> GpuBlock {
        GpuBlock { gpu: gpu.clone(), bytes, owner, host, device: Mutex::new(device) }
    }

    /// The number of bytes.
    pub(crate) fn size(&self) -> usize {
        self.bytes
    }

    fn device(&self) -> MutexGuard<'_, OnDevice> {
        // The flag is set after what it promises was done: a panic in between leaves a copy too many, not too few.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's copy.
    #[allow(unsafe_code)]
    pub(crate) fn host(&self) -> Result<&Block> {
        let device = self.device();
        if let Some(block) = self.host.get() {
            return Ok(block);
        }
        let mut block = self.gpu.host().memory().take(self.bytes, self.owner)?;
        if let Some(buffer) = device.buffer {
            // SAFETY: the block is at least this long, initialised, and not shared yet.
            let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_mut_ptr(), self.bytes) };
            self.gpu.submit(|launcher| launcher.download(buffer.address, bytes))?;
        }
        Ok(self.host.get_or_init(|| block))
    }

    /// Whether reading on the host needs no copy from the device.
    pub(crate) fn is_on_host(&self) -> bool {
        self.host.get().is_some()
    }

    /// The host's copy for writing; the device's becomes stale.
    pub(crate) fn host_mut(&mut self) -> Result<&mut Block> {
        self.host()?;
        self.device().current = false;
        Ok(self.host.get_mut().expect("`host` has made the copy"))
    }

    /// Where the device's copy is.
    #[allow(unsafe_code)]
    pub(crate) fn address(&self) -> Result<Address> {
        let mut device = self.device();
        let buffer = match device.buffer {
            Some(buffer) => buffer,
            None => *device.buffer.insert(reserve(&self.gpu, self.bytes, self.owner)?),
        };
        if !device.current {
            let block = self.host.get().expect("where the device's copy is not current, the host's is");
            // SAFETY: the block is at least this long and initialised.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), self.bytes) };
            self.gpu.submit(|launcher| launcher.upload(buffer.address, bytes))?;
            device.current = true;
        }
        Ok(buffer.address)
    }

    /// Where the device's copy is, for writing; the host's is dropped.
    pub(crate) fn address_mut(&mut self) -> Result<Address> {
        let address = self.address()?;
        self.host.take();
        Ok(address)
    }
}

fn reserve(gpu: &GpuDevice, bytes: usize, owner: &'static str) -> Result<Buffer> {
    let buffer = gpu.submit(|launcher| launcher.allocate(bytes)).map_err(|error| {
        let owners: Vec<String> =
            gpu.memory().owners.iter().take(5).map(|(o, n)| format!("{o} {} KiB", n >> 10)).collect();
        error.hint(format!("the largest owners: {}", owners.join(", ")))
    })?;
    let mut usage = gpu.usage();
    usage.live += bytes;
    usage.peak = usage.peak.max(usage.live);
    *usage.owners.entry(owner).or_default() += bytes;
    Ok(buffer)
}

impl Drop for GpuBlock {
    fn drop(&mut self) {
        let Some(buffer) = self.device().buffer.take() else { return };
        self.gpu.free(buffer);
        let mut usage = self.gpu.usage();
        usage.live -= self.bytes;
        *usage.owners.get_mut(self.owner).expect("counted when reserved") -= self.bytes;
    }
}
