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
//! - [`order`], [`tree`]: the constants of the canonical order, and the tree over samples.
//! - [`survey`]: the measured error of the f32 functions, over all inputs if wanted.
//! - [`mod@reference`]: slow scalar definitions of contraction, convolution, sample reductions and row functions.

pub mod elementwise;
pub mod half_precision;
pub mod isa;
pub mod lanes;
pub mod math;
pub mod order;
pub mod philox;
pub mod reference;
mod stamp;
pub mod survey;
pub mod tree;
