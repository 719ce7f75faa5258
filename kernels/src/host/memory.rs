//! The memory of the host device: allocations and what of them is initialised.
#![allow(unsafe_code)]

use crate::launch::{Address, LaunchError};
use std::collections::BTreeMap;

/// Where allocations start and what lies between them: an address past one's end belongs to none.
const ALIGNMENT: u64 = 256;

/// One allocation. Its bytes are aligned to 16, as the device's are at least.
#[derive(Debug)]
pub(super) struct Allocation {
    words: Vec<u128>,
    bytes: usize,
    /// By byte; empty where checks are off.
    pub(super) initialised: Vec<bool>,
}

impl Allocation {
    pub(super) fn data(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }
}

/// All allocations, by address.
#[derive(Debug, Default)]
pub(super) struct Memory {
    allocations: BTreeMap<u64, Allocation>,
    next: u64,
}

/// A range of an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The allocation's address.
    pub(super) start: u64,
    /// The first byte in it.
    pub(super) offset: usize,
}

impl Memory {
    /// Reserves memory; with `checked`, what is initialised is noted.
    pub(super) fn allocate(&mut self, bytes: usize, checked: bool) -> Result<Address, LaunchError> {
        let count = bytes.div_ceil(size_of::<u128>());
        let mut words = Vec::new();
        let refused = words.try_reserve_exact(count).err();
        if let Some(error) = refused {
            return Err(LaunchError::OutOfMemory { bytes, detail: error.to_string() });
        }
        words.resize(count, 0);
        self.next += ALIGNMENT;
        let start = self.next;
        self.next += (bytes as u64).next_multiple_of(ALIGNMENT);
        let initialised = vec![false; if checked { bytes } else { 0 }];
        self.allocations.insert(start, Allocation { words, bytes, initialised });
        Ok(Address(start))
    }

    pub(super) fn free(&mut self, address: Address) {
        self.allocations.remove(&address.0);
    }

    /// The allocation that holds `bytes` at `address`.
    pub(super) fn find(&self, address: Address, bytes: usize) -> Result<Range, LaunchError> {
        let found = self.allocations.range(..=address.0).next_back().and_then(|(start, allocation)| {
            let offset = (address.0 - start) as usize;
            (offset.checked_add(bytes)? <= allocation.bytes).then_some(Range { start: *start, offset })
        });
        found.ok_or_else(|| LaunchError::Device {
            got: format!("{bytes} bytes at address {:#x}, which is not allocated", address.0),
            hint: "was the memory freed?".into(),
        })
    }

    pub(super) fn allocation(&mut self, range: Range) -> &mut Allocation {
        self.allocations.get_mut(&range.start).expect("`find` made the range from a living allocation")
    }

    /// The pointer to `bytes` at `address`, and what notes whether they are initialised.
    fn bytes(&mut self, address: Address, bytes: usize) -> Result<(*mut u8, &mut [bool]), LaunchError> {
        let range = self.find(address, bytes)?;
        let allocation = self.allocation(range);
        let data = allocation.data().wrapping_add(range.offset);
        let initialised = allocation.initialised.get_mut(range.offset..range.offset + bytes);
        Ok((data, initialised.unwrap_or_default()))
    }

    pub(super) fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), LaunchError> {
        let (data, initialised) = self.bytes(to, bytes.len())?;
        initialised.fill(true);
        // SAFETY: `bytes` found that many there; no kernel runs while the memory is borrowed.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len()) };
        Ok(())
    }

    pub(super) fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), LaunchError> {
        let (data, _) = self.bytes(from, bytes.len())?;
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    pub(super) fn copy(&mut self, from: Address, to: Address, bytes: usize) -> Result<(), LaunchError> {
        let (source, known) = self.bytes(from, bytes)?;
        let known = known.to_vec();
        let (target, initialised) = self.bytes(to, bytes)?;
        initialised.copy_from_slice(&known);
        // SAFETY: as above; `copy` allows overlap.
        unsafe { std::ptr::copy(source, target, bytes) };
        Ok(())
    }
}
