//! Meetings of a block's threads: at barriers, and of lanes at warp operations.

use super::checker::Checker;
use super::exec::Exchange;
use super::finding::{FindingKind, Place};
use super::mma::Fragment;
use super::schedule::Ready;
use super::site::Operation;
use crate::simt::WARP;
use std::panic::Location;

/// Why a thread waits.
#[derive(Clone, Copy)]
pub(super) enum Wait {
    Barrier {
        at: &'static Location<'static>,
    },
    Lanes {
        mask: u32,
        value: u64,
        operation: Operation,
        exchange: Exchange,
        at: &'static Location<'static>,
    },
    Mma {
        fragment: Fragment,
        operation: Operation,
        model: fn(&[Fragment; 32]) -> [[f32; 4]; 32],
        at: &'static Location<'static>,
    },
    /// For its turn.
    Preempted,
    /// For nothing: the launch ends.
    Stop,
}

impl Wait {
    /// The mask, operation and place of a warp operation.
    fn lanes(&self) -> Option<(u32, Operation, &'static Location<'static>)> {
        match *self {
            Wait::Lanes { mask, operation, at, .. } => Some((mask, operation, at)),
            Wait::Mma { operation, at, .. } => Some((u32::MAX, operation, at)),
            _ => None,
        }
    }
}

/// What a thread gets when it goes on.
#[derive(Clone, Copy)]
pub(super) enum Resume {
    Go,
    Value(u64),
    Product([f32; 4]),
}

#[derive(Clone, Copy)]
enum State {
    /// Running, or ready to.
    Runs(Resume),
    Waits(Wait),
    Ended,
}

/// Something wrong with a meeting.
pub(super) struct Trouble {
    pub(super) kind: FindingKind,
    pub(super) thread: u32,
    pub(super) at: &'static Location<'static>,
    pub(super) other: Option<&'static Location<'static>>,
    pub(super) detail: String,
}

/// Lanes of a warp that wait with the same mask.
struct Group {
    mask: u32,
    arrived: u32,
}

/// Who of a block waits for what.
pub(super) struct Meeting {
    states: Vec<State>,
    /// By warp.
    groups: Vec<Vec<Group>>,
    at_barrier: u32,
    ended: u32,
    /// The last to wait.
    arrival: Option<u32>,
    /// Threads that are ready or run.
    active: u32,
}

impl Meeting {
    pub(super) fn new(threads: u32) -> Meeting {
        Meeting {
            states: vec![State::Ended; threads as usize],
            groups: (0..threads.div_ceil(WARP)).map(|_| Vec::new()).collect(),
            at_barrier: 0,
            ended: 0,
            arrival: None,
            active: 0,
        }
    }

    /// A block starts: all threads are ready.
    pub(super) fn start(&mut self) {
        self.states.fill(State::Runs(Resume::Go));
        self.groups.iter_mut().for_each(Vec::clear);
        (self.at_barrier, self.ended, self.arrival) = (0, 0, None);
        self.active = self.states.len() as u32;
    }

    /// What `thread` goes on with.
    pub(super) fn resume(&self, thread: u32) -> Resume {
        match self.states[thread as usize] {
            State::Runs(resume) => resume,
            State::Waits(_) | State::Ended => unreachable!("only ready threads go on"),
        }
    }

    pub(super) fn waits(&mut self, thread: u32, wait: Wait) {
        self.states[thread as usize] = State::Waits(wait);
        self.arrival = Some(thread);
        self.active -= 1;
    }

    pub(super) fn ends(&mut self, thread: u32) {
        self.states[thread as usize] = State::Ended;
        self.ended += 1;
        self.active -= 1;
    }

    pub(super) fn all_ended(&self) -> bool {
        self.ended as usize == self.states.len()
    }

    fn go(&mut self, thread: u32, resume: Resume, ready: &mut Ready) {
        self.states[thread as usize] = State::Runs(resume);
        self.active += 1;
        ready.push(thread);
    }

