//! What a memory pool does with the small pieces it gets back: the policy, apart from the memory, so that a plan can be
//! made with sizes alone.

use super::arena::{LARGE, PAGE};
use super::pages::ALIGN;
use std::collections::BTreeMap;

/// Pieces kept for reuse, by size.
pub(crate) struct Shelf<P> {
    free: BTreeMap<usize, Vec<P>>,
    cached: usize,
}

impl<P> Default for Shelf<P> {
    fn default() -> Self {
        Shelf { free: BTreeMap::new(), cached: 0 }
    }
}

impl<P> Shelf<P> {
    /// Bytes kept.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    /// A kept piece for a request of size class `wanted`, with its size: at most a quarter larger.
    pub(crate) fn reuse(&mut self, wanted: usize) -> Option<(usize, P)> {
        let (&size, pieces) = self.free.range_mut(wanted..=wanted + wanted / 4).next()?;
        let piece = pieces.pop().expect("empty lists are removed");
        if pieces.is_empty() {
            self.free.remove(&size);
        }
        self.cached -= size;
        Some((size, piece))
    }

    /// Keeps a piece.
    pub(crate) fn keep(&mut self, size: usize, piece: P) {
        self.cached += size;
        self.free.entry(size).or_default().push(piece);
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
        self.cached = 0;
    }
}

/// What is held for so many bytes. Small sizes are rounded up in steps of an eighth of their power of two, so that slightly
/// different shapes share pieces; large ones to whole pages.
pub(crate) fn size_class(bytes: usize) -> usize {
    if bytes >= LARGE {
        return bytes.next_multiple_of(PAGE);
    }
    let bytes = bytes.max(ALIGN);
    let step = (1usize << bytes.ilog2()) / 8;
    bytes.next_multiple_of(step.max(ALIGN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for bytes in [1usize, 64, 65, 1000, 4097, 123_456, 10_000_001] {
            let class = size_class(bytes);
            assert!(class >= bytes && class <= (bytes + bytes / 8).max(2 * ALIGN).next_multiple_of(ALIGN));
        }
    }
}
