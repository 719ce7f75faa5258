//! What a thread knows to have happened: the order of a launch's accesses, compressed.
//!
//! A thread's own clock counts the points at which others can learn of it (warp synchronisations, fences). What it
//! knows of others is, for its block, the number of barriers passed (everything before is known), for its warp a clock
//! per lane, and for the rest what it acquired through atomics.

use crate::simt::WARP;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Who accessed, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The number of the block.
    pub(super) block: u32,
    /// Barriers that the block had passed.
    pub(super) epoch: u32,
    /// The thread's clock, from 1.
    pub(super) clock: u32,
    /// The thread's number in the block.
    pub(super) thread: u32,
}

/// What is known of one block.
#[derive(Clone, Debug, Default)]
struct BlockKnown {
    /// All that happened before this many barriers.
    epoch: u32,
    /// By thread, all that happened up to this clock.
    threads: BTreeMap<u32, u32>,
}

/// What is known of all blocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    blocks: BTreeMap<u32, BlockKnown>,
}

impl Known {
    fn join(&mut self, other: &Known) {
        for (block, theirs) in &other.blocks {
            let ours = self.blocks.entry(*block).or_default();
            ours.epoch = ours.epoch.max(theirs.epoch);
            for (thread, clock) in &theirs.threads {
                let known = ours.threads.entry(*thread).or_default();
                *known = (*known).max(*clock);
            }
        }
    }

    fn holds(&self, moment: Moment) -> bool {
        self.blocks.get(&moment.block).is_some_and(|known| {
            moment.epoch < known.epoch || known.threads.get(&moment.thread).is_some_and(|clock| moment.clock <= *clock)
        })
    }
}

/// Joins `more` into `known`, sharing where nothing was known.
pub(super) fn join(known: &mut Option<Rc<Known>>, more: &Option<Rc<Known>>) {
    match (known.as_mut(), more) {
        (_, None) => {}
        (None, Some(more)) => *known = Some(Rc::clone(more)),
        (Some(known), Some(more)) if Rc::ptr_eq(known, more) => {}
        (Some(known), Some(more)) => Rc::make_mut(known).join(more),
    }
}

/// What one thread knows.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    own: u32,
    /// By lane, what synchronisations of the warp told; made at the first.
    lanes: Option<Box<[u32; WARP as usize]>>,
    /// What fences acquired.
    acquired: Option<Rc<Known>>,
    /// What the last fence releases with the atomics after it.
    pub(super) released: Option<Rc<Known>>,
    /// What the atomics so far told, which the next fence acquires.
    pub(super) seen: Option<Rc<Known>>,
}

impl Clock {
    const START: Clock = Clock { own: 1, lanes: None, acquired: None, released: None, seen: None };
}

/// What the threads of the running block know.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    block: u32,
    epoch: u32,
    threads: Vec<Clock>,
}

impl Clocks {
    /// A block starts.
    pub(super) fn start(&mut self, block: u32, threads: u32) {
        self.block = block;
        self.epoch = 0;
        self.threads.clear();
        self.threads.resize(threads as usize, Clock::START);
    }

    pub(super) fn thread(&mut self, thread: u32) -> &mut Clock {
        &mut self.threads[thread as usize]
    }

    /// The thread's present.
    pub(super) fn now(&self, thread: u32) -> Moment {
        Moment { block: self.block, epoch: self.epoch, clock: self.threads[thread as usize].own, thread }
    }

    /// Whether the running block has passed a barrier since its `epoch`-th.
    #[inline]
    pub(super) fn passed(&self, block: u32, epoch: u32) -> bool {
        block == self.block && epoch < self.epoch
    }

    /// Whether `moment` is ordered before what `thread` does now.
    #[inline]
    pub(super) fn before(&self, moment: Moment, thread: u32) -> bool {
        if self.passed(moment.block, moment.epoch) || moment.block == self.block && moment.thread == thread {
            return true;
        }
        let clock = &self.threads[thread as usize];
        let of_warp = moment.block == self.block && moment.thread / WARP == thread / WARP;
        let lane = (moment.thread % WARP) as usize;
        of_warp && clock.lanes.as_ref().is_some_and(|lanes| moment.clock <= lanes[lane])
            || clock.acquired.as_ref().is_some_and(|known| known.holds(moment))
    }

