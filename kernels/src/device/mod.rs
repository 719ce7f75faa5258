//! Device code: one file per family of kernels. [`kernels`] lists them all.

pub mod augment;
pub mod batch_norm;
pub mod binary;
pub mod cluster;
pub mod conv;
#[cfg(not(target_arch = "nvptx64"))]
mod conv_cases;
pub mod conv_weight;
pub mod convert;
pub mod depthwise;
pub mod index;
pub mod interpolate;
pub mod layout;
pub mod matmul;
pub mod norms;
pub mod optim;
pub mod pairs;
pub mod pool;
pub mod random;
pub mod reduce;
mod run;
pub mod samples;
pub mod sinkhorn;
pub mod softmax;
pub mod sort;
pub mod tensor_core;
mod tile;
pub mod unary;
pub mod update;

#[cfg(not(target_arch = "nvptx64"))]
use crate::kernel::KernelSpec;

/// The families, each with the kernels of its file.
#[cfg(not(target_arch = "nvptx64"))]
pub static FAMILIES: &[(&str, &[&KernelSpec])] = &[
    ("augment", augment::KERNELS),
    ("batch_norm", batch_norm::KERNELS),
    ("binary", binary::KERNELS),
    ("cluster", cluster::KERNELS),
    ("conv", conv::KERNELS),
    ("conv_weight", conv_weight::KERNELS),
    ("convert", convert::KERNELS),
    ("depthwise", depthwise::KERNELS),
    ("index", index::KERNELS),
    ("interpolate", interpolate::KERNELS),
    ("layout", layout::KERNELS),
    ("matmul", matmul::KERNELS),
    ("norms", norms::KERNELS),
    ("optim", optim::KERNELS),
    ("pairs", pairs::KERNELS),
    ("pool", pool::KERNELS),
    ("random", random::KERNELS),
    ("reduce", reduce::KERNELS),
    ("samples", samples::KERNELS),
    ("sinkhorn", sinkhorn::KERNELS),
    ("softmax", softmax::KERNELS),
    ("sort", sort::KERNELS),
    ("tensor_core", tensor_core::KERNELS),
    ("unary", unary::KERNELS),
    ("update", update::KERNELS),
];

/// Every kernel.
#[cfg(not(target_arch = "nvptx64"))]
pub fn kernels() -> impl Iterator<Item = &'static KernelSpec> {
    FAMILIES.iter().flat_map(|(_, kernels)| kernels.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostLauncher;

    #[test]
    fn every_kernel_meets_its_cases() {
        let launcher = HostLauncher::new();
        for kernel in kernels() {
            for case in (kernel.cases)() {
                case.run(kernel, &launcher).unwrap_or_else(|e| panic!("{} ({}): {e}", kernel.name, case.name));
            }
        }
    }
}
