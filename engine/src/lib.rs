//! Arrays, primitives and devices. No gradients live here.
//!
//! - [`Array`]: storage, shape, strides, element type, device; [`ops`]: the primitives on arrays.
//! - [`Device`], [`cpu`] and [`gpu`]: where they run; [`Numerics`]: in which order.
//! - [`rows`]: reductions over samples, whose bits do not depend on how a batch is cut.
//! - [`TensorFile`] and [`hash`]: arrays in files, and what identifies their content.
//! - [`profile`]: what ran when, at what share of the machine's roof, and who holds the memory.
//! - [`op_log`]: what every operation computed, as hashes.
//! - [`comm`]: collectives between ranks, in canonical order.

mod array;
mod bytes;
pub mod comm;
pub mod cpu;
mod device;
mod difference;
mod dtype;
mod error;
pub mod gpu;
pub mod hash;
mod layout;
mod names;
mod numerics;
pub mod op_log;
pub mod ops;
mod order;
pub mod profile;
pub mod rows;
mod tensor_file;

pub use array::Array;
pub use comm::Comm;
pub use device::Device;
pub use difference::{Difference, first_difference};
pub use dtype::{DType, Element};
pub use error::{Error, ErrorKind, Result};
pub use half::{bf16, f16};
pub use layout::{Layout, broadcast_shape, element_count, for_each_run};
pub use names::nearest;
pub use numerics::Numerics;
pub use rows::{Rows, SampleSum};
pub use tensor_file::TensorFile;
