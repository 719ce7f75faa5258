//! Global memory, and how generic addresses name spaces.

use crate::syntax::Space;

/// Generic addresses of shared memory begin here.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;
/// Generic addresses of the memory of one thread begin here.
pub(crate) const LOCAL_WINDOW: u64 = 1 << 57;

/// What uninitialised memory holds: NaN in every float type, the largest unsigned integer.
pub(crate) const UNINITIALISED: u8 = 0xff;

/// Where allocations start and what lies between them: an address past one's end belongs to none.
const ALIGNMENT: u64 = 256;

/// The space of a generic address.
pub(crate) fn space_of(address: u64) -> Space {
    if address >= LOCAL_WINDOW {
        Space::Local
    } else if address >= SHARED_WINDOW {
        Space::Shared
    } else {
        Space::Global
    }
}

/// The allocations of global memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// By increasing start.
    regions: Vec<Region>,
    next: u64,
    /// The region of the last access: the next one is often there too.
    recent: usize,
}

#[derive(Debug)]
struct Region {
    start: u64,
    data: Vec<u8>,
}

impl Memory {
    /// Memory without allocations.
    pub(crate) fn new() -> Memory {
        Memory { regions: Vec::new(), next: ALIGNMENT, recent: 0 }
    }

    /// Reserves bytes and gives their address.
    pub(crate) fn allocate(&mut self, bytes: usize) -> u64 {
        let start = self.next;
        self.next += (bytes as u64).next_multiple_of(ALIGNMENT) + ALIGNMENT;
        self.regions.push(Region { start, data: vec![UNINITIALISED; bytes] });
        start
    }

    /// Gives an allocation back; whether there was one at this address.
    pub(crate) fn free(&mut self, start: u64) -> bool {
        match self.regions.binary_search_by_key(&start, |region| region.start) {
            Ok(index) => {
                self.regions.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// The bytes at an address, if all of them lie in one allocation.
    #[inline]
    pub(crate) fn bytes(&mut self, address: u64, count: usize) -> Option<&mut [u8]> {
        if !self.regions.get(self.recent).is_some_and(|region| region.contains(address)) {
            self.recent = self.regions.partition_point(|region| region.start <= address).checked_sub(1)?;
        }
        let region = self.regions.get_mut(self.recent)?;
        let offset = usize::try_from(address.checked_sub(region.start)?).ok()?;
        region.data.get_mut(offset..offset.checked_add(count)?)
    }
}

impl Region {
    fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.data.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_stay_in_their_allocation() {
        let mut memory = Memory::new();
        let (a, b) = (memory.allocate(100), memory.allocate(256));
        assert_eq!(a % ALIGNMENT, 0);
        assert!(memory.bytes(a + 96, 4).is_some());
        assert!(memory.bytes(a + 97, 4).is_none());
        assert!(memory.bytes(a + 300, 4).is_none());
        assert!(memory.bytes(b, 256).is_some());
        assert!(memory.bytes(b + 256, 1).is_none());
        assert!(memory.bytes(0, 1).is_none());
        assert!(memory.free(a));
        assert!(!memory.free(a));
        assert!(memory.bytes(a, 4).is_none());
        assert!(memory.bytes(b, 4).is_some());
    }
}
