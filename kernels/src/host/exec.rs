//! The vocabulary as the running thread says it: accesses, meetings, shared memory.
#![allow(unsafe_code)]

use super::checker::{Access, Checker, Name, Region};
use super::finding::{Finding, FindingKind, Findings, Place};
use super::meeting::{Resume, Wait};
use super::mma::Fragment;
use super::mutation::Mutant;
use super::shadow::Shadow;
use super::site::{NO_MEMORY, Operation};
use crate::kernel::KernelSpec;
use crate::simt::{AtomicInteger, Dim3, Element};
use corosensei::Yielder;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::Location;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// An argument of a launch as the kernel sees it on the host.
#[derive(Clone, Copy, Debug)]
pub enum BoundArg {
    /// Memory.
    Memory(View),
    /// The bits of a number.
    Scalar(u64),
}

// SAFETY: a view's bytes are accessed by atomic loads and stores alone.
unsafe impl Sync for BoundArg {}

/// Memory as a kernel sees it: where it is and how far it reaches.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The first byte.
    pub(super) data: *mut u8,
    /// The length in bytes.
    pub(super) bytes: usize,
    /// Its number with the checker, or [`NO_MEMORY`].
    pub(super) memory: u32,
    /// Elements of its memory before the first byte.
    pub(super) skipped: u32,
}

impl View {
    /// The view from element `i` of `size` bytes on.
    pub fn offset(self, i: u32, size: usize) -> View {
        let bytes = i as usize * size;
        View {
            data: self.data.wrapping_add(bytes),
            bytes: self.bytes.saturating_sub(bytes),
            skipped: self.skipped.saturating_add(i),
            ..self
        }
    }
}

/// Where a thread is.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// In its block.
    pub thread: Dim3,
    /// Its block in the grid.
    pub block: Dim3,
    /// Threads per block.
    pub block_dim: Dim3,
    /// Blocks of the grid.
    pub grid_dim: Dim3,
    /// The number of the thread in its block.
    pub number: u32,
}

/// What lanes do when they meet.
#[derive(Clone, Copy, Debug)]
pub enum Exchange {
    /// Nothing.
    Sync,
    /// Read the value of a lane.
    Shuffle {
        /// That lane.
        source: u32,
    },
    /// Learn whose values are not 0.
    Ballot,
}

/// A thread of the running block.
pub(super) struct Thread {
    pub(super) position: Position,
    pub(super) yielder: Cell<*const Yielder<Resume, Wait>>,
    pub(super) block: *const Block,
}

/// What the threads of a block share.
pub(super) struct Block {
    pub(super) kernel: &'static KernelSpec,
    pub(super) tiles: UnsafeCell<Tiles>,
    /// Null where checks are off.
    pub(super) checker: *mut Checker,
    /// Where checks are off.
    pub(super) findings: RefCell<Findings>,
}

thread_local! {
    pub(super) static RUNNING: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
}

fn running() -> &'static Thread {
    let running = RUNNING.get();
    assert!(!running.is_null(), "a kernel's vocabulary is for kernels: it was used outside a launch");
    // SAFETY: set by the worker to the thread that it resumes, which outlives the resumption.
    unsafe { &*running }
}

impl Thread {
    fn block(&self) -> &Block {
        // SAFETY: the block outlives its threads.
        unsafe { &*self.block }
    }

    fn wait(&self, wait: Wait) -> Resume {
        // SAFETY: the yielder lives as long as its coroutine, which is running.
        unsafe { &*self.yielder.get() }.suspend(wait)
    }

    /// Calls `check` on the checker, if checks are on, and ends the thread's run if that says so.
    fn checked<R>(&self, check: impl FnOnce(&mut Checker, &Position) -> R) -> Option<R> {
        // SAFETY: one thread of a launch under check runs at a time, and keeps the reference across no suspension.
        let checker = unsafe { self.block().checker.as_mut() }?;
        let result = check(checker, &self.position);
        if checker.stop {
            self.wait(Wait::Stop);
        }
        Some(result)
    }
}

impl Block {
    pub(super) fn report(
        &self,
        kind: FindingKind,
        at: Option<Place>,
        other: Option<Place>,
        me: &Position,
        detail: String,
    ) {
        // SAFETY: as in `Thread::checked`.
        match unsafe { self.checker.as_mut() } {
            Some(checker) => checker.report(kind, None, at, other, me, detail),
            None => self.findings.borrow_mut().add(Finding {
                kind,
                kernel: self.kernel.name,
                memory: None,
                at,
                other,
                thread: me.thread,
                block: me.block,
                detail,
                count: 1,
            }),
        }
    }
}

