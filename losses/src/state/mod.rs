//! State of losses: what a step reads and the next one finds changed.
//!
//! A value here is a buffer, visited by path for checkpoints. Nothing writes it but the end of a step: methods return
//! new values, which the step collects and commits once.
//!
//! - [`Centre`]: the running mean of a teacher's outputs.

mod centre;

pub use centre::Centre;
