//! Loads, stores and atomics of a warp: every address is checked.

use crate::block::Shared;
use crate::instruction::{Access, Slot};
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW, space_of};
use crate::syntax::Space;
use crate::warp::{Warp, lanes_of};

/// What went wrong in which lane.
type LaneResult<T> = Result<T, (u32, String)>;

impl Shared<'_> {
    /// The bytes that a thread accesses, if they exist.
    #[inline]
    fn bytes(&mut self, thread: u32, space: Space, address: u64, count: usize) -> Option<&mut [u8]> {
        let (space, address) = match space {
            Space::Generic => match space_of(address) {
                Space::Shared => (Space::Shared, address - SHARED_WINDOW),
                Space::Local => (Space::Local, address - LOCAL_WINDOW),
                _ => (Space::Global, address),
            },
            named => (named, address),
        };
        let within = |data: usize| {
            let start = usize::try_from(address).ok()?;
            let end = start.checked_add(count)?;
            (end <= data).then_some(start..end)
        };
        match space {
            Space::Shared => within(self.tile.len()).map(|range| &mut self.tile[range]),
            Space::Local => {
                let (own, size) = (thread as usize * self.entry.local, self.entry.local);
                within(size).map(|range| &mut self.local[own..][range])
            }
            _ => self.memory.bytes(address, count),
        }
    }

    /// As [`Shared::bytes`], aligned; says what is wrong otherwise.
    #[inline]
    fn checked(&mut self, thread: u32, access: &Access, address: u64, count: usize) -> Result<&mut [u8], String> {
        // One, two or four elements of one, two, four or eight bytes: `count` is a power of two.
        if address & (count as u64 - 1) != 0 {
            return Err(format!("{count} bytes at address {address:#x}, which is not a multiple of {count}"));
        }
        let space = access.space;
        self.bytes(thread, space, address, count)
            .ok_or_else(|| format!("{count} bytes at address {address:#x} of {space:?} memory, which are not there"))
    }
}

fn read(bytes: &[u8], signed: bool) -> u64 {
    match (bytes, signed) {
        (&[a, b, c, d], false) => u32::from_le_bytes([a, b, c, d]).into(),
        (&[a, b, c, d], true) => i32::from_le_bytes([a, b, c, d]) as u64,
        (&[a, b, c, d, e, f, g, h], _) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (&[a, b], false) => u16::from_le_bytes([a, b]).into(),
        (&[a, b], true) => i16::from_le_bytes([a, b]) as u64,
        (&[a], false) => a.into(),
        (&[a], true) => a as i8 as u64,
        // Elements have 1, 2, 4 or 8 bytes.
        _ => 0,
    }
}

fn write(bytes: &mut [u8], value: u64) {
    match bytes {
        [a, b, c, d] => [*a, *b, *c, *d] = (value as u32).to_le_bytes(),
        other => {
            let count = other.len();
            other.copy_from_slice(&value.to_le_bytes()[..count]);
        }
    }
}

impl Warp {
    fn address(&self, access: &Access, lane: usize) -> u64 {
        self.registers[access.base as usize][lane].wrapping_add(access.offset)
    }

    pub(crate) fn load(
        &mut self,
        dests: &[Slot],
        access: &Access,
        signed: bool,
        active: u32,
        shared: &mut Shared<'_>,
    ) -> LaneResult<()> {
        if access.space == Space::Param {
            // Every thread has the same parameters at the same address.
            let address = access.offset.wrapping_add(self.registers[access.base as usize][0]) as usize;
            for (i, dest) in dests.iter().enumerate() {
                let start = address.wrapping_add(i * access.bytes);
                let Some(bytes) = shared.params.get(start..start.wrapping_add(access.bytes)) else {
                    return Err((0, format!("byte {start} of {} of parameters", shared.params.len())));
                };
                let value = read(bytes, signed);
                lanes_of(active).for_each(|lane| self.registers[*dest as usize][lane] = value);
            }
            return Ok(());
        }
        for lane in lanes_of(active) {
            let address = self.address(access, lane);
            let thread = self.first_thread + lane as u32;
            let bytes = shared
                .checked(thread, access, address, access.bytes * dests.len())
                .map_err(|what| (lane as u32, what))?;
            for (i, dest) in dests.iter().enumerate() {
                self.registers[*dest as usize][lane] = read(&bytes[i * access.bytes..][..access.bytes], signed);
            }
        }
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        sources: &[Slot],
        access: &Access,
        active: u32,
        shared: &mut Shared<'_>,
    ) -> LaneResult<()> {
        for lane in lanes_of(active) {
            let address = self.address(access, lane);
            let thread = self.first_thread + lane as u32;
            let bytes = shared
                .checked(thread, access, address, access.bytes * sources.len())
                .map_err(|what| (lane as u32, what))?;
            for (i, source) in sources.iter().enumerate() {
                write(&mut bytes[i * access.bytes..][..access.bytes], self.registers[*source as usize][lane]);
            }
        }
        Ok(())
    }

    pub(crate) fn atomic(
        &mut self,
        dest: Slot,
        access: &Access,
        change: fn(u64, u64, u64) -> u64,
        args: [Slot; 2],
        active: u32,
        shared: &mut Shared<'_>,
    ) -> LaneResult<()> {
        for lane in lanes_of(active) {
            let address = self.address(access, lane);
            let thread = self.first_thread + lane as u32;
            let bytes = shared.checked(thread, access, address, access.bytes).map_err(|what| (lane as u32, what))?;
            let old = read(bytes, false);
            let [b, c] = args.map(|slot| self.registers[slot as usize][lane]);
            write(bytes, change(old, b, c));
            self.registers[dest as usize][lane] = old;
        }
        Ok(())
    }
}
