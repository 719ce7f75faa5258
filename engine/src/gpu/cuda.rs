//! The CUDA driver as a launcher. Its library is loaded at run time: without one, everything else works.
#![allow(unsafe_code)]

use super::Hardware;
use super::cublas::{self, Cublas};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute, CUfunction, CUmodule, CUresult, CUstream};
use selfsame_kernels::kernel::KernelSpec;
use selfsame_kernels::launch::{Address, ArgValue, Buffer, Geometry, LaunchError, Launcher, Products};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The driver that knows the version of our PTX (7.8).
const NEEDED_DRIVER: i32 = 11_080;

/// One GPU: its primary context, one stream, and the module of all kernels.
pub struct CudaLauncher {
    name: String,
    model: String,
    driver: String,
    capability: (i32, i32),
    context: CUcontext,
    stream: CUstream,
    module: CUmodule,
    functions: Mutex<BTreeMap<&'static str, Function>>,
    library: Option<Library>,
}

/// cuBLAS and the memory that it works in.
struct Library {
    cublas: Cublas,
    workspace: sys::CUdeviceptr,
}

/// A loaded kernel. The handle is valid for as long as the module, and may be used from any thread.
#[derive(Clone, Copy)]
struct Function(CUfunction);

// SAFETY: driver handles are plain identifiers; the driver API is thread-safe, and every call below makes the context
// current on its thread first.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for CudaLauncher {}
// SAFETY: as above.
unsafe impl Sync for CudaLauncher {}

impl CudaLauncher {
    /// Opens GPU number `ordinal`.
    ///
    /// # Errors
    /// Says what is missing: the driver, a new enough one, the GPU, its compute capability, or fresh PTX.
    pub fn open(ordinal: usize) -> Result<CudaLauncher, LaunchError> {
        // SAFETY: loads the driver's library, whose initialisers are trusted; every later call relies on its presence.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing(
                "no CUDA driver on this machine",
                "install NVIDIA's driver, or use --device cpu or simt",
            ));
        }
        result::init().map_err(|e| failed("the CUDA driver does not start", e))?;
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(|e| failed("the driver's version", e))?;
        let interface = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
        if version < NEEDED_DRIVER {
            return Err(missing(
                &format!("a driver for {interface}, older than the PTX"),
                "install a driver for CUDA 11.8 or newer",
            ));
        }
        let count = result::device::get_count().map_err(|e| failed("the number of GPUs", e))?;
        let ordinal = i32::try_from(ordinal)
            .ok()
            .filter(|ordinal| *ordinal < count)
            .ok_or_else(|| missing(&format!("no GPU number {ordinal} among {count}"), "cuda:0 is the first"))?;
        let device = result::device::get(ordinal).map_err(|e| failed("opening the GPU", e))?;
        let attribute = |which| {
            // SAFETY: the device was just opened.
            unsafe { result::device::get_attribute(device, which) }.map_err(|e| failed("asking the GPU", e))
        };
        let capability = (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < (8, 0) {
            return Err(missing(
                &format!("a GPU of compute capability {}.{}", capability.0, capability.1),
                "the kernels need 8.0 (Ampere) or newer",
            ));
        }
        if !selfsame_kernels::ptx::FRESH {
            return Err(missing(
                "PTX that was built from other sources than this program",
                "rebuild it with: cargo run -p selfsame-cuda-builder -- build",
            ));
        }
        let model = result::device::get_name(device).map_err(|e| failed("the GPU's name", e))?;
        // SAFETY: the device was just opened.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| failed("the GPU's context", e))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(|e| failed("the GPU's context", e))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| failed("creating a stream", e))?;
        keep_freed_memory(device)?;
        let image = CString::new(selfsame_kernels::ptx::SM_80).map_err(|_| {
            missing("PTX with a NUL byte", "rebuild it with: cargo run -p selfsame-cuda-builder -- build")
        })?;
        // SAFETY: the image is PTX text that ends with a NUL.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
                missing("a driver that does not know the version of the PTX", "install a newer driver")
            }
            _ => failed("loading the kernels", e),
        })?;
        let library = library(stream)?;
        let (name, driver) = (format!("cuda:{ordinal}"), driver(&interface));
        let functions = Mutex::default();
        Ok(CudaLauncher { name, model, driver, capability, context, stream, module, functions, library })
    }

    /// The GPU's name and compute capability.
    pub fn model(&self) -> (&str, (i32, i32)) {
        (&self.model, self.capability)
    }

    /// The GPU and its driver.
    pub fn hardware(&self) -> Hardware {
        Hardware { model: self.model.clone(), driver: self.driver.clone() }
    }

    /// Milliseconds that `work` takes on the GPU, by events around it.
    ///
    /// # Errors
    /// What `work` returns, or when the device fails.
    pub fn time(&self, work: impl FnOnce() -> Result<(), LaunchError>) -> Result<f32, LaunchError> {
        self.enter()?;
        let event =
            || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(|e| failed("creating an event", e));
        let (start, end) = (event()?, event()?);
        // SAFETY: the events were just created in this context; they are destroyed once, after use.
        unsafe {
            let measured = (|| {
                result::event::record(start, self.stream).map_err(|e| failed("recording an event", e))?;
                work()?;
                result::event::record(end, self.stream).map_err(|e| failed("recording an event", e))?;
                result::event::synchronize(end).map_err(|e| failed("waiting for an event", e))?;
                result::event::elapsed(start, end).map_err(|e| failed("reading an event", e))
            })();
            for event in [start, end] {
                result::event::destroy(event).map_err(|e| failed("destroying an event", e))?;
            }
            measured
        }
    }

    fn enter(&self) -> Result<(), LaunchError> {
        // SAFETY: the context is retained until drop.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("the GPU's context", e))
    }

    fn function(&self, kernel: &'static KernelSpec) -> Result<CUfunction, LaunchError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(kernel.name) {
            return Ok(function.0);
        }
        let name = CString::new(kernel.name)
            .map_err(|_| missing("a kernel's name with a NUL byte", "names are Rust identifiers"))?;
        // SAFETY: the module is loaded until drop.
        let function = unsafe { result::module::get_function(self.module, name) }
            .map_err(|e| failed(&format!("kernel {} in the PTX", kernel.name), e))?;
        functions.insert(kernel.name, Function(function));
        Ok(function)
    }
}

