//! Who holds how much memory: every live piece with its owner, its operation and its shape.
//!
//! The rule: a piece belongs to the scope in force when it is made ([`crate::Device::owned_by`]; inside a phase, the
//! workspace), and moves when somebody says what it is for: a parameter's value, an optimiser's state, an array kept
//! for backward, a gradient. What is the workspace's may be claimed by any of them; what has another owner stays.

use std::collections::BTreeMap;
use std::time::Instant;

/// What memory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Values of parameters and buffers.
    Parameters,
    /// Gradients, of parameters and of activations on their way back.
    Gradients,
    /// State of the optimiser.
    Optimizer,
    /// Arrays kept for backward.
    Saved,
    /// Everything else that a step computes.
    Workspace,
    /// Batches.
    Data,
    /// Outside a step.
    #[default]
    Other,
}

/// Number of owners.
pub const OWNERS: usize = Owner::ALL.len();

/// Bytes by owner, in the order of [`Owner::ALL`].
pub type OwnerBytes = [usize; OWNERS];

impl Owner {
    /// Every owner.
    pub const ALL: [Owner; 7] = [
        Owner::Parameters,
        Owner::Gradients,
        Owner::Optimizer,
        Owner::Saved,
        Owner::Workspace,
        Owner::Data,
        Owner::Other,
    ];

    /// Its name in tables and traces.
    pub fn name(self) -> &'static str {
        match self {
            Owner::Parameters => "parameters",
            Owner::Gradients => "gradients",
            Owner::Optimizer => "optimizer",
            Owner::Saved => "saved activations",
            Owner::Workspace => "workspace",
            Owner::Data => "data",
            Owner::Other => "other",
        }
    }
}

/// Most axes of a shape in the ledger; the first axes of a longer shape are folded into one.
const AXES: usize = 6;

/// A shape without an allocation of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    lengths: [usize; AXES],
    rank: u8,
}

impl Extents {
    pub(crate) fn of(shape: &[usize]) -> Extents {
        let (folded, kept) = shape.split_at(shape.len().saturating_sub(AXES));
        let mut extents = Extents { lengths: [0; AXES], rank: kept.len() as u8 };
        extents.lengths[..kept.len()].copy_from_slice(kept);
        extents.lengths[0] *= folded.iter().product::<usize>();
        extents
    }

    /// The lengths of the axes.
    pub fn as_slice(&self) -> &[usize] {
        &self.lengths[..usize::from(self.rank)]
    }

    pub(crate) fn numel(&self) -> usize {
        self.as_slice().iter().product()
    }
}

/// A live piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes held: what was asked for, rounded up as the memory pool does.
    pub bytes: usize,
    /// Bytes asked for.
    pub asked: usize,
    /// The operation that made it.
    pub op: &'static str,
    /// What it is for.
    pub owner: Owner,
    /// The shape of the array it was made for.
    pub shape: Extents,
}

/// What happened to a piece, by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Made(u32, Piece),
    Moved(u32, Owner),
    Freed(u32),
}

/// Every change of a device's memory since the log was begun.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    /// Whether pieces come from a pool, which rounds sizes up and uses them again.
    pub(crate) pooled: bool,
    pub(crate) changes: Vec<(Instant, Change)>,
}

/// The live pieces of one memory and their sums.
#[derive(Default)]
pub(crate) struct Ledger {
    live: usize,
    peak: usize,
    by_owner: OwnerBytes,
    by_op: BTreeMap<&'static str, usize>,
    pieces: Vec<Option<Piece>>,
    vacant: Vec<u32>,
    scope: Owner,
    log: Option<MemoryLog>,
}

