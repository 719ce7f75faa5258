//! One block: its threads as coroutines, its shared memory, its meetings.
#![allow(unsafe_code)]

use super::checker::{Access, Checker, Name, Region};
use super::finding::{Finding, FindingKind, Findings, Place};
use super::meeting::{Meeting, Resume, Trouble, Wait};
use super::mma::Fragment;
use super::mutation::Mutant;
use super::schedule::{Ready, Schedule, position as position_of};
use super::shadow::Shadow;
use super::site::{NO_MEMORY, Operation};
use super::stack::ThreadStack;
use crate::kernel::KernelSpec;
use crate::launch::Geometry;
use crate::simt::{Dim3, Element};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

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
struct Thread {
    position: Position,
    yielder: Cell<*const Yielder<Resume, Wait>>,
    block: *const Block,
}

/// What the threads of a block share.
struct Block {
    kernel: &'static KernelSpec,
    tiles: UnsafeCell<Tiles>,
    /// Null where checks are off.
    checker: *mut Checker,
    /// Where checks are off.
    findings: RefCell<Findings>,
}

thread_local! {
    static RUNNING: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
    /// The message and place of the running thread's panic.
    static PANIC: RefCell<Option<(String, Option<Place>)>> = const { RefCell::new(None) };
}

fn running() -> &'static Thread {
    let running = RUNNING.get();
    assert!(!running.is_null(), "a kernel's vocabulary is for kernels: it was used outside a launch");
    // SAFETY: set by `Worker::run` to the thread that it resumes, which outlives the resumption.
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
    fn report(&self, kind: FindingKind, at: Option<Place>, other: Option<Place>, me: &Position, detail: String) {
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

/// The atomic view of an element.
macro_rules! atomically {
    ($pointer:expr, $size:expr, $atomic:ident => $do:expr) => {
        // SAFETY: `reach` gave the pointer: it lies in living memory and is aligned for its element; all accesses
        // while kernels run are atomic.
        match $size {
            1 => {
                let $atomic = unsafe { AtomicU8::from_ptr($pointer.cast()) };
                $do
            }
            2 => {
                let $atomic = unsafe { AtomicU16::from_ptr($pointer.cast()) };
                $do
            }
            4 => {
                let $atomic = unsafe { AtomicU32::from_ptr($pointer.cast()) };
                $do
            }
            _ => {
                let $atomic = unsafe { AtomicU64::from_ptr($pointer.cast()) };
                $do
            }
        }
    };
}

/// Reads `N` elements; what may not be read is 0.
#[track_caller]
#[inline]
pub fn read<T: Element, const N: usize>(view: View, i: u32) -> [T; N] {
    let operation = if N == 1 { Operation::Read } else { Operation::Read4 };
    match reach::<T>(view, i, operation, Location::caller()) {
        Some(first) => std::array::from_fn(|k| {
            let element = first.wrapping_add(k);
            T::from_bits(atomically!(element, size_of::<T>(), bits => u64::from(bits.load(Ordering::Relaxed))))
        }),
        None => [T::default(); N],
    }
}

/// Writes `N` elements, or nothing where it may not.
#[track_caller]
#[inline]
pub fn write<T: Element, const N: usize>(view: View, i: u32, values: [T; N]) {
    let operation = if N == 1 { Operation::Write } else { Operation::Write4 };
    let Some(first) = reach::<T>(view, i, operation, Location::caller()) else { return };
    for (k, value) in values.into_iter().enumerate() {
        let element = first.wrapping_add(k);
        atomically!(element, size_of::<T>(), bits => bits.store(value.to_bits() as _, Ordering::Relaxed));
    }
}

/// Changes an element as one step; gives what was there.
#[track_caller]
#[inline]
pub fn atomic<T: Element>(view: View, i: u32, change: impl Fn(T) -> T) -> T {
    let Some(element) = reach::<T>(view, i, Operation::Atomic, Location::caller()) else { return T::default() };
    T::from_bits(atomically!(element, size_of::<T>(), bits => {
        let change = |old| Some(change(T::from_bits(u64::from(old))).to_bits() as _);
        let changed = bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        u64::from(changed.unwrap_or_else(|old| old))
    }))
}

/// The shared memory of a block: tiles by the declaration, and the dynamic one.
struct Tiles {
    fixed: Vec<Tile>,
    dynamic: Option<Tile>,
    dynamic_bytes: usize,
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
                shared: true,
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

type Fibre = Coroutine<Resume, Wait, bool, ThreadStack>;

/// Runs blocks of one launch, one after the other.
pub(super) struct Worker<'a> {
    kernel: &'static KernelSpec,
    args: &'a [BoundArg],
    schedule: Schedule,
    grid: Dim3,
    threads: Vec<Thread>,
    fibres: Vec<Option<Fibre>>,
    meeting: Meeting,
    stacks: Vec<ThreadStack>,
    block: Box<Block>,
}

impl<'a> Worker<'a> {
    /// `checker` is null, or outlives the worker and is used by it alone. `stacks` are reused.
    pub(super) fn new(
        kernel: &'static KernelSpec,
        geometry: &Geometry,
        args: &'a [BoundArg],
        schedule: Schedule,
        checker: *mut Checker,
        stacks: Vec<ThreadStack>,
    ) -> Worker<'a> {
        report_panics();
        let (block_dim, grid_dim) = (geometry.block_dim(), geometry.grid_dim());
        let tiles = Tiles { fixed: Vec::new(), dynamic: None, dynamic_bytes: geometry.shared as usize };
        let block = Box::new(Block { kernel, tiles: UnsafeCell::new(tiles), checker, findings: RefCell::default() });
        let count = block_dim.count() as u32;
        let threads = (0..count).map(|number| {
            let (thread, block_at) = (position_of(number, block_dim), Dim3::new(0, 0, 0));
            let position = Position { thread, block: block_at, block_dim, grid_dim, number };
            Thread { position, yielder: Cell::new(std::ptr::null()), block: &raw const *block }
        });
        let threads: Vec<Thread> = threads.collect();
        let fibres = (0..count).map(|_| None).collect();
        Worker { kernel, args, schedule, grid: grid_dim, threads, fibres, meeting: Meeting::new(count), stacks, block }
    }

    fn fibre(&mut self, number: u32) -> std::io::Result<Fibre> {
        let stack = match self.stacks.pop() {
            Some(stack) => stack,
            None => ThreadStack::new(number as usize)?,
        };
        let (kernel, thread) = (self.kernel, &raw const self.threads[number as usize]);
        let args: *const [BoundArg] = self.args;
        Ok(Coroutine::with_stack(stack, move |yielder: &Yielder<Resume, Wait>, _| {
            // SAFETY: the worker keeps its threads and arguments in place while fibres run.
            let (thread, args) = unsafe { (&*thread, &*args) };
            thread.yielder.set(yielder);
            catch_unwind(AssertUnwindSafe(|| (kernel.thread)(args))).is_ok()
        }))
    }

    /// Runs block `number` to its end; whether all its threads came to theirs.
    ///
    /// # Errors
    /// When the host has no memory for the threads' stacks.
    pub(super) fn run(&mut self, number: u32) -> std::io::Result<bool> {
        let at = position_of(number, self.grid);
        let count = self.threads.len() as u32;
        self.threads.iter_mut().for_each(|thread| thread.position.block = at);
        let tiles = self.block.tiles.get_mut();
        tiles.fixed.iter_mut().chain(&mut tiles.dynamic).for_each(|tile| tile.words.fill(0));
        self.meeting.start();
        // SAFETY: no thread runs now.
        if let Some(checker) = unsafe { self.block.checker.as_mut() } {
            checker.start_block(number, count);
        }
        let mut ready = Ready::new(self.schedule, number, count);
        (0..count).for_each(|thread| ready.push(thread));
        let mut whole = true;
        while let Some(thread) = ready.pop() {
            if !self.resume(thread)? {
                whole = false;
                break;
            }
            whole &= self.meet(&mut ready);
        }
        whole &= self.meeting.all_ended();
        self.reclaim();
        // SAFETY: as above.
        if let Some(checker) = unsafe { self.block.checker.as_mut() } {
            checker.finish_block();
        }
        Ok(whole)
    }

    /// Whether the launch is to end.
    pub(super) fn is_stopped(&self) -> bool {
        // SAFETY: no thread runs now.
        unsafe { self.block.checker.as_ref() }.is_some_and(|checker| checker.stop)
    }

    /// Lets a thread run until it waits or ends; false where the block is to stop.
    fn resume(&mut self, number: u32) -> std::io::Result<bool> {
        let index = number as usize;
        let mut fibre = match self.fibres[index].take() {
            Some(fibre) => fibre,
            None => self.fibre(number)?,
        };
        let resume = self.meeting.resume(number);
        RUNNING.set(&raw const self.threads[index]);
        let result = fibre.resume(resume);
        RUNNING.set(std::ptr::null());
        match result {
            CoroutineResult::Yield(wait) => {
                let go_on = !matches!(wait, Wait::Stop);
                self.meeting.waits(number, wait);
                self.fibres[index] = Some(fibre);
                Ok(go_on)
            }
            CoroutineResult::Return(sound) => {
                self.meeting.ends(number);
                self.stacks.push(fibre.into_stack());
                if !sound {
                    let (message, at) = PANIC.take().unwrap_or_default();
                    self.block.report(FindingKind::Panic, at, None, &self.threads[index].position, message);
                }
                Ok(sound)
            }
        }
    }

    /// Lets meetings happen that the last arrival made complete; false where the block is stuck.
    fn meet(&mut self, ready: &mut Ready) -> bool {
        let Worker { meeting, threads, block, .. } = self;
        let report = |found: Trouble| {
            let at = Some(Place::from(found.at));
            block.report(
                found.kind,
                at,
                found.other.map(Place::from),
                &threads[found.thread as usize].position,
                found.detail,
            );
        };
        // SAFETY: no thread runs now.
        meeting.advance(ready, unsafe { block.checker.as_mut() }, report)
    }

    /// Takes back the stacks of threads that have not ended.
    fn reclaim(&mut self) {
        for fibre in &mut self.fibres {
            let Some(mut fibre) = fibre.take() else { continue };
            // SAFETY: kernels are written for devices without a heap: their frames own nothing that must be dropped.
            unsafe { fibre.force_reset() };
            self.stacks.push(fibre.into_stack());
        }
    }

    /// The stacks, for the next launch, and what was found where checks are off.
    pub(super) fn finish(self) -> (Vec<ThreadStack>, Findings) {
        (self.stacks, self.block.findings.take())
    }
}

/// Has panics of kernel threads noted instead of printed.
fn report_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if RUNNING.get().is_null() {
                return previous(info);
            }
            let payload = info.payload();
            let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            let place = info.location().map(|location| Place {
                file: String::from(location.file()).leak(),
                line: location.line(),
                column: location.column(),
            });
            PANIC.set(Some((message, place)));
        }));
    });
}
