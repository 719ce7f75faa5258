//! [`OpLog`]: what every differentiable operation of a device computed, in the order of the program.
//!
//! Off, it costs one load per operation. On, each array that an operation makes, forward or backward, leaves its name and
//! hash; one of them can be kept whole, to look at its elements, and a bit of one can be flipped on purpose, to see that
//! a comparison of two logs finds it.
//!
//! Threads that work side by side (ranks, micro-batches in lockstep) write into *lanes* of their own: inside a lane the
//! order is that of the program, between lanes there is none.

use crate::hash::hash_arrays;
use crate::{Array, DType, Result};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which half of an operation made an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Its outputs.
    Forward,
    /// The gradients of its inputs.
    Backward,
}

impl Direction {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        }
    }
}

/// A place in a log: entry `index` of `lane`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// Position in the lane. First, so that places sort by how early they are.
    pub index: usize,
    /// The lane.
    pub lane: usize,
}

/// One array that an operation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpRecord {
    /// Name of the operation.
    pub op: &'static str,
    /// Path of the module whose parameters it took, if it took any.
    pub module: Option<String>,
    /// Which half of it.
    pub direction: Direction,
    /// Number of the array among those it made.
    pub part: usize,
    /// Shape of the array.
    pub shape: Vec<usize>,
    /// Hash of the array: see [`hash_arrays`].
    pub hash: u64,
}

/// A bit to flip on purpose in what an operation's forward made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The log entry of the array, which must be an `f32` output.
    pub place: LogPlace,
    /// Element in row-major order; taken modulo the number of elements.
    pub element: usize,
    /// Bit of the element, 0 the lowest.
    pub bit: u32,
}

/// What a log should do.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogOptions {
    /// The array to keep whole.
    pub keep: Option<LogPlace>,
    /// The bit to flip.
    pub fault: Option<Fault>,
}

/// What was logged.
#[derive(Debug, Default)]
pub struct OpTrace {
    /// The entries of each lane, in the order of the program.
    pub lanes: BTreeMap<usize, Vec<OpRecord>>,
    /// The array that was asked for.
    pub kept: Option<Array>,
    /// Whether the bit was flipped.
    pub flipped: bool,
}

/// The log of a device.
#[derive(Debug, Default)]
pub struct OpLog {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    options: LogOptions,
    trace: OpTrace,
}

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// Makes `lane` that of this thread's operations until it ends. Threads begin in lane 0.
pub fn enter_lane(lane: usize) {
    LANE.set(lane);
}

impl OpLog {
    /// Begins a log; what an earlier one held is dropped.
    pub fn begin(&self, options: LogOptions) {
        *self.lock() = State { options, trace: OpTrace::default() };
        self.on.store(true, Ordering::Release);
    }

    /// Ends the log and hands it out.
    pub fn end(&self) -> OpTrace {
        self.on.store(false, Ordering::Release);
        std::mem::take(&mut *self.lock()).trace
    }

    /// Whether operations are logged.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Enters the outputs of an operation's forward, and flips the bit that was asked for.
    ///
    /// # Errors
    /// As for [`hash_arrays`].
    pub fn forward(&self, op: &'static str, module: Option<String>, outputs: &mut [Array]) -> Result<()> {
        let lane = LANE.get();
        {
            let mut state = self.lock();
            let next = state.trace.lanes.get(&lane).map_or(0, Vec::len);
            if let Some(fault) = state.options.fault.filter(|fault| fault.place.lane == lane)
                && let Some(output) = fault.place.index.checked_sub(next).and_then(|part| outputs.get_mut(part))
                && output.dtype() == DType::F32
                && output.numel() > 0
            {
                let mut changed = output.copy()?;
                let element = fault.element % changed.numel();
                let value = &mut changed.make_mut::<f32>()?[element];
                *value = f32::from_bits(value.to_bits() ^ 1u32.rotate_left(fault.bit));
                *output = changed;
                state.trace.flipped = true;
            }
        }
        self.enter(op, module, Direction::Forward, &outputs.iter().collect::<Vec<_>>())
    }

    /// Enters what an operation's backward made.
    ///
    /// # Errors
    /// As for [`hash_arrays`].
    pub fn backward(&self, op: &'static str, module: Option<String>, made: &[&Array]) -> Result<()> {
        self.enter(op, module, Direction::Backward, made)
    }

    fn enter(&self, op: &'static str, module: Option<String>, direction: Direction, arrays: &[&Array]) -> Result<()> {
        let [first, ..] = arrays else { return Ok(()) };
        let hashes = hash_arrays(arrays, first.device().host().workers())?;
        let lane = LANE.get();
        let State { options, trace } = &mut *self.lock();
        let entries = trace.lanes.entry(lane).or_default();
        for (part, (array, hash)) in arrays.iter().zip(hashes).enumerate() {
            if options.keep == Some(LogPlace { index: entries.len(), lane }) {
                trace.kept = Some((*array).clone());
            }
            entries.push(OpRecord { op, module: module.clone(), direction, part, shape: array.shape().to_vec(), hash });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An entry is pushed whole or not at all: a panic elsewhere leaves the log readable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