/// Where the running thread is.
#[inline]
pub fn position() -> Position {
    running().position
}

/// Waits for the block.
#[track_caller]
pub fn barrier() {
    let (me, at) = (running(), Location::caller());
    if me.checked(|checker, _| checker.visit(at, Operation::Barrier)).flatten() != Some(Mutant::Removed) {
        me.wait(Wait::Barrier { at });
    }
}

/// Orders this thread's writes.
#[track_caller]
pub fn fence() {
    let at = Location::caller();
    running().checked(|checker, me| checker.fence(at, me.number));
}

/// Meets the lanes of `mask`.
#[track_caller]
pub fn exchange(mask: u32, value: u64, operation: Operation, exchange: Exchange) -> u64 {
    let (me, at) = (running(), Location::caller());
    let mask = match me.checked(|checker, _| checker.mutated_mask(at, operation, mask)) {
        Some(None) => return value,
        Some(Some(mask)) => mask,
        None => mask,
    };
    match me.wait(Wait::Lanes { mask, value, operation, exchange, at }) {
        Resume::Value(value) => value,
        _ => value,
    }
}

/// Meets all lanes for a product.
#[track_caller]
pub fn mma(fragment: Fragment, operation: Operation, model: fn(&[Fragment; 32]) -> [[f32; 4]; 32]) -> [f32; 4] {
    let (me, at) = (running(), Location::caller());
    me.checked(|checker, _| checker.visit(at, operation));
    match me.wait(Wait::Mma { fragment, operation, model, at }) {
        Resume::Product(d) => d,
        _ => fragment.c,
    }
}

/// Whether `i` lies below `end`.
#[track_caller]
pub fn within(i: u32, end: u32) -> bool {
    let at = Location::caller();
    i < running().checked(|checker, _| checker.mutated_end(at, Operation::Within, end)).unwrap_or(end)
}

/// The end of a loop.
#[track_caller]
pub fn bound(end: u32) -> u32 {
    let at = Location::caller();
    running().checked(|checker, _| checker.mutated_end(at, Operation::Strided, end)).unwrap_or(end)
}

/// Where an access goes, if it may happen.
#[inline]
fn reach<T: Element>(view: View, index: u32, operation: Operation, at: &'static Location<'static>) -> Option<*mut T> {
    let size = size_of::<T>();
    if view.memory != NO_MEMORY {
        return reach_checked(Access { view, index, size, operation, at }).map(<*mut u8>::cast);
    }
    let start = index as usize * size;
    if start + operation.width() as usize * size > view.bytes {
        outside(Access { view, index, size, operation, at });
        return None;
    }
    Some(view.data.wrapping_add(start).cast())
}

fn reach_checked(access: Access) -> Option<*mut u8> {
    let me = running();
    let stepped = me.checked(|checker, me| {
        let pauses = checker.step(access.at, me);
        if pauses { None } else { Some(checker.access(access, me)) }
    })?;
    stepped.unwrap_or_else(|| {
        me.wait(Wait::Preempted);
        me.checked(|checker, me| checker.access(access, me)).flatten()
    })
}

#[cold]
fn outside(access: Access) {
    let me = running();
    let detail = format!("element {} of {}", access.index, access.view.bytes / access.size);
    me.block().report(FindingKind::OutOfBounds, Some(Place::from(access.at)), None, &me.position, detail);
}

/// The element at `$pointer` as an atomic of the host.
macro_rules! element {
    ($atomic:ident at $pointer:expr) => {
        // SAFETY: `reach` gave the pointer: it lies in living memory and is aligned for its element; while kernels run,
        // all accesses are atomic.
        unsafe { $atomic::from_ptr($pointer.cast()) }
    };
}

#[inline(always)]
fn load<T: Element>(at: *mut T) -> T {
    T::from_bits(match size_of::<T>() {
        1 => u64::from(element!(AtomicU8 at at).load(Relaxed)),
        2 => u64::from(element!(AtomicU16 at at).load(Relaxed)),
        4 => u64::from(element!(AtomicU32 at at).load(Relaxed)),
        _ => element!(AtomicU64 at at).load(Relaxed),
    })
}

#[inline(always)]
fn store<T: Element>(at: *mut T, value: T) {
    let bits = value.to_bits();
    match size_of::<T>() {
        1 => element!(AtomicU8 at at).store(bits as u8, Relaxed),
        2 => element!(AtomicU16 at at).store(bits as u16, Relaxed),
        4 => element!(AtomicU32 at at).store(bits as u32, Relaxed),
        _ => element!(AtomicU64 at at).store(bits, Relaxed),
    }
}

