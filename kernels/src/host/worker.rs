//! A block's run: its threads as coroutines, resumed in the order of the schedule until all have ended.
#![allow(unsafe_code)]

use super::checker::Checker;
use super::exec::{Block, BoundArg, Position, RUNNING, Thread, Tiles};
use super::finding::{FindingKind, Findings, Place};
use super::meeting::{Meeting, Resume, Trouble, Wait};
use super::sanitizer::CallStack;
use super::schedule::{Ready, Schedule, position as position_of};
use super::stack::ThreadStack;
use crate::kernel::KernelSpec;
use crate::launch::Geometry;
use crate::simt::Dim3;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// The message and place of the running thread's panic.
    static PANIC: RefCell<Option<(String, Option<Place>)>> = const { RefCell::new(None) };
}

/// A thread of the block that has begun.
struct Fibre {
    coroutine: Coroutine<Resume, Wait, bool, ThreadStack>,
    calls: CallStack,
}

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
        let tiles = Tiles::new(geometry.shared as usize);
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
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<Resume, Wait>, _| {
            // SAFETY: the worker keeps its threads and arguments in place while fibres run.
            let (thread, args) = unsafe { (&*thread, &*args) };
            thread.yielder.set(yielder);
            catch_unwind(AssertUnwindSafe(|| (kernel.thread)(args))).is_ok()
        });
        Ok(Fibre { coroutine, calls: CallStack::new() })
    }

    /// Runs block `number` to its end; whether all its threads came to theirs.
    ///
    /// # Errors
    /// When the host has no memory for the threads' stacks.
    pub(super) fn run(&mut self, number: u32) -> std::io::Result<bool> {
        let at = position_of(number, self.grid);
        let count = self.threads.len() as u32;
        self.threads.iter_mut().for_each(|thread| thread.position.block = at);
        self.block.tiles.get_mut().clear();
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
        let Fibre { mut coroutine, calls } = match self.fibres[index].take() {
            Some(fibre) => fibre,
            None => self.fibre(number)?,
        };
        let resume = self.meeting.resume(number);
        RUNNING.set(&raw const self.threads[index]);
        let result = calls.within(|| coroutine.resume(resume));
        RUNNING.set(std::ptr::null());
        match result {
            CoroutineResult::Yield(wait) => {
                let go_on = !matches!(wait, Wait::Stop);
                self.meeting.waits(number, wait);
                self.fibres[index] = Some(Fibre { coroutine, calls });
                Ok(go_on)
            }
            CoroutineResult::Return(sound) => {
                self.meeting.ends(number);
                self.stacks.push(coroutine.into_stack());
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
            let Some(Fibre { mut coroutine, .. }) = fibre.take() else { continue };
            // SAFETY: kernels are written for devices without a heap: their frames own nothing that must be dropped.
            unsafe { coroutine.force_reset() };
            self.stacks.push(coroutine.into_stack());
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
