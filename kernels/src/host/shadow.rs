//! Shadow memory: who accessed an element last, and whether the accesses are ordered.

use super::clock::{Clocks, Known, Moment};
use super::site::{Operation, SiteNumber};
use crate::simt::WARP;
use std::collections::BTreeMap;
use std::rc::Rc;

/// An access by lanes of one warp at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    block: u32,
    epoch: u32,
    /// 0: no access.
    clock: u32,
    warp: u32,
    lanes: u32,
    site: SiteNumber,
    atomic: bool,
}

impl Stamp {
    fn new(now: Moment, site: SiteNumber, atomic: bool) -> Stamp {
        let (warp, lane) = (now.thread / WARP, now.thread % WARP);
        Stamp { block: now.block, epoch: now.epoch, clock: now.clock, warp, lanes: 1 << lane, site, atomic }
    }

    /// The first of the accesses that nothing orders before what `thread` does now.
    #[inline]
    fn unordered(&self, clocks: &Clocks, thread: u32) -> Option<Moment> {
        let Stamp { block, epoch, clock, .. } = *self;
        if clock == 0 || clocks.passed(block, epoch) {
            return None;
        }
        let mut lanes = self.lanes;
        while lanes != 0 {
            let moment = Moment { block, epoch, clock, thread: self.warp * WARP + lanes.trailing_zeros() };
            if !clocks.before(moment, thread) {
                return Some(moment);
            }
            lanes &= lanes - 1;
        }
        None
    }

    fn same_moment(&self, other: &Stamp) -> bool {
        (self.block, self.epoch, self.clock, self.warp, self.atomic)
            == (other.block, other.epoch, other.clock, other.warp, other.atomic)
    }
}

/// The accesses of one element that later ones must be ordered with.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// The last plain write.
    write: Stamp,
    /// Plain reads and atomics since.
    since: Stamp,
    /// More of those.
    more: Vec<Stamp>,
}

/// Of the accesses since an element's last write, this many groups are remembered; more readers than that in moments
/// of their own (each group is a warp) are forgotten.
const REMEMBERED: usize = 256;

impl Cell {
    fn remember(&mut self, stamp: Stamp, clocks: &Clocks, thread: u32) {
        let replaces = |known: &Stamp| {
            known.clock == 0 || known.atomic == stamp.atomic && known.unordered(clocks, thread).is_none()
        };
        if self.since.clock != 0 && self.since.same_moment(&stamp) {
            self.since.lanes |= stamp.lanes;
        } else if replaces(&self.since) {
            self.since = stamp;
        } else if let Some(known) = self.more.iter_mut().find(|known| known.same_moment(&stamp)) {
            known.lanes |= stamp.lanes;
        } else if let Some(known) = self.more.iter_mut().find(|known| replaces(known)) {
            *known = stamp;
        } else if self.more.len() < REMEMBERED {
            self.more.push(stamp);
        }
    }
}

/// The other side of a race.
pub(super) struct Conflict {
    pub(super) site: SiteNumber,
    pub(super) with: Moment,
}

/// The race shadow of one stretch of memory during one launch.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    /// Bytes of an element.
    granule: usize,
    cells: Vec<Cell>,
    /// What atomics on an element have released.
    released: BTreeMap<usize, Rc<Known>>,
}

impl Shadow {
    /// For `bytes` of memory in elements of `granule` bytes.
    pub(super) fn new(bytes: usize, granule: usize) -> Shadow {
        Shadow { granule, cells: vec![Cell::default(); bytes.div_ceil(granule)], released: BTreeMap::new() }
    }

    /// Forgets all accesses.
    pub(super) fn clear(&mut self) {
        self.cells.iter_mut().filter(|cell| cell.write.clock != 0 || cell.since.clock != 0).for_each(|cell| {
            *cell = Cell::default();
        });
        self.released.clear();
    }

    /// Notes an access of `bytes` at `offset` by `thread`; the first conflict with an earlier one.
    pub(super) fn access(
        &mut self,
        clocks: &mut Clocks,
        thread: u32,
        (offset, bytes): (usize, usize),
        operation: Operation,
        site: SiteNumber,
    ) -> Option<Conflict> {
        let atomic = operation == Operation::Atomic;
        let stamp = Stamp::new(clocks.now(thread), site, atomic);
        let mut conflict = None;
        for index in offset / self.granule..=(offset + bytes - 1) / self.granule {
            let cell = &mut self.cells[index];
            let mut against = |known: &Stamp| {
                if let (None, Some(with)) = (&conflict, known.unordered(clocks, thread)) {
                    conflict = Some(Conflict { site: known.site, with });
                }
            };
            against(&cell.write);
            // Reads do not race with reads, nor atomics with atomics.
            let races = |known: &&Stamp| known.atomic != atomic || operation.writes() && !atomic;
            [&cell.since].into_iter().chain(&cell.more).filter(races).for_each(&mut against);
            if operation.writes() && !atomic {
                (cell.write, cell.since) = (stamp, Stamp::default());
                cell.more.clear();
            } else {
                cell.remember(stamp, clocks, thread);
            }
            if atomic {
                self.synchronise(clocks, thread, index);
            }
        }
        conflict
    }

    /// An atomic on element `index`: learns what was released there, and releases what the last fence allows.
    fn synchronise(&mut self, clocks: &mut Clocks, thread: u32, index: usize) {
        let clock = clocks.thread(thread);
        let mut here = self.released.remove(&index);
        super::clock::join(&mut clock.seen, &here);
        super::clock::join(&mut here, &clock.released);
        self.released.extend(here.map(|known| (index, known)));
    }
}
