//! Sites: the places in the source where a kernel says something of the vocabulary.

use super::finding::Place;
use std::panic::Location;

/// A word of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Operation {
    Read,
    Read4,
    Write,
    Write4,
    Atomic,
    Barrier,
    Fence,
    SyncWarp,
    Shuffle,
    ShuffleXor,
    ShuffleDown,
    Vote,
    MmaBf16,
    MmaTf32,
    Within,
    Strided,
}

impl Operation {
    /// Whether it accesses memory.
    pub fn is_access(self) -> bool {
        self <= Operation::Atomic
    }

    /// Elements that one access moves.
    pub(super) fn width(self) -> u32 {
        if matches!(self, Operation::Read4 | Operation::Write4) { 4 } else { 1 }
    }

    pub(super) fn reads(self) -> bool {
        matches!(self, Operation::Read | Operation::Read4 | Operation::Atomic)
    }

    pub(super) fn writes(self) -> bool {
        matches!(self, Operation::Write | Operation::Write4 | Operation::Atomic)
    }
}

/// A place where a kernel says a word, told apart by argument or tile where it is an access. (Code that comes from a
/// macro has the macro's place.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// The place in the source.
    pub place: Place,
    /// The word.
    pub operation: Operation,
    /// The argument or shared tile.
    pub memory: Option<String>,
}

/// The number of a site within a launch.
pub(super) type SiteNumber = u32;

type Key = (*const Location<'static>, Operation, u32);

/// The sites that a launch has reached, numbered in the order of their first use.
pub(super) struct Sites {
    sites: Vec<(Place, Operation, u32)>,
    /// The last use of each slot: one comparison finds the number of a site in a loop.
    recent: Vec<(Key, SiteNumber)>,
}

/// Slots of the cache; a power of two.
const SLOTS: usize = 256;

/// Stands for no memory.
pub(super) const NO_MEMORY: u32 = u32::MAX;

impl Sites {
    pub(super) fn new() -> Sites {
        Sites { sites: Vec::new(), recent: vec![((std::ptr::null(), Operation::Barrier, NO_MEMORY), 0); SLOTS] }
    }

    /// The number of the site; `memory` numbers arguments and tiles.
    #[inline]
    pub(super) fn number(&mut self, at: &'static Location<'static>, operation: Operation, memory: u32) -> SiteNumber {
        let key: Key = (at, operation, memory);
        let hash = (key.0 as usize >> 3).wrapping_mul(31) ^ operation as usize ^ (memory as usize) << 4;
        let slot = hash % SLOTS;
        if self.recent[slot].0 == key {
            return self.recent[slot].1;
        }
        let site = (Place::from(at), operation, memory);
        let number = self.sites.iter().position(|known| *known == site).unwrap_or_else(|| {
            self.sites.push(site);
            self.sites.len() - 1
        }) as SiteNumber;
        self.recent[slot] = (key, number);
        number
    }

    pub(super) fn place(&self, site: SiteNumber) -> Place {
        self.sites[site as usize].0
    }

    pub(super) fn operation(&self, site: SiteNumber) -> Operation {
        self.sites[site as usize].1
    }

    /// All sites, in order of number, as (place, operation, memory).
    pub(super) fn all(&self) -> &[(Place, Operation, u32)] {
        &self.sites
    }
}
