//! What a launch did: bytes, requests, sectors, bank conflicts, divergence, meetings.

use super::site::{Operation, SiteNumber};
use crate::simt::WARP;
use std::ops::AddAssign;

/// Bytes of a sector, the unit in which global memory is moved.
const SECTOR: usize = 32;

/// Banks of shared memory, each of 4 bytes.
const BANKS: usize = 32;

/// Sums over the launches of a kernel. A request is what the lanes of a warp ask for with one instruction: the n-th
/// time that each executes the same place in the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Blocks.
    pub blocks: u64,
    /// Threads.
    pub threads: u64,
    /// Bytes that lanes read from global memory.
    pub bytes_read: u64,
    /// Bytes that lanes wrote to global memory.
    pub bytes_written: u64,
    /// Requests to global memory.
    pub requests: u64,
    /// Sectors of 32 bytes that these touch, counted per request.
    pub sectors: u64,
    /// The fewest sectors that could hold the same distinct bytes.
    pub ideal_sectors: u64,
    /// Requests to shared memory.
    pub shared_requests: u64,
    /// Passes over the banks that these take beyond the fewest: bank conflicts.
    pub bank_conflicts: u64,
    /// Lanes that took part in the requests to either memory, of 32 each.
    pub active_lanes: u64,
    /// Atomics, by lane.
    pub atomics: u64,
    /// Barriers, by block.
    pub barriers: u64,
    /// Fences, by thread.
    pub fences: u64,
    /// Synchronisations of warps.
    pub warp_syncs: u64,
    /// Shuffles, by warp.
    pub shuffles: u64,
    /// Votes, by warp.
    pub votes: u64,
    /// Tensor-core products, by warp.
    pub mma: u64,
    /// Their floating-point operations.
    pub mma_flop: u64,
}

impl Counters {
    /// Sectors per request of global memory over the fewest possible: 1 is perfect coalescing.
    pub fn sector_excess(&self) -> f64 {
        self.sectors as f64 / self.ideal_sectors.max(1) as f64
    }

    /// The share of lanes that took part in memory requests.
    pub fn active_share(&self) -> f64 {
        self.active_lanes as f64 / (f64::from(WARP) * (self.requests + self.shared_requests).max(1) as f64)
    }

    /// Counts a meeting of a warp's lanes.
    pub(super) fn meeting(&mut self, operation: Operation) {
        match operation {
            Operation::SyncWarp => self.warp_syncs += 1,
            Operation::Vote => self.votes += 1,
            Operation::MmaBf16 | Operation::MmaTf32 => {
                let depth = if operation == Operation::MmaBf16 { 16 } else { 8 };
                self.mma += 1;
                self.mma_flop += 2 * 16 * 8 * depth;
            }
            _ => self.shuffles += 1,
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        macro_rules! add {
            ($($field:ident)*) => { $(self.$field += other.$field;)* };
        }
        add!(launches blocks threads bytes_read bytes_written requests sectors ideal_sectors shared_requests
            bank_conflicts active_lanes atomics barriers fences warp_syncs shuffles votes mma mma_flop);
    }
}

/// One request: the offsets of its lanes.
struct Request {
    lanes: u32,
    offsets: [u32; WARP as usize],
}

/// The requests of one warp at one site.
#[derive(Default)]
struct SiteRequests {
    /// How often each lane has executed the site.
    executed: [u32; WARP as usize],
    requests: Vec<Request>,
    bytes: usize,
    shared: bool,
}

/// The requests of the running block, which end with it: lanes run far apart.
#[derive(Default)]
pub(super) struct Requests {
    /// By warp, then by site.
    warps: Vec<Vec<SiteRequests>>,
}

impl Requests {
    /// A lane accesses `bytes` at `offset`.
    pub(super) fn access(&mut self, thread: u32, site: SiteNumber, offset: usize, bytes: usize, shared: bool) {
        let (warp, lane, site) = ((thread / WARP) as usize, (thread % WARP) as usize, site as usize);
        if self.warps.len() <= warp {
            self.warps.resize_with(warp + 1, Vec::new);
        }
        let sites = &mut self.warps[warp];
        if sites.len() <= site {
            sites.resize_with(site + 1, SiteRequests::default);
        }
        let at = &mut sites[site];
        (at.bytes, at.shared) = (bytes, shared);
        let nth = at.executed[lane] as usize;
        at.executed[lane] += 1;
        if at.requests.len() <= nth {
            at.requests.push(Request { lanes: 0, offsets: [0; WARP as usize] });
        }
        at.requests[nth].lanes |= 1 << lane;
        at.requests[nth].offsets[lane] = offset as u32;
    }

