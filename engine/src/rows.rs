//! Reductions over samples: which rows belong to which image, and sums whose bits do not depend on how the batch is
//! cut into micro-batches or ranks.
//!
//! A sum over samples has leaves of [`LEAF`](selfsame_kernels::order::LEAF) images of one view and, above them, a binary
//! tree split at the largest power of two below the number of leaves. Each micro-batch or rank contributes the aligned
//! dyadic blocks of leaves that it covers ([`Tree::insert`]); whoever holds all of them gets the same root
//! ([`Tree::finish`]).

use crate::order::LEAF;
use crate::{Array, Error, ErrorKind, Result, ops};
use std::collections::BTreeMap;

/// Which rows of an activation belong to which image of the global batch.
///
/// An activation has images on axis 0; the axes between it and the channels (tokens, pixels) are the rows of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Index in the global batch of the first image here: a multiple of [`LEAF`](selfsame_kernels::order::LEAF).
    pub first_image: usize,
    /// Images here.
    pub images: usize,
    /// Rows per image: 1 for a vector, tokens for a sequence, pixels for an image.
    pub rows_per_image: usize,
}

impl Rows {
    /// The rows of an activation `[images, …, channels]` whose first image has global index `first_image`.
    ///
    /// # Errors
    /// `Shape` for a rank below 2; `Numerics` when `first_image` does not fall on a leaf.
    pub fn of(shape: &[usize], first_image: usize) -> Result<Rows> {
        let [images, middle @ .., _channels] = shape else {
            return Err(
                Error::new(ErrorKind::Shape, "rows", format!("shape {shape:?}")).expected("[images, …, channels]")
            );
        };
        if !first_image.is_multiple_of(LEAF) {
            return Err(Error::new(ErrorKind::Numerics, "rows", format!("a batch cut at image {first_image}"))
                .expected(format!("cuts at multiples of {LEAF} images"))
                .hint("other cuts change the order of sums over samples, and so the bits"));
        }
        Ok(Rows { first_image, images: *images, rows_per_image: middle.iter().product() })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.images * self.rows_per_image
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the first leaf.
    pub fn first_leaf(&self) -> usize {
        self.first_image / LEAF
    }

    /// Number of leaves; the last may be ragged.
    pub fn leaves(&self) -> usize {
        self.images.div_ceil(LEAF)
    }

    /// The local rows `start..end` of the `i`-th leaf here.
    pub fn leaf(&self, i: usize) -> std::ops::Range<usize> {
        let row = |image: usize| image.min(self.images) * self.rows_per_image;
        row(i * LEAF)..row((i + 1) * LEAF)
    }
}

/// Partial results over aligned dyadic blocks of leaves: the part of a sample tree that has been seen so far.
#[derive(Clone, Debug)]
pub struct Tree<T> {
    /// First leaf of a block → (log2 of its leaves, its value).
    blocks: BTreeMap<usize, (u32, T)>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Tree { blocks: BTreeMap::new() }
    }
}

impl<T> Tree<T> {
    /// Adds the block of `2^level` leaves that starts at leaf `first`, and merges complete siblings.
    ///
    /// # Errors
    /// What `combine(left, right)` returns, or `Numerics` when the leaves are there already.
    pub fn insert(
        &mut self,
        first: usize,
        level: u32,
        value: T,
        combine: &mut impl FnMut(T, T) -> Result<T>,
    ) -> Result<()> {
        let (mut first, mut level, mut value) = (first, level, value);
        if self.blocks.range(..first + (1 << level)).next_back().is_some_and(|(f, (l, _))| f + (1 << l) > first) {
            return Err(Error::new(ErrorKind::Numerics, "sample tree", format!("leaf {first} a second time"))
                .expected("each leaf of the batch once"));
        }
        loop {
            let is_left = (first >> level) & 1 == 0;
            let sibling = if is_left { first + (1 << level) } else { first - (1 << level) };
            match self.blocks.get(&sibling) {
                Some((l, _)) if *l == level => {
                    let (_, other) = self.blocks.remove(&sibling).expect("found just above");
                    value = if is_left { combine(value, other)? } else { combine(other, value)? };
                    first = first.min(sibling);
                    level += 1;
                }
                _ => break,
            }
        }
        self.blocks.insert(first, (level, value));
        Ok(())
    }

