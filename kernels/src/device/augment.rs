//! Augmentation of images: crop and resize, flip, colour jitter, grayscale, blur, solarise.

#[cfg(not(target_arch = "nvptx64"))]
use crate::kernel;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[];
