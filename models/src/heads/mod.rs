//! Heads: what a method puts on a backbone during pre-training and discards afterwards.

mod dino;
mod mlp;
mod prototypes;

pub use dino::{DinoHead, DinoHeadOpts};
pub use mlp::{Mlp, MlpOpts, OutputNorm};
pub use prototypes::Prototypes;
