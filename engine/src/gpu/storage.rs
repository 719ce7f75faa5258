//! Memory of an array on a GPU device: on the device, on the host, or both.
//!
//! Kernels read and write the device's copy; primitives without a kernel, and whoever asks for the values, the host's.
//! A copy is made when it is first asked for; writing one makes the other stale.

use super::GpuDevice;
use crate::Result;
use crate::cpu::Block;
use crate::profile::{Extents, Owner};
use selfsame_kernels::launch::{Address, Buffer};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) struct GpuBlock {
    gpu: GpuDevice,
    bytes: usize,
    /// The operation that made it, and the shape of the array that it was made for.
    op: &'static str,
    shape: Extents,
    /// The host's copy, where there is a current one. Without it the device's copy is current.
    host: OnceLock<Block>,
    device: Mutex<OnDevice>,
}

struct OnDevice {
    reserved: Option<Reserved>,
    current: bool,
    /// What the memory is for, reserved or not.
    owner: Owner,
}

#[derive(Clone, Copy)]
struct Reserved {
    buffer: Buffer,
    /// Its number in the device's ledger.
    slot: u32,
}

impl GpuBlock {
    /// Uninitialised memory on the device, for an array of `shape` that operation `op` makes.
    pub(crate) fn on_device(gpu: &GpuDevice, bytes: usize, op: &'static str, shape: &[usize]) -> Result<GpuBlock> {
        let block = GpuBlock::new(gpu, bytes, op, shape, OnceLock::new(), true);
        block.device().reserved = Some(block.reserve(gpu.scope())?);
        Ok(block)
    }

    /// Memory that `block` holds on the host; it comes to the device when a kernel needs it.
    pub(crate) fn on_host(gpu: &GpuDevice, bytes: usize, op: &'static str, shape: &[usize], block: Block) -> GpuBlock {
        GpuBlock::new(gpu, bytes, op, shape, OnceLock::from(block), false)
    }

    fn new(
        gpu: &GpuDevice,
        bytes: usize,
        op: &'static str,
        shape: &[usize],
        host: OnceLock<Block>,
        current: bool,
    ) -> GpuBlock {
        let device = Mutex::new(OnDevice { reserved: None, current, owner: gpu.scope() });
        GpuBlock { gpu: gpu.clone(), bytes, op, shape: Extents::of(shape), host, device }
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
        let mut block = self.gpu.host().memory().take(self.bytes, self.op, self.shape.as_slice())?;
        if let Some(Reserved { buffer, .. }) = device.reserved {
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
        let Reserved { buffer, .. } = match device.reserved {
            Some(reserved) => reserved,
            None => {
                let owner = device.owner;
                *device.reserved.insert(self.reserve(owner)?)
            }
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

    /// What it is for.
    pub(crate) fn owner(&self) -> Owner {
        self.device().owner
    }

    /// Gives it to `owner`, on the device and on the host.
    pub(crate) fn assign(&self, owner: Owner) {
        let mut device = self.device();
        device.owner = owner;
        if let Some(Reserved { slot, .. }) = device.reserved {
            self.gpu.usage().ledger.assign(slot, owner);
        }
        if let Some(block) = self.host.get() {
            block.assign(owner);
        }
    }

    fn reserve(&self, owner: Owner) -> Result<Reserved> {
        let buffer = self.gpu.submit(|launcher| launcher.allocate(self.bytes)).map_err(|error| {
            let largest: Vec<String> =
                self.gpu.memory().operations.iter().take(5).map(|(op, n)| format!("{op} {} KiB", n >> 10)).collect();
            error.hint(format!("the largest: {}", largest.join(", ")))
        })?;
        let mut usage = self.gpu.usage();
        let slot = usage.ledger.enter(self.bytes, self.bytes, self.op, self.shape.as_slice());
        usage.ledger.assign(slot, owner);
        Ok(Reserved { buffer, slot })
    }
}

impl Drop for GpuBlock {
    fn drop(&mut self) {
        let Some(Reserved { buffer, slot }) = self.device().reserved.take() else { return };
        self.gpu.free(buffer);
        self.gpu.usage().ledger.strike(slot);
    }
}
