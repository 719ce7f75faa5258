//! Element functions with fixed bits, from one source for every device and for f32 and f64.
//!
//! Built from `+ - * /`, square root, explicit fused multiply-adds, integer bit operations and selects alone, each
//! of which IEEE-754 or Rust defines to the bit. Branch-free (but for the huge arguments of sine and cosine), so
//! that loops over them vectorise. Everything is `#[inline(always)]`: call it inside a [`stamp!`](crate::stamp!)-ed
//! function, or each fused multiply-add becomes a call.
//!
//! Generic code uses [`Real`]; concrete code calls `math::f32::exp(x)`. Beware of method syntax on a concrete float:
//! `x.exp()` is the *standard library's* (platform) exponential whenever `x: f32` is known, since inherent methods
//! win. Write `Real::exp(x)` or `math::f32::exp(x)`.
//!
//! Errors are measured, not proved; the table is in `NUMERICS.md`.

mod erf;
mod exponential;
pub mod f32;
pub mod f64;
mod ieee;
mod logarithm;
mod pow;
mod real;
mod select;
pub(crate) mod table;
mod trigonometric;

pub use real::Real;
#[cfg(not(target_arch = "nvptx64"))]
pub(crate) use trigonometric::is_moderate;
pub(crate) use trigonometric::{cos_moderate, sin_moderate};
