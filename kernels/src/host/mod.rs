//! The host executor: runs a kernel's threads as coroutines, block by block, each memory access and each meeting of
//! threads going through it.

pub mod exec;
pub mod launcher;
pub mod mma;

pub use launcher::HostLauncher;
