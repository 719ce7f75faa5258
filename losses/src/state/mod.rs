//! State of losses: what a step reads and the next one finds changed.
//!
//! A value here is a buffer, visited by path for checkpoints. Nothing writes it but the end of a step: methods return
//! new values, which the step collects and commits once.
//!
//! - [`Centre`]: the running mean of a teacher's outputs.
//! - [`Queue`]: the newest keys, first in, first out.
//! - [`MemoryBank`]: a row for each image of the data set.
//! - [`k_means`]: clusters of the features of the whole data set.

mod centre;
mod kmeans;
mod memory_bank;
mod queue;

pub use centre::Centre;
pub use kmeans::{Clustering, Empty, KMeans, Metric, Start, k_means};
pub use memory_bank::MemoryBank;
pub use queue::Queue;

use selfsame_autograd::Param;
use selfsame_engine::Array;

/// New values of buffers, for the end of the step.
pub type NewValues = Vec<(Param, Array)>;
