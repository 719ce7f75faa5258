//! The tree over samples: a fold whose shape depends on the number of leaves alone.

use crate::order::split;

/// Folds `leaves` leaves from the top down: a range of one leaf is that leaf; a longer one is split at the largest
/// power of two below its length, and `combine(left, right)` joins the halves. `None` for no leaves.
///
/// Leaves are asked for in order. A range that starts at a multiple of a power of two and has that length is a node of
/// every larger tree, which is what lets micro-batches and ranks hand in nodes instead of leaves.
pub fn fold_tree<N>(
    leaves: usize,
    leaf: &mut impl FnMut(usize) -> N,
    combine: &mut impl FnMut(N, N) -> N,
) -> Option<N> {
    (leaves > 0).then(|| fold_range(0, leaves, leaf, combine))
}

fn fold_range<N>(
    first: usize,
    leaves: usize,
    leaf: &mut impl FnMut(usize) -> N,
    combine: &mut impl FnMut(N, N) -> N,
) -> N {
    if leaves == 1 {
        return leaf(first);
    }
    let left_leaves = split(leaves);
    let left = fold_range(first, left_leaves, leaf, combine);
    let right = fold_range(first + left_leaves, leaves - left_leaves, leaf, combine);
    combine(left, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(leaves: usize) -> Option<String> {
        fold_tree(leaves, &mut |i| i.to_string(), &mut |a, b| format!("({a} {b})"))
    }

    #[test]
    fn small_trees_have_the_documented_shape() {
        assert_eq!(shape(0), None);
        assert_eq!(shape(1).as_deref(), Some("0"));
        assert_eq!(shape(3).as_deref(), Some("((0 1) 2)"));
        assert_eq!(shape(4).as_deref(), Some("((0 1) (2 3))"));
        assert_eq!(shape(7).as_deref(), Some("(((0 1) (2 3)) ((4 5) 6))"));
    }

    proptest! {
        #[test]
        fn aligned_powers_of_two_are_nodes_of_every_larger_tree(
            levels in 0u32..4, block in 0usize..6, more in 0usize..20,
        ) {
            let width = 1usize << levels;
            let first = block * width;
            let node = fold_tree(width, &mut |i| (first + i).to_string(), &mut |a, b| format!("({a} {b})")).unwrap();
            prop_assert!(shape(first + width + more).unwrap().contains(&node));
        }
    }
}