impl Launcher for CudaLauncher {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, LaunchError> {
        self.enter()?;
        // SAFETY: the stream is ours; the memory is freed on it, and every use is ordered by it.
        let address = unsafe { result::malloc_async(self.stream, bytes.max(1)) }.map_err(|e| match e.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or_default();
                let detail = format!("{} MiB of {} free", free >> 20, total >> 20);
                LaunchError::OutOfMemory { bytes, detail }
            }
            _ => failed("allocating", e),
        })?;
        Ok(Buffer { address: Address(address), bytes })
    }

    fn free(&self, buffer: Buffer) {
        if self.enter().is_ok() {
            // SAFETY: allocated on this stream, freed once by its owner. A failure here means that the context is lost,
            // which the next call reports.
            let _ = unsafe { result::free_async(buffer.address.0, self.stream) };
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        self.enter()?;
        // SAFETY: the caller allocated that many bytes; pageable memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(to.0, bytes, self.stream) }.map_err(|e| failed("uploading", e))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        self.enter()?;
        // SAFETY: the caller allocated that many bytes; the wait below ends before `bytes` is used.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream) }.map_err(|e| failed("downloading", e))?;
        self.synchronize()
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        self.enter()?;
        // SAFETY: the caller allocated both ranges.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream) }.map_err(|e| failed("copying", e))
    }

    fn run(&self, kernel: &'static KernelSpec, geometry: Geometry, args: &[ArgValue]) -> Result<(), LaunchError> {
        self.enter()?;
        let function = self.function(kernel)?;
        if geometry.shared > 0 {
            // Static and dynamic shared memory together need leave above 48 KiB.
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(function, most, geometry.shared as i32) }
                .map_err(|e| failed(&format!("{} bytes of shared memory", geometry.shared), e))?;
        }
        // Every parameter is read from the front of a 64-bit little-endian cell.
        let mut cells: Vec<u64> = args
            .iter()
            .map(|arg| match arg {
                ArgValue::Memory { address, .. } => address.0,
                ArgValue::Scalar { bits, .. } => *bits,
            })
            .collect();
        let mut params: Vec<*mut c_void> = cells.iter_mut().map(|cell| (&raw mut *cell).cast()).collect();
        let (grid, block) = (geometry.grid_dim(), geometry.block_dim());
        // SAFETY: `submit` checked the arguments against the kernel's launch rule; the driver copies the parameters
        // before it returns.
        unsafe {
            result::launch_kernel(
                function,
                (grid.x, grid.y, grid.z),
                (block.x, block.y, block.z),
                geometry.shared as u32,
                self.stream,
                &mut params,
            )
        }
        .map_err(|e| failed(&format!("launching {}", kernel.name), e))
    }

    fn run_timed(
        &self,
        kernel: &'static KernelSpec,
        geometry: Geometry,
        args: &[ArgValue],
    ) -> Result<f64, LaunchError> {
        self.time(|| self.run(kernel, geometry, args)).map(|milliseconds| f64::from(milliseconds) / 1e3)
    }

    fn synchronize(&self) -> Result<(), LaunchError> {
        self.enter()?;
        // SAFETY: the stream is ours.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("waiting for the GPU", e))
    }

    fn products(&self) -> Option<&dyn Products> {
        self.library.as_ref().map(|library| &library.cublas as &dyn Products)
    }
}

