//! The assignment problem: which column each row takes so that the sum of weights is largest.

/// The column of each row of `weights` `[n, n]` (row-major) in an assignment of the largest total weight, each column
/// taken once: the Hungarian method by shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987), O(n³).
pub(crate) fn largest_assignment(weights: &[u64], n: usize) -> Vec<usize> {
    // Costs with potentials; row and column 0 are sentinels, so that "no row" is a row like any other.
    let most = weights.iter().copied().max().unwrap_or(0) as i64;
    let cost = |row: usize, column: usize| most - weights[(row - 1) * n + column - 1] as i64;
    let (mut row_potential, mut column_potential) = (vec![0i64; n + 1], vec![0i64; n + 1]);
    let mut row_of = vec![0usize; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let (mut slack, mut before, mut seen) = (vec![i64::MAX; n + 1], vec![0usize; n + 1], vec![false; n + 1]);
        let mut column = 0;
        // Grow a shortest path until it reaches a free column.
        while row_of[column] != 0 {
            seen[column] = true;
            let (here, mut least, mut next) = (row_of[column], i64::MAX, 0);
            for other in (1..=n).filter(|other| !seen[*other]) {
                let reduced = cost(here, other) - row_potential[here] - column_potential[other];
                if reduced < slack[other] {
                    (slack[other], before[other]) = (reduced, column);
                }
                if slack[other] < least {
                    (least, next) = (slack[other], other);
                }
            }
            for other in 0..=n {
                if seen[other] {
                    row_potential[row_of[other]] += least;
                    column_potential[other] -= least;
                } else if slack[other] < i64::MAX {
                    slack[other] -= least;
                }
            }
            column = next;
        }
        // Flip the path.
        while column != 0 {
            row_of[column] = row_of[before[column]];
            column = before[column];
        }
    }
    let mut column_of = vec![0; n];
    for column in 1..=n {
        column_of[row_of[column] - 1] = column - 1;
    }
    column_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(weights: &[u64], n: usize, columns: &[usize]) -> u64 {
        columns.iter().enumerate().map(|(row, column)| weights[row * n + column]).sum()
    }

    /// The largest total over all permutations.
    fn by_trial(weights: &[u64], n: usize, row: usize, taken: &mut Vec<usize>) -> u64 {
        if row == n {
            return total(weights, n, taken);
        }
        let mut best = 0;
        for column in 0..n {
            if !taken.contains(&column) {
                taken.push(column);
                best = best.max(by_trial(weights, n, row + 1, taken));
                taken.pop();
            }
        }
        best
    }

    proptest! {
        #[test]
        fn no_permutation_is_better((n, weights) in (1usize..6).prop_flat_map(|n| {
            (Just(n), prop::collection::vec(0u64..20, n * n))
        })) {
            let columns = largest_assignment(&weights, n);
            let mut sorted = columns.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            prop_assert_eq!(total(&weights, n, &columns), by_trial(&weights, n, 0, &mut Vec::new()));
        }
    }
}
