//! [`plan`]: how much memory a batch needs, without running it.
//!
//! Two small batches are run and every change of the memory is logged. The program is the same for each batch, but for
//! the sums of more leaves of images, so the smaller one's pieces are found in the larger one's log in their order, and
//! each axis of each shape grows linearly with the batch. The lengths at the planned batch follow, and the larger log is
//! gone through once more with them, by the memory pool's own policy on sizes alone.
//!
//! Where the pieces are not found, or the batch is cut (a program that takes other steps for a larger batch), the bytes of
//! each owner at the peak are taken to grow linearly.

use super::ledger::{Change, Extents, MemoryLog, Owner, OwnerBytes, Piece};
use crate::cpu::{LARGE, Shelf, size_class};
use std::collections::BTreeMap;

/// A batch that was run, and what it did to the memory.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its size.
    pub batch: usize,
    /// Whether it was run in parts of one size, of which a larger batch has more.
    pub is_cut: bool,
    /// The log, from before the first piece on.
    pub log: MemoryLog,
}

/// The memory that a batch will need.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The batch.
    pub batch: usize,
    /// Bytes by owner at the peak.
    pub by_owner: OwnerBytes,
    /// The pieces live at the peak, largest first; empty where only the owners' sums could be planned.
    pub pieces: Vec<Piece>,
}

impl Plan {
    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.by_owner.iter().sum()
    }

    /// Bytes of one owner.
    pub fn of(&self, owner: Owner) -> usize {
        self.by_owner[owner as usize]
    }
}

/// The plan for `batch`, from two probes of different sizes; `None` when they have the same size or logged nothing.
pub fn plan(small: &Probe, large: &Probe, batch: usize) -> Option<Plan> {
    if small.batch == large.batch {
        return None;
    }
    let line = Line { small: small.batch, large: large.batch, batch };
    let replayed = if large.is_cut { None } else { replayed(small, large, &line) };
    replayed.or_else(|| by_owner(small, large, &line))
}

/// The straight line through two probes, at the planned batch.
struct Line {
    small: usize,
    large: usize,
    batch: usize,
}

impl Line {
    /// Rounded up: what is counted per leaf of images has a part for the ragged last one.
    fn at(&self, small: usize, large: usize) -> usize {
        if small == large {
            return small;
        }
        let wide = |n: usize| n as i128;
        let (rise, run) = (wide(large) - wide(small), wide(self.large) - wide(self.small));
        let scaled = wide(small) * run + rise * (wide(self.batch) - wide(self.small));
        let (scaled, run) = if run < 0 { (-scaled, -run) } else { (scaled, run) };
        usize::try_from(scaled.max(0).div_euclid(run) + i128::from(scaled.max(0).rem_euclid(run) > 0)).unwrap_or(0)
    }

    fn extents(&self, small: &Extents, large: &Extents) -> Extents {
        let lengths = small.as_slice().iter().zip(large.as_slice());
        Extents::of(&lengths.map(|(small, large)| self.at(*small, *large)).collect::<Vec<_>>())
    }

    /// Whether two pieces of the probes may be the same one of the program: each axis as long in both, or as much
    /// longer as the batch is larger, up to the ragged last leaf.
    fn pairs(&self, small: &Piece, large: &Piece) -> bool {
        let (a, b) = (small.shape.as_slice(), large.shape.as_slice());
        let scales = |a: usize, b: usize| a == b || b == (a * self.large).div_ceil(self.small);
        small.op == large.op && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| scales(*a, *b))
    }
}

/// The larger probe's log gone through with the planned lengths. The smaller one's pieces must be found in it in their
/// order; what comes in between (the sums of more leaves) keeps its size. `None` where they are not found.
fn replayed(small: &Probe, large: &Probe, line: &Line) -> Option<Plan> {
    let mut pieces_of_small = small.log.changes.iter().filter_map(|(_, change)| match change {
        Change::Made(_, piece) => Some(piece),
        _ => None,
    });
    let mut next = Some(pieces_of_small.next()?);
    let mut memory = Memory { pooled: large.log.pooled, ..Memory::default() };
    for (_, change) in &large.log.changes {
        match *change {
            Change::Made(slot, piece) => {
                let paired = next.filter(|small| line.pairs(small, &piece));
                let shape = paired.map_or(piece.shape, |small| line.extents(&small.shape, &piece.shape));
                if paired.is_some() {
                    next = pieces_of_small.next();
                }
                let asked = match piece.shape.numel() {
                    0 => piece.asked,
                    n => shape.numel() * (piece.asked / n),
                };
                memory.make(slot, Piece { asked, shape, ..piece });
            }
            Change::Moved(slot, owner) => memory.assign(slot, owner),
            Change::Freed(slot) => memory.free(slot),
        }
    }
    if next.is_some() {
        return None;
    }
    memory.settle();
    let (by_owner, mut pieces) = memory.peak;
    pieces.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.op.cmp(b.op)));
    Some(Plan { batch: line.batch, by_owner, pieces })
}

/// Each owner's bytes at the peak on a straight line.
fn by_owner(small: &Probe, large: &Probe, line: &Line) -> Option<Plan> {
    let (small, large) = (small.log.peak()?, large.log.peak()?);
    let by_owner = std::array::from_fn(|i| line.at(small.by_owner[i], large.by_owner[i]));
    Some(Plan { batch: line.batch, by_owner, pieces: Vec::new() })
}

