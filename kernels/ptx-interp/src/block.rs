//! One block: its warps take turns from barrier to barrier.

use crate::instruction::{Entry, Special};
use crate::memory::{Memory, UNINITIALISED};
use crate::warp::{Pause, Warp};

/// What went wrong, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The instruction.
    pub(crate) at: usize,
    /// The thread, by its number in the block.
    pub(crate) thread: u32,
    pub(crate) what: String,
}

/// The shape of a launch and the place of a block in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) threads: [u32; 3],
    pub(crate) blocks: [u32; 3],
    pub(crate) block: [u32; 3],
}

impl Place {
    /// Threads of a block.
    pub(crate) fn count(&self) -> u32 {
        self.threads.iter().product()
    }

    /// The position of a thread in its block.
    pub(crate) fn thread(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.threads;
        [number % x, number / x % y, number / (x * y)]
    }
}

/// What the warps of a block share.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) memory: &'a mut Memory,
    pub(crate) params: &'a [u8],
    /// Executions of each instruction, by threads.
    pub(crate) executed: &'a mut [u64],
    /// Instructions of a warp that may still be executed.
    pub(crate) budget: &'a mut u64,
    pub(crate) tile: Vec<u8>,
    /// The memory of single threads, one after the other.
    pub(crate) local: Vec<u8>,
}

/// The warps of a launch, whose register files serve one block after the other.
pub(crate) fn warps(entry: &Entry, threads: u32) -> Vec<Warp> {
    (0..threads.div_ceil(32)).map(|i| Warp::new(entry, 32 * i, threads - 32 * i)).collect()
}

/// Runs a block to its end.
///
/// Warps run one after the other up to the next barrier, forward and backward in turn: what a warp reads that another
/// one is to write without a barrier between is missing in one of the two orders.
pub(crate) fn run(warps: &mut [Warp], shared: &mut Shared<'_>, place: Place) -> Result<(), Fault> {
    shared.tile.fill(UNINITIALISED);
    shared.local.fill(UNINITIALISED);
    for warp in warps.iter_mut() {
        let first = warp.first_thread;
        warp.start(shared.entry, |special, lane| {
            let thread = place.thread(first + lane);
            match special {
                Special::Thread(axis) => thread[axis],
                Special::Threads(axis) => place.threads[axis],
                Special::Block(axis) => place.block[axis],
                Special::Blocks(axis) => place.blocks[axis],
                Special::Lane => lane,
                Special::LaneMask(mask) => mask(lane),
            }
        });
    }
    let mut backward = place.block[0] % 2 == 1;
    loop {
        let (mut ended, mut waiting) = (None, None);
        for turn in 0..warps.len() {
            let index = if backward { warps.len() - 1 - turn } else { turn };
            match warps[index].run(shared)? {
                Pause::Ended => ended = Some(index),
                Pause::Barrier { at } => waiting = Some((index, at)),
            }
        }
        match (ended, waiting) {
            (_, None) => return Ok(()),
            (None, Some(_)) => backward = !backward,
            (Some(ended), Some((index, at))) => {
                let what = format!("a barrier that threads from {} on do not reach: they have ended", 32 * ended);
                return Err(Fault { at, thread: warps[index].first_thread, what });
            }
        }
    }
}