    /// The values of the blocks held, in leaf order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.blocks.values().map(|(_, value)| value)
    }

    /// The blocks held, in leaf order: (first leaf, log2 of leaves, value).
    pub fn into_blocks(self) -> impl Iterator<Item = (usize, u32, T)> {
        self.blocks.into_iter().map(|(first, (level, value))| (first, level, value))
    }

    /// The root over all leaves, which must run from 0 without a gap.
    ///
    /// # Errors
    /// `Numerics` when leaves are missing, or what `combine` returns.
    pub fn finish(self, combine: &mut impl FnMut(T, T) -> Result<T>) -> Result<T> {
        let mut expected = 0;
        for (first, (level, _)) in &self.blocks {
            if *first != expected {
                return Err(Error::new(ErrorKind::Numerics, "sample tree", format!("leaf {expected} is missing"))
                    .expected("every micro-batch of the step"));
            }
            expected += 1 << level;
        }
        let mut right_to_left = self.blocks.into_values().rev().map(|(_, value)| value);
        let last = right_to_left.next().ok_or_else(|| {
            Error::new(ErrorKind::Numerics, "sample tree", "no leaves").expected("at least one image")
        })?;
        right_to_left.try_fold(last, |right, left| combine(left, right))
    }
}

/// A sum over samples, as the tree nodes seen so far.
pub type SampleSum = Tree<Array>;

impl SampleSum {
    /// Adds the node of `2^level` leaves that starts at leaf `first`.
    ///
    /// # Errors
    /// As for [`Tree::insert`].
    pub fn add(&mut self, first: usize, level: u32, value: Array) -> Result<()> {
        self.insert(first, level, value, &mut |left, right| ops::add_assign(left, &right))
    }

    /// Adds all nodes of `other`: another micro-batch, or another rank.
    ///
    /// # Errors
    /// As for [`Tree::insert`].
    pub fn merge(&mut self, other: SampleSum) -> Result<()> {
        other.into_blocks().try_for_each(|(first, level, value)| self.add(first, level, value))
    }

    /// The whole sum.
    ///
    /// # Errors
    /// As for [`Tree::finish`].
    pub fn total(self) -> Result<Array> {
        self.finish(&mut |left, right| ops::add_assign(left, &right))
    }
}

/// The maximal aligned dyadic blocks that cover leaves `first..first + leaves`: (first leaf, log2 of leaves).
pub fn dyadic_blocks(first: usize, leaves: usize) -> Vec<(usize, u32)> {
    let end = first + leaves;
    let mut at = first;
    let mut blocks = Vec::new();
    while at < end {
        let aligned = if at == 0 { u32::MAX } else { at.trailing_zeros() };
        let level = aligned.min((end - at).ilog2());
        blocks.push((at, level));
        at += 1 << level;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use selfsame_kernels::order::split;

    /// The tree's definition, top down, as an expression string.
    fn reference(first: usize, leaves: usize) -> String {
        if leaves == 1 {
            return first.to_string();
        }
        let left = split(leaves);
        format!("({}+{})", reference(first, left), reference(first + left, leaves - left))
    }

    fn join(left: String, right: String) -> Result<String> {
        Ok(format!("({left}+{right})"))
    }

    proptest! {
        #[test]
        fn any_cut_in_any_order_gives_the_reference_tree(
            leaves in 1usize..40,
            cuts in proptest::collection::vec(1usize..40, 0..6),
            seed in any::<u64>(),
        ) {
            let mut bounds: Vec<usize> = cuts.into_iter().filter(|c| *c < leaves).chain([0, leaves]).collect();
            bounds.sort_unstable();
            bounds.dedup();
            let mut parts: Vec<(usize, u32)> =
                bounds.windows(2).flat_map(|w| dyadic_blocks(w[0], w[1] - w[0])).collect();
            let n = parts.len();
            parts.rotate_left(seed as usize % n);
            let mut tree = Tree::default();
            for (first, level) in parts {
                tree.insert(first, level, reference(first, 1 << level), &mut join).unwrap();
            }
            prop_assert_eq!(tree.finish(&mut join).unwrap(), reference(0, leaves));
        }
    }

    #[test]
    fn missing_and_repeated_leaves_are_refused() {
        let mut tree = Tree::default();
        tree.insert(1, 0, "b".to_string(), &mut join).unwrap();
        assert_eq!(tree.insert(1, 0, "b".to_string(), &mut join).unwrap_err().kind(), ErrorKind::Numerics);
        assert_eq!(tree.finish(&mut join).unwrap_err().kind(), ErrorKind::Numerics);
    }

    #[test]
    fn cuts_inside_a_leaf_are_refused() {
        assert_eq!(Rows::of(&[8, 4, 3], 8).unwrap_err().kind(), ErrorKind::Numerics);
        let rows = Rows::of(&[40, 2, 2, 3], 16).unwrap();
        assert_eq!((rows.leaves(), rows.first_leaf(), rows.rows_per_image), (3, 1, 4));
        assert_eq!(rows.leaf(2), 128..160);
    }
}
