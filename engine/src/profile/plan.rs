//! [`plan`]: how much memory a batch needs, without running it.
//!
//! Two small batches are run and every change of the memory is logged. The program is the same for each batch, so the
//! logs agree piece by piece, and each axis of each shape grows linearly with the batch. The lengths at the planned
//! batch follow, and the log is gone through once more with them, by the memory pool's own policy on sizes alone.
//!
//! Where the logs do not agree (a program that takes more steps for a larger batch), the bytes of each owner at the
//! peak are taken to grow linearly.

use super::ledger::{Change, Extents, MemoryLog, Owner, OwnerBytes, Piece};
use crate::cpu::{Shelf, size_class};
use std::collections::BTreeMap;

/// A batch that was run, and what it did to the memory.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its size.
    pub batch: usize,
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
    replayed(small, large, &line).or_else(|| by_owner(small, large, &line))
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

    fn extents(&self, small: &Extents, large: &Extents) -> Option<Extents> {
        let (small, large) = (small.as_slice(), large.as_slice());
        if small.len() != large.len() {
            return None;
        }
        Some(Extents::of(&small.iter().zip(large).map(|(s, l)| self.at(*s, *l)).collect::<Vec<_>>()))
    }
}

/// The larger probe's log gone through with the planned lengths; `None` where the two logs disagree.
fn replayed(small: &Probe, large: &Probe, line: &Line) -> Option<Plan> {
    if small.log.changes.len() != large.log.changes.len() || small.log.changes.is_empty() {
        return None;
    }
    let mut memory = Memory { pooled: large.log.pooled, ..Memory::default() };
    for ((_, a), (_, b)) in small.log.changes.iter().zip(&large.log.changes) {
        match (a, b) {
            (Change::Made(slot, a), Change::Made(other, b)) if slot == other && a.op == b.op => {
                let shape = line.extents(&a.shape, &b.shape)?;
                let asked = match b.shape.numel() {
                    0 => b.asked,
                    n => shape.numel() * (b.asked / n),
                };
                memory.make(*slot, Piece { asked, shape, ..*b });
            }
            (Change::Moved(slot, a), Change::Moved(other, b)) if slot == other && a == b => memory.assign(*slot, *b),
            (Change::Freed(slot), Change::Freed(other)) if slot == other => memory.free(*slot),
            _ => return None,
        }
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
        if let Some((size, ())) = self.shelf.reuse(wanted) {
            return size;
        }
        self.shelf.make_room(wanted, self.live, self.most);
        wanted
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
            if self.pooled {
                self.shelf.keep(piece.bytes, ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuDevice;
    use crate::{Array, DType, Device, ops};

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
        let device = Device::open_beside(name, CpuDevice::new(1).unwrap()).unwrap();
        device.begin_memory_log();
        let _workspace = device.owned_by(Owner::Workspace);
        step(&device, batch);
        let stats = device.memory();
        assert_eq!(stats.by_owner.iter().sum::<usize>(), stats.live);
        Probe { batch, log: device.end_memory_log().unwrap() }
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
    fn programs_that_differ_are_planned_by_owner() {
        let (small, mut large) = (probe(16), probe(32));
        let last = large.log.changes.len() - 1;
        large.log.changes.remove(last);
        let planned = plan(&small, &large, 64).unwrap();
        let (a, b) = (small.log.peak().unwrap(), large.log.peak().unwrap());
        let saved = Owner::Saved as usize;
        assert_eq!(planned.of(Owner::Saved), b.by_owner[saved] + 2 * (b.by_owner[saved] - a.by_owner[saved]));
        assert!(planned.pieces.is_empty());
        assert!(plan(&small, &small, 64).is_none());
    }
}