    /// All threads of the block pass a barrier.
    pub(super) fn barrier(&mut self) {
        self.epoch += 1;
        let mut all = None;
        for clock in &self.threads {
            join(&mut all, &clock.acquired);
        }
        if all.is_some() {
            self.threads.iter_mut().for_each(|clock| clock.acquired.clone_from(&all));
        }
    }

    /// The lanes of `mask` of the warp that starts at thread `first` synchronise.
    pub(super) fn sync_warp(&mut self, first: u32, mask: u32) {
        let members = || (0..WARP).filter(move |lane| mask >> lane & 1 == 1);
        let (mut lanes, mut acquired) = ([0; WARP as usize], None);
        for lane in members() {
            let clock = &self.threads[(first + lane) as usize];
            for (joined, known) in lanes.iter_mut().zip(clock.lanes.iter().flat_map(|lanes| lanes.iter())) {
                *joined = (*joined).max(*known);
            }
            lanes[lane as usize] = clock.own;
            join(&mut acquired, &clock.acquired);
        }
        for lane in members() {
            let clock = &mut self.threads[(first + lane) as usize];
            clock.own += 1;
            clock.acquired.clone_from(&acquired);
            match &mut clock.lanes {
                Some(known) => **known = lanes,
                None => clock.lanes = Some(Box::new(lanes)),
            }
        }
    }

    /// A fence: acquires what atomics have told, then fixes what the atomics after it release.
    pub(super) fn fence(&mut self, thread: u32) {
        let (block, epoch) = (self.block, self.epoch);
        let clock = &mut self.threads[thread as usize];
        let seen = clock.seen.take();
        join(&mut clock.acquired, &seen);
        let mut known = clock.acquired.as_deref().cloned().unwrap_or_default();
        let first = thread - thread % WARP;
        let lanes = clock.lanes.iter().flat_map(|lanes| (first..).zip(lanes.iter().copied()));
        let threads = lanes.filter(|(_, clock)| *clock > 0).chain([(thread, clock.own)]).collect();
        let own = Known { blocks: BTreeMap::from([(block, BlockKnown { epoch, threads })]) };
        known.join(&own);
        clock.released = Some(Rc::new(known));
        clock.own += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks() -> Clocks {
        let mut clocks = Clocks::default();
        clocks.start(0, 64);
        clocks
    }

    #[test]
    fn a_barrier_orders_the_block() {
        let mut clocks = clocks();
        let written = clocks.now(0);
        assert!(clocks.before(written, 0) && !clocks.before(written, 40));
        clocks.barrier();
        assert!(clocks.before(written, 40));
    }

    #[test]
    fn a_warp_synchronisation_orders_the_lanes_of_its_mask() {
        let mut clocks = clocks();
        let written = clocks.now(33);
        clocks.sync_warp(32, 0b0011);
        assert!(clocks.before(written, 32));
        assert!(!clocks.before(written, 34) && !clocks.before(written, 1));
        let later = clocks.now(33);
        assert!(!clocks.before(later, 32));
        clocks.sync_warp(32, 0b0101);
        assert!(clocks.before(written, 34), "through lane 0");
    }

    #[test]
    fn fences_and_an_atomic_order_blocks() {
        let mut clocks = clocks();
        let (by_other, by_releaser) = (clocks.now(40), clocks.now(0));
        clocks.barrier();
        clocks.fence(0);
        let after_fence = clocks.now(0);
        let told = clocks.thread(0).released.clone();
        clocks.start(1, 64);
        clocks.thread(5).seen = told;
        assert!(!clocks.before(by_other, 5), "an atomic alone does not acquire");
        clocks.fence(5);
        assert!(clocks.before(by_other, 5) && clocks.before(by_releaser, 5));
        assert!(!clocks.before(after_fence, 5) && !clocks.before(by_other, 6));
        clocks.barrier();
        assert!(clocks.before(by_other, 6));
    }
}
