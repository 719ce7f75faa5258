//! The launcher interface: what a device must offer to run kernels. The CUDA driver and the host executor
//! ([`crate::host`]) implement it; the GPU device of the engine is written over it once.

use crate::kernel::KernelSpec;
use crate::simt::{Dim3, Element, ElementType};
use std::fmt;
use std::marker::PhantomData;

/// A device that allocates memory, copies and runs kernels, in order.
pub trait Launcher: Send + Sync + fmt::Debug {
    /// The device's name, as a user gives it: `simt`, `cuda:0`.
    fn name(&self) -> &str;
    /// Reserves uninitialised memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// [`LaunchError::OutOfMemory`].
    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError>;
    /// Gives memory back after the work submitted so far.
    fn free(&self, buffer: Buffer);
    /// Copies from the host.
    ///
    /// # Errors
    /// When the range leaves the memory, or the device fails.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError>;
    /// Copies to the host, after the work submitted so far.
    ///
    /// # Errors
    /// When the range leaves the memory, or the device fails; also reports what earlier kernels did wrong.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError>;
    /// Copies on the device. The ranges do not overlap.
    ///
    /// # Errors
    /// When a range leaves its memory, or the device fails.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError>;
    /// Runs a kernel. Called through [`submit`], which has checked the arguments.
    ///
    /// # Errors
    /// When the device refuses the launch or the kernel fails.
    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError>;
    /// As [`Launcher::run`], waits for the kernel, and returns the seconds that it took: on the device's own clock
    /// where it has one.
    ///
    /// # Errors
    /// As for [`Launcher::run`].
    fn run_timed(
        &self,
        kernel: &'static KernelSpec,
        geometry: Geometry,
        args: &[ArgValue],
    ) -> Result<f64, LaunchError> {
        let started = std::time::Instant::now();
        self.run(kernel, geometry, args)?;
        self.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    }
    /// Waits for the work submitted so far.
    ///
    /// # Errors
    /// What that work did wrong.
    fn synchronize(&self) -> Result<(), LaunchError>;
    /// The device's own library of matrix products, for fast numerics, where it has one.
    fn products(&self) -> Option<&dyn Products> {
        None
    }
}

/// Matrix products of a library that belongs to a device, in f32 with operands rounded to tf32. Not in canonical order:
/// the same bits only for the same library on the same device.
pub trait Products {
    /// The library and its version.
    fn name(&self) -> &str;
    /// C = A B, in the order of the launcher's other work.
    ///
    /// # Errors
    /// [`LaunchError::Device`] when the library refuses or the device fails.
    fn multiply(&self, product: &Product) -> Result<(), LaunchError>;
}

/// `batch` products C `[m, n]` = A `[m, k]` B `[k, n]` of f32. C is row-major, one matrix after the other.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// The left operands.
    pub a: Matrices,
    /// The right operands.
    pub b: Matrices,
    /// Where the results go.
    pub c: Address,
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Products.
    pub batch: u32,
}

/// Matrices of f32 in a device's memory, one every `batch_stride` elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrices {
    /// The first element.
    pub address: Address,
    /// Which axis has its elements side by side.
    pub major: Major,
    /// Elements from one row to the next, or one column to the next.
    pub pitch: u32,
    /// Elements from one matrix to the next; 0 for the same matrix every time.
    pub batch_stride: u32,
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// The elements of a row side by side.
    Row,
    /// The elements of a column side by side.
    Column,
}

/// An address in a device's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The address `bytes` further on.
    pub const fn offset(self, bytes: u64) -> Address {
        Address(self.0 + bytes)
    }
}

/// Memory of a device. A plain handle: whoever allocated it frees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it starts.
    pub address: Address,
    /// Its size.
    pub bytes: usize,
}

impl Buffer {
    /// The elements from `offset` on, `len` of them.
    pub fn slice<T: Element>(&self, offset: usize, len: usize) -> Slice<'_, T> {
        Slice { address: self.address.offset((offset * size_of::<T>()) as u64), len, marker: PhantomData }
    }

    /// As [`Buffer::slice`], for writing.
    pub fn slice_mut<T: Element>(&self, offset: usize, len: usize) -> SliceMut<'_, T> {
        SliceMut { address: self.address.offset((offset * size_of::<T>()) as u64), len, marker: PhantomData }
    }
}

/// Elements in a device's memory, for a kernel to read.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a, T> {
    /// The first element's address.
    pub address: Address,
    /// The number of elements.
    pub len: usize,
    marker: PhantomData<&'a T>,
}

/// Elements in a device's memory, for a kernel to write.
#[derive(Clone, Copy, Debug)]
pub struct SliceMut<'a, T> {
    /// The first element's address.
    pub address: Address,
    /// The number of elements.
    pub len: usize,
    marker: PhantomData<&'a T>,
}

