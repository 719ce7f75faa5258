//! The host executor and checker: runs a kernel's threads as coroutines, block by block, each memory access and each
//! meeting of threads going through it.
//!
//! With [`Options::checks`] on, every access is checked against shadow memory, and what is wrong becomes a [`Finding`].
//! With checks off only bounds are, and blocks run on several threads of the host.
//!
//! [`check()`] runs the cases of kernels under many schedules; [`mutation::score`] says how much that is worth.
//!
//! # What orders memory
//! As the PTX memory model has it: a barrier orders all threads of the block, `sync_warp` (`bar.warp.sync`) the lanes of
//! its mask. Shuffles, votes and `mma` exchange registers and order nothing. Atomics are relaxed: they do not race with
//! one another, and a plain access must be ordered with them. A `fence` before an atomic releases what its thread knew
//! then; a `fence` after an atomic acquires what the atomics before it on that element released. Launches are ordered.

mod check;
mod checker;
mod clock;
mod counters;
mod equivalent;
pub mod exec;
mod finding;
pub mod launcher;
mod meeting;
mod memory;
pub mod mma;
pub mod mutation;
mod sanitizer;
mod schedule;
mod shadow;
mod site;
mod stack;
mod worker;

pub use check::{CheckReport, KernelReport, check};
pub use counters::Counters;
pub use equivalent::{EQUIVALENT, Equivalent, Source};
pub use finding::{Finding, FindingKind, Place};
pub use launcher::{HostLauncher, Options};
pub use schedule::Schedule;
pub use site::{Operation, Site};
