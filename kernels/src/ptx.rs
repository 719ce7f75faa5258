//! The kernels as PTX, for the driver to load: every [`kernel!`](crate::kernel!) is an entry of its own name.

/// The PTX for GPUs of compute capability 8.0 and newer. Its first lines name the compiler, the flags and the sources
/// that it was built from.
pub const SM_80: &str = include_str!(env!("SELFSAME_PTX_SM_80"));

/// Whether [`SM_80`] was built from the sources of this crate as they are. It is false where a kernel was changed and
/// no device compiler was found; the build has said what to install.
pub const FRESH: bool = cfg!(ptx_fresh);