/// An argument of a launch, without its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArgValue {
    /// Memory.
    Memory {
        /// The first element's address.
        address: Address,
        /// The number of elements.
        len: u64,
    },
    /// A number: its bits and type.
    Scalar {
        /// The bits, zero-extended.
        bits: u64,
        /// The type.
        element: ElementType,
    },
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks.
    pub grid: [u64; 3],
    /// Threads per block.
    pub block: [u64; 3],
    /// Bytes of dynamic shared memory per block.
    pub shared: u64,
}

impl Geometry {
    /// The number of threads.
    pub fn threads(&self) -> u64 {
        self.grid.iter().chain(&self.block).product()
    }

    /// The grid in the device's numbers; [`submit`] has checked that it fits.
    pub fn grid_dim(&self) -> Dim3 {
        let [x, y, z] = self.grid.map(|n| n as u32);
        Dim3::new(x, y, z)
    }

    /// The block in the device's numbers; [`submit`] has checked that it fits.
    pub fn block_dim(&self) -> Dim3 {
        let [x, y, z] = self.block.map(|n| n as u32);
        Dim3::new(x, y, z)
    }
}

/// One to three extents, filled up with 1.
pub fn extents(given: &[u64]) -> [u64; 3] {
    std::array::from_fn(|i| given.get(i).copied().unwrap_or(1))
}

/// The most elements of one argument: indices are u32, and a thread past the end must not wrap around.
pub const MAX_ELEMENTS: u64 = 1 << 31;

/// The largest grid and block that every device takes.
const MAX_GRID: [u64; 3] = [(1 << 31) - 1, 65_535, 65_535];
const MAX_BLOCK: [u64; 3] = [1024, 1024, 64];
const MAX_THREADS: u64 = 1024;

/// Checks a launch against the kernel's rule and hands it to the device. An empty grid is not launched.
///
/// # Errors
/// When a slice is too short, the grid or block too large, or the device fails.
pub fn submit(launcher: &dyn Launcher, kernel: &'static KernelSpec, args: &[ArgValue]) -> Result<(), LaunchError> {
    for ((param, arg), needed) in kernel.params.iter().zip(args).zip((kernel.lengths)(args)) {
        let ArgValue::Memory { len, .. } = arg else { continue };
        if *len < needed || *len > MAX_ELEMENTS {
            return Err(LaunchError::Arguments {
                kernel: kernel.name,
                got: format!("{} of {len} elements", param.name),
                expected: format!("at least {needed}, at most {MAX_ELEMENTS}"),
            });
        }
    }
    let geometry = (kernel.geometry)(args);
    let fits = |given: [u64; 3], most: [u64; 3]| given.iter().zip(most).all(|(n, most)| *n <= most);
    let threads: u64 = geometry.block.iter().product();
    if !fits(geometry.grid, MAX_GRID) || !fits(geometry.block, MAX_BLOCK) || threads > MAX_THREADS {
        return Err(LaunchError::Arguments {
            kernel: kernel.name,
            got: format!("a grid of {:?} blocks of {:?} threads", geometry.grid, geometry.block),
            expected: format!("at most {MAX_GRID:?} blocks of {MAX_BLOCK:?}, {MAX_THREADS} threads in all"),
        });
    }
    if geometry.threads() == 0 {
        return Ok(());
    }
    launcher.run(kernel, geometry, args)
}

/// What can go wrong on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchError {
    /// A launch with wrong sizes.
    Arguments {
        /// The kernel.
        kernel: &'static str,
        /// What was passed.
        got: String,
        /// What the launch rule asks for.
        expected: String,
    },
    /// No memory left.
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// What the device said.
        detail: String,
    },
    /// The checker found something wrong with a kernel.
    Findings {
        /// The kernel.
        kernel: &'static str,
        /// One line per finding.
        findings: Vec<String>,
    },
    /// The device is not there, or failed.
    Device {
        /// What happened.
        got: String,
        /// What to do about it.
        hint: String,
    },
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::Arguments { kernel, got, expected } => {
                write!(f, "kernel {kernel}: got {got}, expected {expected}")
            }
            LaunchError::OutOfMemory { bytes, detail } => {
                write!(f, "out of device memory: got a request for {bytes} bytes ({detail})")
            }
            LaunchError::Findings { kernel, findings } => {
                write!(f, "kernel {kernel}: {} findings", findings.len())?;
                findings.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            LaunchError::Device { got, hint } => write!(f, "device: {got}; hint: {hint}"),
        }
    }
}

impl std::error::Error for LaunchError {}

macro_rules! launch_values {
    ($($slice:ident)*) => {$(
        impl<T> $slice<'_, T> {
            /// `len` elements from `address` on. The caller keeps the memory allocated for as long as the slice lives.
            pub fn at(address: Address, len: usize) -> Self {
                $slice { address, len, marker: PhantomData }
            }

            /// The slice without its type.
            pub fn value(&self) -> ArgValue {
                ArgValue::Memory { address: self.address, len: self.len as u64 }
            }
        }
    )*};
}
launch_values!(Slice SliceMut);
