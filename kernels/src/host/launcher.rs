//! The host executor as a device.
#![allow(unsafe_code)]

use super::exec::{self, BoundArg, View};
use crate::kernel::KernelSpec;
use crate::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher};
use crate::simt::Dim3;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where allocations start and what lies between them: an address past one's end belongs to none.
const ALIGNMENT: u64 = 256;

/// A device whose memory is the host's and whose kernels run as coroutines.
#[derive(Debug, Default)]
pub struct HostLauncher {
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    allocations: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Memory {
    fn view(&mut self, address: Address, bytes: usize) -> Result<View, LaunchError> {
        let outside = || LaunchError::Device {
            got: format!("{bytes} bytes at address {:#x}, which is not allocated", address.0),
            hint: "was the memory freed?".into(),
        };
        let (start, data) = self.allocations.range_mut(..=address.0).next_back().ok_or_else(outside)?;
        let offset = (address.0 - start) as usize;
        if offset + bytes > data.len() {
            return Err(outside());
        }
        Ok(View { data: data[offset..].as_mut_ptr(), bytes })
    }
}

impl HostLauncher {
    /// A device without memory in use.
    pub fn new() -> HostLauncher {
        HostLauncher::default()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for HostLauncher {
    fn name(&self) -> &str {
        "simt"
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError> {
        let mut memory = self.memory();
        memory.next += ALIGNMENT;
        let address = memory.next;
        memory.next += (bytes as u64).next_multiple_of(ALIGNMENT);
        memory.allocations.insert(address, vec![0; bytes]);
        Ok(Buffer { address: Address(address), bytes })
    }

    fn free(&self, buffer: Buffer) {
        self.memory().allocations.remove(&buffer.address.0);
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        let view = self.memory().view(to, bytes.len())?;
        // SAFETY: the view covers that many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), view.data, bytes.len()) };
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        let view = self.memory().view(from, bytes.len())?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(view.data, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        let mut memory = self.memory();
        let (from, to) = (memory.view(from, bytes)?, memory.view(to, bytes)?);
        // SAFETY: both views cover that many bytes; `copy` allows overlap.
        unsafe { std::ptr::copy(from.data, to.data, bytes) };
        Ok(())
    }

    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError> {
        let mut memory = self.memory();
        let bound = kernel
            .params
            .iter()
            .zip(args)
            .map(|(param, arg)| match *arg {
                ArgValue::Memory { address, len } => {
                    memory.view(address, len as usize * param.kind.element().bytes()).map(BoundArg::Memory)
                }
                ArgValue::Scalar { bits, .. } => Ok(BoundArg::Scalar(bits)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let grid = geometry.grid_dim();
        for block in 0..grid.count() {
            let [x, y] = [u64::from(grid.x), u64::from(grid.y)];
            let block = Dim3::new((block % x) as u32, (block / x % y) as u32, (block / (x * y)) as u32);
            exec::run_block(kernel, &geometry, block, &bound)
                .map_err(|finding| LaunchError::Findings { kernel: kernel.name, findings: vec![finding] })?;
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        Ok(())
    }
}