    /// Lets the meeting happen that the last arrival completes, if any; false where nobody can go on and not all have
    /// ended.
    pub(super) fn advance(
        &mut self,
        ready: &mut Ready,
        mut checker: Option<&mut Checker>,
        mut report: impl FnMut(Trouble),
    ) -> bool {
        if let Some(thread) = self.arrival.take()
            && let State::Waits(wait) = self.states[thread as usize]
        {
            match wait {
                Wait::Barrier { .. } => self.at_barrier += 1,
                Wait::Preempted => self.go(thread, Resume::Go, ready),
                Wait::Stop => {}
                Wait::Lanes { .. } | Wait::Mma { .. } => {
                    self.join_lanes(thread, &wait, ready, checker.as_deref_mut(), &mut report)
                }
            }
        }
        if self.active > 0 || self.all_ended() {
            return true;
        }
        if self.at_barrier as usize == self.states.len() && self.same_barrier(&mut report) {
            self.at_barrier = 0;
            if let Some(checker) = checker {
                checker.counters.barriers += 1;
                checker.clocks.barrier();
            }
            (0..self.states.len() as u32).for_each(|thread| self.go(thread, Resume::Go, ready));
            return true;
        }
        if (self.at_barrier as usize) < self.states.len() {
            self.explain(&mut report);
        }
        false
    }

    /// Whether all threads, which wait at barriers, wait at the same.
    fn same_barrier(&self, report: &mut impl FnMut(Trouble)) -> bool {
        let place = |thread: usize| match self.states[thread] {
            State::Waits(Wait::Barrier { at }) => at,
            _ => unreachable!("all threads wait at barriers"),
        };
        let first = place(0);
        let other = (1..self.states.len()).find(|thread| {
            let at = place(*thread);
            !std::ptr::eq(at, first) && Place::from(at) != Place::from(first)
        });
        if let Some(thread) = other {
            report(Trouble {
                kind: FindingKind::BarrierDivergence,
                thread: thread as u32,
                at: place(thread),
                other: Some(first),
                detail: format!("thread {thread} waits at this barrier, thread 0 at another"),
            });
        }
        other.is_none()
    }

    /// A thread arrives at a warp operation.
    fn join_lanes(
        &mut self,
        thread: u32,
        wait: &Wait,
        ready: &mut Ready,
        checker: Option<&mut Checker>,
        report: &mut impl FnMut(Trouble),
    ) {
        let Some((mask, operation, at)) = wait.lanes() else { return };
        let (warp, lane) = (thread / WARP, thread % WARP);
        if mask >> lane & 1 == 0 {
            let detail = format!("lane {lane} calls with the mask {mask:#010x}, which does not name it");
            report(Trouble { kind: FindingKind::Lanes, thread, at, other: None, detail });
            return self.go(thread, Resume::Go, ready);
        }
        let groups = &mut self.groups[warp as usize];
        let index = groups.iter().position(|group| group.mask == mask).unwrap_or_else(|| {
            groups.push(Group { mask, arrived: 0 });
            groups.len() - 1
        });
        let group = &mut groups[index];
        let first = group.arrived.trailing_zeros();
        group.arrived |= 1 << lane;
        let complete = group.arrived == mask;
        if complete {
            groups.swap_remove(index);
        }
        if first < WARP
            && let State::Waits(known) = self.states[(warp * WARP + first) as usize]
            && let Some((_, theirs, other)) = known.lanes()
            && theirs != operation
        {
            let detail = format!("lane {lane} of the mask {mask:#010x} does {operation:?}, lane {first} {theirs:?}");
            report(Trouble { kind: FindingKind::Lanes, thread, at, other: Some(other), detail });
        }
        if complete {
            self.exchange(warp * WARP, mask, operation, ready, checker, report);
        }
    }