    /// The block has ended: counts its requests.
    pub(super) fn finish(&mut self, counters: &mut Counters) {
        for at in self.warps.iter_mut().flatten() {
            at.executed.fill(0);
            for Request { lanes, offsets } in at.requests.drain(..) {
                let lanes = (0..WARP as usize).filter(|lane| lanes >> lane & 1 == 1);
                let offsets: Vec<usize> = lanes.map(|lane| offsets[lane] as usize).collect();
                counters.active_lanes += offsets.len() as u64;
                if at.shared {
                    counters.shared_requests += 1;
                    counters.bank_conflicts += bank_conflicts(&offsets, at.bytes);
                } else {
                    counters.requests += 1;
                    counters.sectors += sectors(&offsets, at.bytes);
                    counters.ideal_sectors += (distinct(offsets.iter().copied()) * at.bytes).div_ceil(SECTOR) as u64;
                }
            }
        }
    }
}

fn distinct(values: impl Iterator<Item = usize>) -> usize {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    values.len()
}

/// Sectors that a request of `bytes` per lane touches.
fn sectors(offsets: &[usize], bytes: usize) -> u64 {
    distinct(offsets.iter().flat_map(|offset| offset / SECTOR..=(offset + bytes - 1) / SECTOR)) as u64
}

/// Passes over the banks beyond the fewest. Lanes of 8 or 16 bytes are served in halves or quarters of the warp.
fn bank_conflicts(offsets: &[usize], bytes: usize) -> u64 {
    let together = (BANKS * 4 / bytes.max(4)).max(1);
    let passes = |offsets: &[usize]| {
        let mut words: Vec<usize> = offsets.iter().flat_map(|offset| offset / 4..=(offset + bytes - 1) / 4).collect();
        words.sort_unstable();
        words.dedup();
        let mut of_bank = [0u64; BANKS];
        words.iter().for_each(|word| of_bank[word % BANKS] += 1);
        of_bank.into_iter().max().unwrap_or(0)
    };
    offsets.chunks(together).map(|offsets| passes(offsets).saturating_sub(1)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: usize) -> Vec<usize> {
        (0..32).map(|lane| lane * stride).collect()
    }

    #[test]
    fn sectors_of_common_patterns() {
        assert_eq!(sectors(&strided(4), 4), 4, "consecutive f32");
        assert_eq!(sectors(&strided(128), 4), 32, "a column of 32 f32");
        assert_eq!(sectors(&strided(0), 4), 1, "broadcast");
        assert_eq!(sectors(&strided(16), 16), 16, "four f32 per lane");
    }

    #[test]
    fn bank_conflicts_of_common_patterns() {
        assert_eq!(bank_conflicts(&strided(4), 4), 0, "consecutive");
        assert_eq!(bank_conflicts(&strided(0), 4), 0, "broadcast");
        assert_eq!(bank_conflicts(&strided(8), 4), 1, "every other word");
        assert_eq!(bank_conflicts(&strided(128), 4), 31, "one bank");
        assert_eq!(bank_conflicts(&strided(132), 4), 0, "padded column");
        assert_eq!(bank_conflicts(&strided(16), 16), 0, "four words per lane");
        assert_eq!(bank_conflicts(&strided(2), 2), 0, "halves of a word");
    }
}
