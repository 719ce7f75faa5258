//! Schedules: in which order blocks and ready threads run.

use crate::philox::{Key, Purpose, Stream};
use crate::simt::{Dim3, WARP};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// In which order blocks run, and which of the ready threads goes on. The same schedule gives the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Blocks by number, threads by number and then in the order in which they became ready.
    InOrder,
    /// Blocks in random order, a random ready thread.
    Random(u64),
    /// Blocks in random order; the threads by a rule that the seed picks: reversed, one warp far ahead of the others,
    /// one far behind, the last lane of each warp first, or a random order that stays.
    Adversarial(u64),
}

impl Schedule {
    fn seed(self) -> u64 {
        match self {
            Schedule::InOrder => 0,
            Schedule::Random(seed) | Schedule::Adversarial(seed) => seed,
        }
    }

    /// Random numbers for one part of a launch.
    pub(super) fn random(self, part: u64) -> Stream {
        Key::new(self.seed(), Purpose::Check).stream(part, 0, 0)
    }

    /// The blocks of a grid of `count`, in the order in which they run.
    pub(super) fn blocks(self, count: u32) -> Vec<u32> {
        let mut blocks: Vec<u32> = (0..count).collect();
        if self != Schedule::InOrder {
            self.random(0).shuffle(&mut blocks);
        }
        blocks
    }
}

/// The position of number `number` in extents `of`, x fastest.
pub(super) fn position(number: u32, of: Dim3) -> Dim3 {
    Dim3::new(number % of.x, number / of.x % of.y, number / (of.x * of.y))
}

/// The ready threads of a block.
pub(super) enum Ready {
    /// Who became ready first goes first.
    Queue(VecDeque<u32>),
    /// The lowest rank goes first.
    Ranked(BinaryHeap<Reverse<(u32, u32)>>, Ranks),
}

pub(super) enum Ranks {
    /// A thread's rank stays.
    Fixed(Vec<u32>),
    /// A thread gets a new rank each time that it becomes ready.
    Fresh(Stream),
}

impl Ready {
    /// For block `block` of `count` threads.
    pub(super) fn new(schedule: Schedule, block: u32, count: u32) -> Ready {
        let mut random = schedule.random(1 + u64::from(block));
        let (warps, lane) = (count.div_ceil(WARP), |thread: u32| thread % WARP);
        let ranks = match schedule {
            Schedule::InOrder => return Ready::Queue(VecDeque::with_capacity(count as usize)),
            Schedule::Random(_) => Ranks::Fresh(random),
            Schedule::Adversarial(seed) => Ranks::Fixed(match seed % 5 {
                0 => (0..count).rev().collect(),
                1 | 2 => {
                    let special = random.range(u64::from(warps)) as u32;
                    let ahead = seed % 5 == 1;
                    (0..count)
                        .map(|thread| if (thread / WARP == special) == ahead { 0 } else { count } + thread)
                        .collect()
                }
                3 => (0..count).map(|thread| (WARP - 1 - lane(thread)) * warps + thread / WARP).collect(),
                _ => {
                    let mut ranks: Vec<u32> = (0..count).collect();
                    random.shuffle(&mut ranks);
                    ranks
                }
            }),
        };
        Ready::Ranked(BinaryHeap::with_capacity(count as usize), ranks)
    }

    pub(super) fn push(&mut self, thread: u32) {
        match self {
            Ready::Queue(queue) => queue.push_back(thread),
            Ready::Ranked(heap, Ranks::Fixed(ranks)) => heap.push(Reverse((ranks[thread as usize], thread))),
            Ready::Ranked(heap, Ranks::Fresh(random)) => heap.push(Reverse((random.next_u32(), thread))),
        }
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        match self {
            Ready::Queue(queue) => queue.pop_front(),
            Ready::Ranked(heap, _) => heap.pop().map(|Reverse((_, thread))| thread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_runs_every_thread_and_block_once() {
        let schedules = (0..7).flat_map(|seed| [Schedule::Random(seed), Schedule::Adversarial(seed)]);
        for schedule in schedules.chain([Schedule::InOrder]) {
            let mut ready = Ready::new(schedule, 3, 100);
            (0..100).for_each(|thread| ready.push(thread));
            let mut threads: Vec<u32> = std::iter::from_fn(|| ready.pop()).collect();
            assert!(threads.is_sorted() || schedule != Schedule::InOrder);
            threads.sort_unstable();
            assert!(threads.into_iter().eq(0..100), "{schedule:?}");
            let mut blocks = schedule.blocks(17);
            blocks.sort_unstable();
            assert!(blocks.into_iter().eq(0..17), "{schedule:?}");
        }
    }
}
