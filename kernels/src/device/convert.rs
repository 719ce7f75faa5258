//! Conversions between element types.

#[cfg(not(target_arch = "nvptx64"))]
use crate::kernel;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[];
