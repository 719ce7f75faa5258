//! Numeric kernels with fixed bits: the floor that every other crate of selfsame stands on.
//!
//! `NUMERICS.md` beside this crate defines each operation down to the sequence of IEEE-754 operations; the
//! functions of [`mod@reference`] are its executable form.
//!
//! - [`isa`], [`stamp!`]: loops compiled per instruction set and chosen at run time, all with the same bits.
//! - [`math`]: exp, log, tanh, erf, sin, pow … in f32 and f64, from one source; the platform's libm is never used.
//! - [`philox`]: random numbers keyed by what they are for, never by who draws them.
//! - [`elementwise`], [`half_precision`], [`lanes`]: stamped slice loops: element functions, storage conversions,
//!   row reductions.
//! - [`optim`]: the steps of optimisers, element by element.
//! - [`order`], [`tree`]: the constants of the canonical order, and the tree over samples.
//! - [`survey`]: the measured error of the f32 functions, over all inputs if wanted.
//! - [`mod@reference`]: slow scalar definitions of contraction, convolution, sample reductions and row functions.

#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(
        abi_ptx,
        stdarch_nvptx,
        asm_experimental_arch,
        link_llvm_intrinsics,
        abi_unadjusted,
        core_intrinsics,
        core_float_math
    )
)]
#![cfg_attr(target_arch = "nvptx64", allow(internal_features, improper_ctypes, improper_ctypes_definitions))]

pub mod device;
pub mod elementwise;
pub mod half_precision;
pub mod kernel;
pub mod math;
pub mod optim;
pub mod order;
pub mod philox;
pub mod simt;
mod stamp;

/// What exists on the host alone.
macro_rules! host_only {
    ($(pub mod $name:ident;)+) => {$(
        #[cfg(not(target_arch = "nvptx64"))]
        pub mod $name;
    )+};
}
host_only! {
    pub mod bf16;
    pub mod case;
    pub mod host;
    pub mod isa;
    pub mod lanes;
    pub mod launch;
    pub mod ptx;
    pub mod reference;
    pub mod survey;
    pub mod tree;
}
