//! The constants of the canonical order and the sample tree's shape. `NUMERICS.md` explains each.

/// Contractions are cut into chunks of this many nominal positions of k; each chunk is one chain of fused
/// multiply-adds from +0, and chunk results are added in order.
pub const CHUNK: usize = 512;

/// Images of one view per leaf of the sample tree. Micro-batch and rank boundaries must fall on a leaf.
pub const LEAF: usize = 16;

/// Elements per chunk in norms over parameters; chunk results are combined by the tree of [`crate::order`].
pub const NORM_CHUNK: usize = 4096;

/// Lanes of a row reduction: element `j` goes to lane `j % LANES`, then lanes fold 8, 4, 2, 1.
pub const LANES: usize = 16;

/// Where a tree over `leaves` leaves is split: the largest power of two below the number of leaves.
///
/// `leaves` must be at least 2.
pub const fn split(leaves: usize) -> usize {
    assert!(leaves >= 2, "a single leaf is not split");
    1 << (usize::BITS - 1 - (leaves - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_is_the_largest_power_of_two_below() {
        assert_eq!([2, 3, 4, 5, 8, 9].map(split), [1, 2, 2, 4, 4, 8]);
    }
}
