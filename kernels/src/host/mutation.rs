//! Mutations: a word of a kernel weakened on purpose, at run time.

use super::checker::Checker;
use super::exec::Position;
use super::finding::{FindingKind, Place};
use super::site::{NO_MEMORY, Operation, Site, SiteNumber};
use std::panic::Location;

/// How a site is weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A barrier, fence or warp synchronisation does nothing.
    Removed,
    /// A mask loses its highest lane.
    LaneRemoved,
    /// A mask moves up by one lane.
    MaskShifted,
    /// A limit is one higher.
    EndPlus,
    /// A limit is one lower.
    EndMinus,
    /// A limit is none; for a loop, it is far off.
    EndRemoved,
    /// An index is one access higher.
    IndexPlus,
    /// An index is one access lower.
    IndexMinus,
    /// An index has its lowest bit flipped.
    IndexFlipped,
}

/// How far off the end of a loop without a limit is: it must end.
const FAR: u32 = 1 << 20;

impl Mutant {
    /// The mutants of a word.
    pub fn of(operation: Operation) -> &'static [Mutant] {
        use Mutant::*;
        match operation {
            Operation::Barrier | Operation::Fence => &[Removed],
            Operation::SyncWarp => &[Removed, LaneRemoved, MaskShifted],
            Operation::Shuffle | Operation::ShuffleXor | Operation::ShuffleDown | Operation::Vote => {
                &[LaneRemoved, MaskShifted]
            }
            Operation::Within | Operation::Strided => &[EndPlus, EndMinus, EndRemoved],
            Operation::MmaBf16 | Operation::MmaTf32 => &[],
            _ => &[IndexPlus, IndexMinus, IndexFlipped],
        }
    }

    /// Whether the checker itself must see it; a wrong value will do for others.
    pub fn is_for_checker(self) -> bool {
        matches!(self, Mutant::Removed | Mutant::LaneRemoved | Mutant::MaskShifted)
    }
}

/// A site and how it is weakened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mutation {
    /// Where.
    pub site: Site,
    /// How.
    pub mutant: Mutant,
}

impl Checker {
    /// The mutant of this site, if it is the one that is weakened.
    fn mutant(&self, site: SiteNumber) -> Option<Mutant> {
        let Mutation { site: mutated, mutant } = self.mutation.as_ref()?;
        let (place, operation, memory) = self.sites.all()[site as usize];
        let same = operation == mutated.operation
            && place == mutated.place
            && (memory == NO_MEMORY || Some(&self.names[memory as usize].name) == mutated.memory.as_ref());
        same.then_some(*mutant)
    }

    /// Notes a site that accesses no memory; how it is weakened.
    pub(super) fn visit(&mut self, at: &'static Location<'static>, operation: Operation) -> Option<Mutant> {
        let site = self.sites.number(at, operation, NO_MEMORY);
        self.mutant(site)
    }

    /// A fence of `thread`.
    pub(super) fn fence(&mut self, at: &'static Location<'static>, thread: u32) {
        if self.visit(at, Operation::Fence) != Some(Mutant::Removed) {
            self.counters.fences += 1;
            self.clocks.fence(thread);
        }
    }

    /// The mask of a warp operation; `None` where it is removed.
    pub(super) fn mutated_mask(
        &mut self,
        at: &'static Location<'static>,
        operation: Operation,
        mask: u32,
    ) -> Option<u32> {
        match self.visit(at, operation) {
            Some(Mutant::Removed) => None,
            Some(Mutant::LaneRemoved) => Some(mask & !(1u32 << 31).unbounded_shr(mask.leading_zeros())),
            Some(Mutant::MaskShifted) => Some(mask << 1),
            _ => Some(mask),
        }
    }

    /// The end of a limit.
    pub(super) fn mutated_end(&mut self, at: &'static Location<'static>, operation: Operation, end: u32) -> u32 {
        match self.visit(at, operation) {
            Some(Mutant::EndPlus) => end.saturating_add(1),
            Some(Mutant::EndMinus) => end.saturating_sub(1),
            Some(Mutant::EndRemoved) if operation == Operation::Within => u32::MAX,
            Some(Mutant::EndRemoved) => end.saturating_add(FAR),
            _ => end,
        }
    }

    /// The index of an access.
    pub(super) fn mutated_index(&self, site: SiteNumber, operation: Operation, index: u32) -> u32 {
        match self.mutant(site) {
            Some(Mutant::IndexPlus) => index.wrapping_add(operation.width()),
            Some(Mutant::IndexMinus) => index.wrapping_sub(operation.width()),
            Some(Mutant::IndexFlipped) => index ^ operation.width(),
            _ => index,
        }
    }

    /// A thread is about to access memory: whether it pauses first. A thread that takes too many steps ends the launch.
    pub(super) fn step(&mut self, at: &'static Location<'static>, me: &Position) -> bool {
        let steps = &mut self.steps[me.number as usize];
        *steps += 1;
        if *steps > self.options.steps {
            let detail = format!("{} accesses by one thread", self.options.steps);
            self.report(FindingKind::Runaway, None, Some(Place::from(at)), None, me, detail);
        }
        self.options.preempt.is_some_and(|one_in| self.random.range(u64::from(one_in.get())) == 0)
    }
}
