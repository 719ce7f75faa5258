//! Heads: what a method puts on a backbone during pre-training and discards afterwards.

mod mlp;

pub use mlp::{Mlp, MlpOpts, OutputNorm};