impl Drop for CudaLauncher {
    fn drop(&mut self) {
        // SAFETY: everything was created by `open` and is released once. Failures at the end have nobody to tell.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            if let Some(Library { cublas, workspace }) = self.library.take() {
                drop(cublas);
                let _ = result::free_sync(workspace);
            }
            let _ = result::module::unload(self.module);
            let _ = result::stream::destroy(self.stream);
        }
    }
}

impl fmt::Debug for CudaLauncher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, compute capability {}.{})", self.name, self.model, self.capability.0, self.capability.1)
    }
}

/// The driver's release, where its kernel module tells it (on Linux), and its interface: releases of one interface
/// compile PTX differently.
fn driver(interface: &str) -> String {
    match std::fs::read_to_string("/sys/module/nvidia/version") {
        Ok(release) => format!("{}, {interface}", release.trim()),
        Err(_) => interface.to_string(),
    }
}

/// cuBLAS on `stream`, where it is installed; the context is current.
fn library(stream: CUstream) -> Result<Option<Library>, LaunchError> {
    if !Cublas::is_present() {
        return Ok(None);
    }
    // SAFETY: the context is current; the memory is freed after the library, by drop.
    let workspace =
        unsafe { result::malloc_sync(cublas::WORKSPACE) }.map_err(|e| failed("allocating cuBLAS's workspace", e))?;
    // SAFETY: the library is present; the launcher drops it before the stream and frees the workspace after it.
    let cublas = unsafe { Cublas::on(stream, workspace) }?;
    Ok(Some(Library { cublas, workspace }))
}

/// Keeps what is freed in the driver's pool; by default it goes back to the system at every synchronisation.
fn keep_freed_memory(device: sys::CUdevice) -> Result<(), LaunchError> {
    let mut threshold = u64::MAX;
    let which = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device was opened; the attribute is an unsigned 64-bit integer.
    unsafe {
        let pool = result::device::get_default_mem_pool(device).map_err(|e| failed("the GPU's memory pool", e))?;
        result::mem_pool::set_attribute(pool, which, (&raw mut threshold).cast())
    }
    .map_err(|e| failed("the GPU's memory pool", e))
}

fn missing(got: &str, hint: &str) -> LaunchError {
    LaunchError::Device { got: got.into(), hint: hint.into() }
}

fn failed(doing: &str, error: DriverError) -> LaunchError {
    LaunchError::Device { got: format!("{doing}: {error}"), hint: "selfsame doctor tells what works here".into() }
}