impl Ledger {
    /// Enters a new piece, owned by the scope, and returns its number.
    pub(crate) fn enter(&mut self, bytes: usize, asked: usize, op: &'static str, shape: &[usize]) -> u32 {
        let piece = Piece { bytes, asked, op, owner: self.scope, shape: Extents::of(shape) };
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.pieces.push(None);
            (self.pieces.len() - 1) as u32
        });
        self.pieces[slot as usize] = Some(piece);
        self.live += bytes;
        self.peak = self.peak.max(self.live);
        self.by_owner[piece.owner as usize] += bytes;
        *self.by_op.entry(op).or_default() += bytes;
        self.note(Change::Made(slot, piece));
        slot
    }

    /// Strikes a piece out.
    pub(crate) fn strike(&mut self, slot: u32) {
        let piece = self.pieces[slot as usize].take().expect("a piece is struck out once");
        self.vacant.push(slot);
        self.live -= piece.bytes;
        self.by_owner[piece.owner as usize] -= piece.bytes;
        *self.by_op.get_mut(piece.op).expect("counted when entered") -= piece.bytes;
        self.note(Change::Freed(slot));
    }

    /// Gives a piece to `owner`.
    pub(crate) fn assign(&mut self, slot: u32, owner: Owner) {
        let Some(piece) = &mut self.pieces[slot as usize] else { return };
        if piece.owner == owner {
            return;
        }
        self.by_owner[piece.owner as usize] -= piece.bytes;
        self.by_owner[owner as usize] += piece.bytes;
        piece.owner = owner;
        self.note(Change::Moved(slot, owner));
    }

    /// Gives a piece to `owner` if it is the workspace's or nobody's.
    pub(crate) fn claim(&mut self, slot: u32, owner: Owner) {
        if matches!(self.owner(slot), Owner::Workspace | Owner::Other) {
            self.assign(slot, owner);
        }
    }

    pub(crate) fn owner(&self, slot: u32) -> Owner {
        self.pieces[slot as usize].map_or(Owner::Other, |piece| piece.owner)
    }

    pub(crate) fn scope(&self) -> Owner {
        self.scope
    }

    /// Makes `owner` that of new pieces and returns the one before.
    pub(crate) fn set_scope(&mut self, owner: Owner) -> Owner {
        std::mem::replace(&mut self.scope, owner)
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    pub(crate) fn reset_peak(&mut self) {
        self.peak = self.live;
    }

    pub(crate) fn by_owner(&self) -> OwnerBytes {
        self.by_owner
    }

    /// Live bytes by operation, largest first.
    pub(crate) fn by_op(&self) -> Vec<(&'static str, usize)> {
        let mut ops: Vec<_> = self.by_op.iter().filter(|(_, n)| **n > 0).map(|(op, n)| (*op, *n)).collect();
        ops.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        ops
    }

    /// Begins a log with the pieces that live now.
    pub(crate) fn begin_log(&mut self, pooled: bool) {
        let now = Instant::now();
        let live = self.pieces.iter().enumerate();
        let changes = live.filter_map(|(slot, piece)| Some((now, Change::Made(slot as u32, (*piece)?)))).collect();
        self.log = Some(MemoryLog { pooled, changes });
    }

    /// Ends the log, if one was begun.
    pub(crate) fn end_log(&mut self) -> Option<MemoryLog> {
        self.log.take()
    }

    fn note(&mut self, change: Change) {
        if let Some(log) = &mut self.log {
            log.changes.push((Instant::now(), change));
        }
    }
}

/// The moment at which most memory was live.
#[derive(Clone, Debug)]
pub struct Peak {
    /// When.
    pub at: Instant,
    /// Bytes by owner.
    pub by_owner: OwnerBytes,
    /// The pieces that were live, largest first.
    pub pieces: Vec<Piece>,
}

impl Peak {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.by_owner.iter().sum()
    }
}

impl MemoryLog {
    /// Bytes by owner after each change, in order.
    pub fn timeline(&self) -> impl Iterator<Item = (Instant, OwnerBytes)> + '_ {
        let mut replay = Replay::default();
        self.changes.iter().map(move |(at, change)| {
            replay.apply(change);
            (*at, replay.by_owner)
        })
    }

    /// The peak; `None` for an empty log.
    pub fn peak(&self) -> Option<Peak> {
        let total = |by_owner: &OwnerBytes| by_owner.iter().sum::<usize>();
        // The first of several equal ones.
        let (index, (at, by_owner)) =
            self.timeline().enumerate().reduce(|a, b| if total(&b.1.1) > total(&a.1.1) { b } else { a })?;
        let mut replay = Replay::default();
        self.changes[..=index].iter().for_each(|(_, change)| replay.apply(change));
        let mut pieces: Vec<Piece> = replay.pieces.into_values().collect();
        pieces.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.op.cmp(b.op)));
        Some(Peak { at, by_owner, pieces })
    }
}

