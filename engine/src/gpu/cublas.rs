//! cuBLAS as the library of matrix products of a GPU. Loaded at run time; a GPU without it uses kernels of our own.
//!
//! One handle with a workspace of its own on the launcher's stream, and atomics off: the same bits run after run.
#![allow(unsafe_code)]

use cudarc::cublas::result::{self, CublasError};
use cudarc::cublas::sys::{self, cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasOperation_t};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use selfsame_kernels::launch::{LaunchError, Major, Matrices, Product, Products};
use std::ffi::{c_int, c_longlong, c_void};
use std::sync::{Mutex, PoisonError};

/// Bytes of workspace: what NVIDIA recommends for its largest GPUs.
pub(super) const WORKSPACE: usize = 32 << 20;

/// cuBLAS on one stream.
pub(super) struct Cublas {
    name: String,
    handle: Mutex<Handle>,
}

struct Handle(cublasHandle_t);

// SAFETY: a handle may be used from any thread, by one at a time, which the mutex around it sees to.
unsafe impl Send for Handle {}

impl Cublas {
    /// Whether the library is on this machine.
    pub(super) fn is_present() -> bool {
        // SAFETY: loads the library, whose initialisers are trusted.
        unsafe { sys::is_culib_present() }
    }

    /// A handle on `stream` with `workspace` of [`WORKSPACE`] bytes.
    ///
    /// # Errors
    /// What the library says.
    ///
    /// # Safety
    /// The stream's context is current; the library is present; stream and workspace outlive the handle.
    pub(super) unsafe fn on(stream: CUstream, workspace: CUdeviceptr) -> Result<Cublas, LaunchError> {
        let handle = result::create_handle().map_err(|e| failed("starting cuBLAS", e))?;
        let mut version: c_int = 0;
        // SAFETY: the handle was just created; stream and workspace are the caller's promise.
        unsafe {
            result::set_stream(handle, stream.cast())
                .and_then(|()| sys::cublasSetWorkspace_v2(handle, workspace as *mut c_void, WORKSPACE).result())
                .and_then(|()| {
                    sys::cublasSetAtomicsMode(handle, sys::cublasAtomicsMode_t::CUBLAS_ATOMICS_NOT_ALLOWED).result()
                })
                .and_then(|()| sys::cublasGetVersion_v2(handle, &mut version).result())
        }
        .map_err(|e| failed("setting cuBLAS up", e))?;
        let name = format!("cuBLAS {}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
        Ok(Cublas { name, handle: Mutex::new(Handle(handle)) })
    }
}

impl Products for Cublas {
    fn name(&self) -> &str {
        &self.name
    }

    fn multiply(&self, product: &Product) -> Result<(), LaunchError> {
        let Product { a, b, c, m, n, k, batch } = *product;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (one, zero) = (1f32, 0f32);
        let f32_type = sys::cudaDataType_t::CUDA_R_32F;
        // The library's matrices are column-major: ours are their transposes, so it is given C' = B' A'.
        // SAFETY: the engine checked extents and addresses; scalars are read before the call returns; the stream
        // orders the work with everything else on it.
        unsafe {
            sys::cublasGemmStridedBatchedEx(
                handle.0,
                operation(b),
                operation(a),
                int(n)?,
                int(m)?,
                int(k)?,
                (&raw const one).cast(),
                b.address.0 as *const c_void,
                f32_type,
                int(b.pitch)?,
                c_longlong::from(b.batch_stride),
                a.address.0 as *const c_void,
                f32_type,
                int(a.pitch)?,
                c_longlong::from(a.batch_stride),
                (&raw const zero).cast(),
                c.0 as *mut c_void,
                f32_type,
                int(n)?,
                c_longlong::from(m) * c_longlong::from(n),
                int(batch)?,
                cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .result()
        .map_err(|e| failed("a matrix product of cuBLAS", e))
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: created by `on`, destroyed once. A failure at the end has nobody to tell.
        let _ = unsafe { result::destroy_handle(handle.0) };
    }
}

/// How the library has to read an operand: a row-major matrix is its transpose in column-major order.
fn operation(matrices: Matrices) -> cublasOperation_t {
    match matrices.major {
        Major::Row => cublasOperation_t::CUBLAS_OP_N,
        Major::Column => cublasOperation_t::CUBLAS_OP_T,
    }
}

fn int(n: u32) -> Result<c_int, LaunchError> {
    c_int::try_from(n).map_err(|_| LaunchError::Device {
        got: format!("an extent of {n}"),
        hint: "cuBLAS takes extents below 2^31".into(),
    })
}

fn failed(doing: &str, error: CublasError) -> LaunchError {
    LaunchError::Device { got: format!("{doing}: {error}"), hint: "selfsame doctor tells what works here".into() }
}
