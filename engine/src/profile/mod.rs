//! The profiler of a device: what ran when, what it had to do, and who holds the memory.
//!
//! - [`Profiler`] and [`Span`]: spans on the lanes of threads, opened by the primitives themselves, by the differentiable
//!   operations above them and by the launcher of kernels. Each device has its own; nothing is global. Off, a span is
//!   one relaxed load.
//! - [`Work`]: the nominal arithmetic and traffic of a span; [`Roof`]: what the machine can do, measured, and so how
//!   long the span takes at least.
//! - [`Recording`]: what was recorded, with totals by name; [`Trace`]: the same for Perfetto.
//! - [`Owner`], [`MemoryLog`]: memory over time by what it is for; [`plan`]: the memory of a batch that has not run.

mod ledger;
mod plan;
mod recording;
mod roof;
mod span;
mod trace;
mod work;

pub(crate) use ledger::Ledger;
pub use ledger::{Extents, MemoryLog, OWNERS, Owner, OwnerBytes, Peak, Piece};
pub use plan::{Plan, Probe, plan};
pub use recording::{Event, Kind, Lane, Recording, Total};
pub use roof::Roof;
pub(crate) use span::SpanLane;
pub use span::{OwnerScope, Phase, PhaseScope, Profiler, Span};
pub use trace::{Trace, Written};
pub use work::Work;