/// Reads `N` elements; what may not be read is 0.
#[track_caller]
#[inline]
pub fn read<T: Element, const N: usize>(view: View, i: u32) -> [T; N] {
    let operation = if N == 1 { Operation::Read } else { Operation::Read4 };
    match reach::<T>(view, i, operation, Location::caller()) {
        Some(first) => std::array::from_fn(|k| load(first.wrapping_add(k))),
        None => [T::default(); N],
    }
}

/// Writes `N` elements, or nothing where it may not.
#[track_caller]
#[inline]
pub fn write<T: Element, const N: usize>(view: View, i: u32, values: [T; N]) {
    let operation = if N == 1 { Operation::Write } else { Operation::Write4 };
    let Some(first) = reach::<T>(view, i, operation, Location::caller()) else { return };
    values.into_iter().enumerate().for_each(|(k, value)| store(first.wrapping_add(k), value));
}

/// Changes an element as one step; gives what was there.
#[track_caller]
#[inline]
pub fn atomic<T: AtomicInteger>(view: View, i: u32, change: impl Fn(T) -> T) -> T {
    let Some(at) = reach::<T>(view, i, Operation::Atomic, Location::caller()) else { return T::default() };
    let change = |old: u64| change(T::from_bits(old)).to_bits();
    let old = if size_of::<T>() == 4 {
        let change = |old: u32| Some(change(u64::from(old)) as u32);
        u64::from(element!(AtomicU32 at at).fetch_update(Relaxed, Relaxed, change).unwrap_or_else(|old| old))
    } else {
        element!(AtomicU64 at at).fetch_update(Relaxed, Relaxed, |old| Some(change(old))).unwrap_or_else(|old| old)
    };
    T::from_bits(old)
}

/// The shared memory of a block: tiles by the declaration, and the dynamic one.
pub(super) struct Tiles {
    fixed: Vec<Tile>,
    dynamic: Option<Tile>,
    dynamic_bytes: usize,
}

impl Tiles {
    pub(super) fn new(dynamic_bytes: usize) -> Tiles {
        Tiles { fixed: Vec::new(), dynamic: None, dynamic_bytes }
    }

    /// A block starts: all tiles are 0.
    pub(super) fn clear(&mut self) {
        self.fixed.iter_mut().chain(&mut self.dynamic).for_each(|tile| tile.words.fill(0));
    }
}

struct Tile {
    key: *const u8,
    words: Vec<u128>,
    view: View,
}

impl Tile {
    fn new(key: *const u8, bytes: usize, size: usize, name: impl FnOnce() -> String, me: &Thread) -> Tile {
        let mut words = vec![0u128; bytes.div_ceil(16)];
        let data: *mut u8 = words.as_mut_ptr().cast();
        let memory = me.checked(|checker, _| {
            checker.names.push(Name { name: name(), region: checker.regions.len(), output: None });
            checker.regions.push(Region {
                base: data,
                initialised: vec![false; bytes],
                shadow: Some(Shadow::new(bytes, size)),
                part: None,
            });
            checker.names.len() as u32 - 1
        });
        Tile { key, words, view: View { data, bytes, memory: memory.unwrap_or(NO_MEMORY), skipped: 0 } }
    }
}

/// The tile that `key` stands for.
#[track_caller]
pub fn static_shared(key: *const u8, count: usize, size: usize) -> View {
    let (me, at) = (running(), Location::caller());
    // SAFETY: only the running thread of the block touches the tiles, and keeps them across no suspension.
    let tiles = unsafe { &mut *me.block().tiles.get() };
    if let Some(tile) = tiles.fixed.iter().find(|tile| tile.key == key) {
        return tile.view;
    }
    let tile = Tile::new(key, count * size, size, || format!("shared tile of {}", Place::from(at)), me);
    tiles.fixed.push(tile);
    tiles.fixed[tiles.fixed.len() - 1].view
}

/// The dynamic tile.
pub fn dynamic_shared(size: usize) -> View {
    let me = running();
    // SAFETY: as in `static_shared`.
    let tiles = unsafe { &mut *me.block().tiles.get() };
    let bytes = tiles.dynamic_bytes;
    let name = || "dynamic shared memory".to_owned();
    tiles.dynamic.get_or_insert_with(|| Tile::new(std::ptr::null(), bytes, size, name, me)).view
}