/// The state of a memory as its log is gone through.
#[derive(Default)]
struct Replay {
    pieces: BTreeMap<u32, Piece>,
    by_owner: OwnerBytes,
}

impl Replay {
    fn apply(&mut self, change: &Change) {
        match *change {
            Change::Made(slot, piece) => {
                self.by_owner[piece.owner as usize] += piece.bytes;
                self.pieces.insert(slot, piece);
            }
            Change::Moved(slot, owner) => {
                if let Some(piece) = self.pieces.get_mut(&slot) {
                    self.by_owner[piece.owner as usize] -= piece.bytes;
                    self.by_owner[owner as usize] += piece.bytes;
                    piece.owner = owner;
                }
            }
            Change::Freed(slot) => {
                if let Some(piece) = self.pieces.remove(&slot) {
                    self.by_owner[piece.owner as usize] -= piece.bytes;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever happens, the owners' sums, the operations' sums and the replayed log agree with what lives.
        #[test]
        fn owners_sum_to_what_lives(steps in proptest::collection::vec((0u8..5, 1usize..5000, 0usize..7), 1..200)) {
            let mut ledger = Ledger::default();
            ledger.begin_log(true);
            let mut held: Vec<(u32, usize)> = Vec::new();
            let mut peak = 0;
            for (what, size, which) in steps {
                let owner = Owner::ALL[which];
                match (what, held.len()) {
                    (0, n) if n > 0 => ledger.strike(held.swap_remove(size % n).0),
                    (1, n) if n > 0 => ledger.assign(held[size % n].0, owner),
                    (2, n) if n > 0 => ledger.claim(held[size % n].0, owner),
                    (3, _) => drop(ledger.set_scope(owner)),
                    _ => held.push((ledger.enter(size, size, ["a", "b", "c"][which % 3], &[size]), size)),
                }
                let live: usize = held.iter().map(|(_, size)| size).sum();
                peak = peak.max(live);
                prop_assert_eq!(ledger.live(), live);
                prop_assert_eq!(ledger.by_owner().iter().sum::<usize>(), live);
                prop_assert_eq!(ledger.by_op().iter().map(|(_, n)| n).sum::<usize>(), live);
            }
            let by_owner = ledger.by_owner();
            if let Some(log) = ledger.end_log().filter(|log| !log.changes.is_empty()) {
                prop_assert_eq!(log.timeline().last().unwrap().1, by_owner);
                let found = log.peak().unwrap();
                prop_assert_eq!(found.bytes(), peak);
                prop_assert_eq!(found.pieces.iter().map(|piece| piece.bytes).sum::<usize>(), peak);
            }
        }
    }

    #[test]
    fn a_claim_takes_from_the_workspace_alone() {
        let mut ledger = Ledger::default();
        ledger.set_scope(Owner::Data);
        let batch = ledger.enter(64, 64, "array", &[16]);
        ledger.set_scope(Owner::Workspace);
        let activation = ledger.enter(64, 64, "relu", &[16]);
        for slot in [batch, activation] {
            ledger.claim(slot, Owner::Saved);
        }
        assert_eq!((ledger.owner(batch), ledger.owner(activation)), (Owner::Data, Owner::Saved));
    }

    #[test]
    fn long_shapes_fold_their_first_axes() {
        assert_eq!(Extents::of(&[2, 3, 1, 1, 1, 5, 4]).as_slice(), [6, 1, 1, 1, 5, 4]);
        assert_eq!(Extents::of(&[]).numel(), 1);
    }
}