/// A memory of sizes alone.
#[derive(Default)]
struct Memory {
    pooled: bool,
    shelf: Shelf<()>,
    pieces: BTreeMap<u32, Piece>,
    by_owner: OwnerBytes,
    live: usize,
    most: usize,
    /// Owners and pieces when most was live.
    peak: (OwnerBytes, Vec<Piece>),
    /// Whether more has been live since than `peak` shows.
    rising: bool,
}

impl Memory {
    fn make(&mut self, slot: u32, mut piece: Piece) {
        piece.bytes = if self.pooled { self.place(piece.asked) } else { piece.asked };
        self.live += piece.bytes;
        self.by_owner[piece.owner as usize] += piece.bytes;
        self.pieces.insert(slot, piece);
        if self.live > self.most {
            self.most = self.live;
            self.rising = true;
        }
    }

    fn place(&mut self, asked: usize) -> usize {
        let wanted = size_class(asked);
        self.shelf.reuse(wanted).map_or(wanted, |(size, ())| size)
    }

    /// Before anything but a new piece, and at the end: what was live until now may have been the peak.
    fn settle(&mut self) {
        if std::mem::take(&mut self.rising) {
            self.peak = (self.by_owner, self.pieces.values().copied().collect());
        }
    }

    fn assign(&mut self, slot: u32, owner: Owner) {
        self.settle();
        if let Some(piece) = self.pieces.get_mut(&slot) {
            self.by_owner[piece.owner as usize] -= piece.bytes;
            self.by_owner[owner as usize] += piece.bytes;
            piece.owner = owner;
        }
    }

    fn free(&mut self, slot: u32) {
        self.settle();
        if let Some(piece) = self.pieces.remove(&slot) {
            self.live -= piece.bytes;
            self.by_owner[piece.owner as usize] -= piece.bytes;
            if self.pooled && piece.bytes < LARGE {
                self.shelf.keep(piece.bytes, ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuDevice;
    use crate::{Array, DType, Device, Numerics, ops};

    /// Something like a step: parts that grow with the batch, with its square, per leaf of 16, and not at all.
    fn step(device: &Device, batch: usize) {
        let zeros = |shape: &[usize]| Array::zeros(shape, DType::F32, device).unwrap();
        let (weight, x) = (zeros(&[37, 301]), zeros(&[batch, 37]));
        let y = ops::matmul(&x, &weight).unwrap();
        y.claim(Owner::Saved);
        let similarity = ops::matmul(&y, &y.transpose(0, 1).unwrap()).unwrap();
        let leaves = zeros(&[batch.div_ceil(16), 301]);
        drop(similarity);
        let again = ops::matmul(&y, &y.transpose(0, 1).unwrap()).unwrap();
        drop((ops::softmax(&again).unwrap(), leaves));
    }

    fn probe_on(name: &str, batch: usize) -> Probe {
        let device = Device::open_with(name, CpuDevice::new(1).unwrap(), Numerics::Strict).unwrap();
        device.begin_memory_log();
        let _workspace = device.owned_by(Owner::Workspace);
        step(&device, batch);
        let stats = device.memory();
        assert_eq!(stats.by_owner.iter().sum::<usize>(), stats.live);
        Probe { batch, is_cut: false, log: device.end_memory_log().unwrap() }
    }

    fn probe(batch: usize) -> Probe {
        probe_on("cpu", batch)
    }

    #[test]
    fn a_plan_is_what_a_run_then_needs() {
        for (name, batches) in [("cpu", &[24, 40, 100, 333, 512, 1024][..]), ("simt:unchecked", &[24, 40, 100])] {
            let (small, large) = (probe_on(name, 16), probe_on(name, 32));
            for &batch in batches {
                let planned = plan(&small, &large, batch).unwrap();
                let measured = probe_on(name, batch).log.peak().unwrap();
                assert_eq!(planned.by_owner, measured.by_owner, "{name}, batch {batch}");
                assert!(planned.of(Owner::Saved) > 0);
                assert_eq!(planned.pieces[0].shape, measured.pieces[0].shape);
            }
        }
    }

    #[test]
    fn pieces_that_only_the_larger_batch_makes_keep_their_size() {
        let (small, mut large) = (probe(16), probe(32));
        let (at, extra) = (large.log.changes[3].0, Extents::of(&[64]));
        let piece = Piece { bytes: 256, asked: 256, op: "add", owner: Owner::Workspace, shape: extra };
        large.log.changes.splice(3..3, [(at, Change::Made(1000, piece)), (at, Change::Freed(1000))]);
        let (planned, measured) = (plan(&small, &large, 512).unwrap(), probe(512).log.peak().unwrap());
        assert_eq!(planned.bytes(), measured.bytes());
    }

    #[test]
    fn programs_that_differ_are_planned_by_owner() {
        let (mut small, large) = (probe(16), probe(32));
        let piece = Piece { bytes: 64, asked: 64, op: "only here", owner: Owner::Workspace, shape: Extents::of(&[16]) };
        small.log.changes.push((small.log.changes[0].0, Change::Made(1000, piece)));
        let planned = plan(&small, &large, 64).unwrap();
        let (a, b) = (small.log.peak().unwrap(), large.log.peak().unwrap());
        let saved = Owner::Saved as usize;
        assert_eq!(planned.of(Owner::Saved), b.by_owner[saved] + 2 * (b.by_owner[saved] - a.by_owner[saved]));
        assert!(planned.pieces.is_empty());
        assert!(plan(&small, &small, 64).is_none());
    }
}