    /// The lanes of `mask` of the warp that starts at thread `first` have all arrived.
    fn exchange(
        &mut self,
        first: u32,
        mask: u32,
        operation: Operation,
        ready: &mut Ready,
        checker: Option<&mut Checker>,
        report: &mut impl FnMut(Trouble),
    ) {
        if let Some(checker) = checker {
            checker.counters.meeting(operation);
            if operation == Operation::SyncWarp {
                checker.clocks.sync_warp(first, mask);
            }
        }
        let members = || (0..WARP).filter(move |lane| mask >> lane & 1 == 1);
        let (mut values, mut fragments) = ([0; WARP as usize], None);
        let mut ballot = 0;
        for lane in members() {
            match self.states[(first + lane) as usize] {
                State::Waits(Wait::Lanes { value, .. }) => {
                    values[lane as usize] = value;
                    ballot |= u64::from(value != 0) << lane;
                }
                State::Waits(Wait::Mma { fragment, .. }) => {
                    fragments.get_or_insert([fragment; 32])[lane as usize] = fragment;
                }
                _ => {}
            }
        }
        let mut product = None;
        for lane in members() {
            let thread = first + lane;
            let resume = match self.states[thread as usize] {
                State::Waits(Wait::Lanes { value, exchange, at, .. }) => Resume::Value(match exchange {
                    Exchange::Sync => 0,
                    Exchange::Ballot => ballot,
                    Exchange::Shuffle { source } if source >= WARP => value,
                    Exchange::Shuffle { source } if mask >> source & 1 == 1 => values[source as usize],
                    Exchange::Shuffle { source } => {
                        let detail = format!("lane {lane} reads lane {source}, which the mask {mask:#010x} leaves out");
                        report(Trouble { kind: FindingKind::ShuffleSource, thread, at, other: None, detail });
                        value
                    }
                }),
                State::Waits(Wait::Mma { model, .. }) => match &fragments {
                    Some(fragments) => Resume::Product(product.get_or_insert_with(|| model(fragments))[lane as usize]),
                    None => Resume::Go,
                },
                _ => Resume::Go,
            };
            self.go(thread, resume, ready);
        }
    }

    /// Nobody can go on: says who waits for whom.
    fn explain(&self, report: &mut impl FnMut(Trouble)) {
        let whereabouts = |thread: usize| match self.states.get(thread) {
            None => "does not exist".to_owned(),
            Some(State::Ended) => "has ended".to_owned(),
            Some(State::Waits(Wait::Barrier { at })) => format!("waits at the barrier of {}", Place::from(*at)),
            Some(State::Waits(wait)) => match wait.lanes() {
                Some((mask, _, at)) => format!("waits at {} with the mask {mask:#010x}", Place::from(at)),
                None => "runs".to_owned(),
            },
            Some(State::Runs(_)) => "runs".to_owned(),
        };
        let mut lanes_wait = false;
        for (warp, group) in self.groups.iter().enumerate().flat_map(|(warp, list)| list.iter().map(move |g| (warp, g)))
        {
            lanes_wait = true;
            let missing = group.mask & !group.arrived;
            let (here, lane) = (group.arrived.trailing_zeros(), missing.trailing_zeros());
            let thread = warp * WARP as usize + here as usize;
            let State::Waits(wait) = self.states[thread] else { continue };
            let Some((mask, _, at)) = wait.lanes() else { continue };
            let other = whereabouts(warp * WARP as usize + lane as usize);
            let detail = format!("the mask {mask:#010x} names lane {lane}, which {other}");
            report(Trouble { kind: FindingKind::Lanes, thread: thread as u32, at, other: None, detail });
        }
        let waiting = self.states.iter().position(|state| matches!(state, State::Waits(Wait::Barrier { .. })));
        let absent = self.states.iter().position(|state| matches!(state, State::Ended));
        if let (false, Some(thread), Some(absent)) = (lanes_wait, waiting, absent)
            && let State::Waits(Wait::Barrier { at }) = self.states[thread]
        {
            let detail = format!("thread {thread} waits at a barrier, thread {absent} has ended");
            report(Trouble { kind: FindingKind::BarrierDivergence, thread: thread as u32, at, other: None, detail });
        }
    }
}
