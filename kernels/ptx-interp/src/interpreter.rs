//! [`Interpreter`]: a module as a device.

use crate::block::{self, Fault, Place, Shared};
use crate::counts::Counts;
use crate::instruction::Entry;
use crate::memory::Memory;
use crate::module::Module;
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most shared memory of a block on the devices that the PTX is for (sm_80: 163 KiB; sm_90: 227 KiB).
const MOST_SHARED: u64 = 227 * 1024;

/// Instructions that the warps of a launch may execute before it counts as endless.
const LIMIT: u64 = 1 << 32;

/// A device that runs kernels by interpreting their PTX.
///
/// Its memory is its own; every access is checked for bounds and alignment, every shuffle and barrier for the lanes
/// that must be there. Uninitialised memory holds bytes of 0xff. Warps run one after the other, so that a result does
/// not depend on timing; races are the host checker's to find.
#[derive(Debug)]
pub struct Interpreter {
    module: Arc<Module>,
    state: Mutex<State>,
    limit: u64,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    /// Executions of each instruction of each entry.
    executed: Vec<Vec<u64>>,
}

impl Interpreter {
    /// A device with nothing but the module's variables in memory.
    pub fn new(module: Arc<Module>) -> Interpreter {
        let executed = module.entries.iter().map(|entry| vec![0; entry.code.len()]).collect();
        let state = Mutex::new(State { memory: module.memory(), executed });
        Interpreter { module, state, limit: LIMIT }
    }

    /// The same device, on which a launch fails after `instructions` instructions of warps.
    pub fn limited_to(self, instructions: u64) -> Interpreter {
        Interpreter { limit: instructions, ..self }
    }

    /// What the launches of a kernel have executed so far; `None` if the module has no such entry.
    pub fn counts(&self, kernel: &str) -> Option<Counts> {
        let index = self.module.entries.iter().position(|entry| entry.name == kernel)?;
        let state = self.state();
        let mut counts = Counts::default();
        for (instruction, executed) in self.module.entries[index].code.iter().zip(&state.executed[index]) {
            counts.add(instruction.class, *executed);
        }
        Some(counts)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message of a fault.
    fn describe(&self, entry: &Entry, place: Place, fault: &Fault) -> String {
        let line = entry.code[fault.at].line;
        let text = self.module.lines.get(line as usize - 1).map_or("", |text| text.trim());
        let thread = place.thread(fault.thread);
        format!("PTX line {line} `{text}`, block {:?}, thread {thread:?}: {}", place.block, fault.what)
    }
}

fn outside(address: u64, bytes: usize) -> LaunchError {
    LaunchError::Device {
        got: format!("{bytes} bytes at address {address:#x}, which is not allocated"),
        hint: "was the memory freed?".into(),
    }
}

impl Launcher for Interpreter {
    fn name(&self) -> &str {
        "ptx"
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError> {
        Ok(Buffer { address: Address(self.state().memory.allocate(bytes)), bytes })
    }

    fn free(&self, buffer: Buffer) {
        self.state().memory.free(buffer.address.0);
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        let mut state = self.state();
        let memory = state.memory.bytes(to.0, bytes.len()).ok_or_else(|| outside(to.0, bytes.len()))?;
        memory.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        let mut state = self.state();
        let memory = state.memory.bytes(from.0, bytes.len()).ok_or_else(|| outside(from.0, bytes.len()))?;
        bytes.copy_from_slice(memory);
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        let mut copied = vec![0; bytes];
        self.download(from, &mut copied)?;
        self.upload(to, &copied)
    }

    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError> {
        let Some(index) = self.module.entries.iter().position(|entry| entry.name == kernel.name) else {
            return Err(LaunchError::Device {
                got: format!("no entry {:?} in the PTX", kernel.name),
                hint: "was the PTX built before the kernel was written?".into(),
            });
        };
        let entry = &self.module.entries[index];
        let params = params(entry, kernel, args)?;
        let shared = (entry.static_shared as u64).saturating_add(geometry.shared);
        if shared > MOST_SHARED {
            return Err(LaunchError::Arguments {
                kernel: kernel.name,
                got: format!("{shared} bytes of shared memory per block"),
                expected: format!("at most {MOST_SHARED}"),
            });
        }
        let dimensions = |dim: selfsame_kernels::simt::Dim3| [dim.x, dim.y, dim.z];
        let [blocks, threads] = [dimensions(geometry.grid_dim()), dimensions(geometry.block_dim())];
        let mut place = Place { threads, blocks, block: [0; 3] };
        let mut state = self.state();
        let State { memory, executed } = &mut *state;
        let mut budget = self.limit;
        let mut warps = block::warps(entry, place.count());
        let mut shared = Shared {
            entry,
            memory,
            params: &params,
            executed: &mut executed[index],
            budget: &mut budget,
            tile: vec![0; shared as usize],
            local: vec![0; entry.local * place.count() as usize],
        };
        for z in 0..blocks[2] {
            for y in 0..blocks[1] {
                for x in 0..blocks[0] {
                    place.block = [x, y, z];
                    block::run(&mut warps, &mut shared, place).map_err(|fault| LaunchError::Findings {
                        kernel: kernel.name,
                        findings: vec![self.describe(entry, place, &fault)],
                    })?;
                }
            }
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        Ok(())
    }
}

/// The bytes of the arguments as the entry declares them.
fn params(entry: &Entry, kernel: &'static KernelSpec, args: &[ArgValue]) -> Result<Vec<u8>, LaunchError> {
    let declared: Vec<usize> = entry.params.iter().map(|param| param.bytes).collect();
    let expected: Vec<usize> = kernel
        .params
        .iter()
        .map(|param| if param.kind.is_memory() { 8 } else { param.kind.element().bytes() })
        .collect();
    if declared != expected || args.len() != expected.len() {
        return Err(LaunchError::Arguments {
            kernel: kernel.name,
            got: format!("parameters of {declared:?} bytes in the PTX, and {} arguments", args.len()),
            expected: format!("parameters of {expected:?} bytes, an argument each"),
        });
    }
    let mut bytes = vec![0; entry.param_bytes];
    for (param, arg) in entry.params.iter().zip(args) {
        let bits = match arg {
            ArgValue::Memory { address, .. } => address.0,
            ArgValue::Scalar { bits, .. } => *bits,
        };
        bytes[param.offset..param.offset + param.bytes].copy_from_slice(&bits.to_le_bytes()[..param.bytes]);
    }
    Ok(bytes)
}
