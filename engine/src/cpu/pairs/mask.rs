//! Which pairs are left out.

use super::terms;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::ops::Range;

/// Pairs (row, column) that take no part, on indices of the whole problem.
#[derive(Clone, Debug)]
pub(crate) enum Mask {
    /// All take part.
    None,
    /// By row: one column. A number that is no column leaves nothing out.
    Own(Vec<i64>),
    /// Pairs of equal keys, but for the column of `kept`, by row.
    SameKey { rows: Vec<u32>, columns: Vec<u32>, kept: Option<Vec<i64>> },
    /// By row: columns `columns[starts[row]..starts[row + 1]]`, increasing.
    Listed { starts: Vec<usize>, columns: Vec<i64> },
}

impl Mask {
    /// Pairs of equal keys. Keys of any value become numbers that compare as fast as floats.
    pub(crate) fn same_key(rows: &[i64], columns: &[i64], kept: Option<Vec<i64>>) -> Mask {
        let mut known: Vec<i64> = columns.to_vec();
        known.sort_unstable();
        known.dedup();
        // A row whose key no column has leaves nothing out.
        let number = |key: &i64| known.binary_search(key).map_or(u32::MAX, |at| at as u32);
        Mask::SameKey { rows: rows.iter().map(number).collect(), columns: columns.iter().map(number).collect(), kept }
    }

    /// Writes `with` over the pairs of `row` and `columns` that are left out; `x` holds one element per column.
    pub(super) fn cover<T: Real>(&self, isa: Isa, row: usize, columns: Range<usize>, with: T, x: &mut [T]) {
        let place = |column: i64| {
            let column = usize::try_from(column).ok()?;
            columns.contains(&column).then(|| column - columns.start)
        };
        match self {
            Mask::None => {}
            Mask::Own(own) => {
                if let Some(at) = place(own[row]) {
                    x[at] = with;
                }
            }
            Mask::SameKey { rows, columns: keys, kept } => {
                let kept = kept.as_ref().and_then(|kept| place(kept[row])).map(|at| (at, x[at]));
                terms::cover_equal(isa, &keys[columns.clone()], rows[row], with, x);
                if let Some((at, value)) = kept {
                    x[at] = value;
                }
            }
            Mask::Listed { starts, columns: listed } => {
                let listed = &listed[starts[row]..starts[row + 1]];
                let first = listed.partition_point(|&column| column < columns.start as i64);
                for at in listed[first..].iter().map_while(|&column| place(column)) {
                    x[at] = with;
                }
            }
        }
    }

    /// The same pairs where rows are columns and columns rows, of a problem of m rows and n columns.
    pub(crate) fn transposed(&self, [m, n]: [usize; 2]) -> Mask {
        match self {
            Mask::None => Mask::None,
            Mask::Own(own) => match inverse(own, n) {
                Some(own) => Mask::Own(own),
                None => listed(n, (0..).zip(own.iter().copied())),
            },
            Mask::SameKey { rows, columns, kept } => {
                let of_columns = kept.as_ref().map(|kept| inverse(kept, n));
                if let Some(None) = of_columns {
                    let mut rows_of = BTreeMap::<u32, Vec<i64>>::new();
                    rows.iter().zip(0..).for_each(|(key, row)| rows_of.entry(*key).or_default().push(row));
                    let rows_of = |key: &u32| rows_of.get(key).into_iter().flatten();
                    let equal =
                        columns.iter().zip(0..).flat_map(|(key, column)| rows_of(key).map(move |r| (*r, column)));
                    let is_kept =
                        |row: i64, column: i64| kept.as_ref().is_some_and(|kept| kept[row as usize] == column);
                    return listed(n, equal.filter(|&(row, column)| !is_kept(row, column)));
                }
                Mask::SameKey { rows: columns.clone(), columns: rows.clone(), kept: of_columns.flatten() }
            }
            Mask::Listed { starts, columns } => {
                let of_row = |row: usize| columns[starts[row]..starts[row + 1]].iter().map(move |c| (row as i64, *c));
                listed(n, (0..m).flat_map(of_row))
            }
        }
    }

    /// Whether (i, j) is left out where (j, i) is, for i, j below `n`.
    pub(crate) fn is_symmetric(&self, n: usize) -> bool {
        match self {
            Mask::None => true,
            Mask::Own(own) => own.iter().enumerate().all(|(row, &column)| match usize::try_from(column) {
                Ok(column) if column < n => own[column] == row as i64,
                _ => true,
            }),
            Mask::SameKey { rows, columns, kept } => {
                let is_kept_both_ways = |kept: &Vec<i64>| {
                    kept.iter().enumerate().all(|(row, &column)| match usize::try_from(column) {
                        Ok(column) if column < n && columns[column] == rows[row] => kept[column] == row as i64,
                        _ => true,
                    })
                };
                rows == columns && kept.as_ref().is_none_or(is_kept_both_ways)
            }
            Mask::Listed { starts, columns } => (0..n).all(|row| {
                columns[starts[row]..starts[row + 1]].iter().all(|&column| match usize::try_from(column) {
                    Ok(column) if column < n => {
                        columns[starts[column]..starts[column + 1]].binary_search(&(row as i64)).is_ok()
                    }
                    _ => true,
                })
            }),
        }
    }
}

/// By column the row that names it, -1 where none does; `None` where several name one. Numbers that are no column count
/// for nothing.
fn inverse(column_of: &[i64], n: usize) -> Option<Vec<i64>> {
    let mut row_of = vec![-1; n];
    for (&column, row) in column_of.iter().zip(0..) {
        if let Some(place) = usize::try_from(column).ok().and_then(|column| row_of.get_mut(column)) {
            if *place >= 0 {
                return None;
            }
            *place = row;
        }
    }
    Some(row_of)
}

/// Pairs (row, column) as lists of the rows of each of n columns; those of one column come in order of rows.
fn listed(n: usize, pairs: impl Iterator<Item = (i64, i64)>) -> Mask {
    let mut lists = vec![Vec::new(); n];
    for (row, column) in pairs {
        if let Some(list) = usize::try_from(column).ok().and_then(|column| lists.get_mut(column)) {
            list.push(row);
        }
    }
    let ends = lists.iter().scan(0, |end, list| {
        *end += list.len();
        Some(*end)
    });
    Mask::Listed { starts: std::iter::once(0).chain(ends).collect(), columns: lists.concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transposed_problem_leaves_out_the_same_pairs() {
        const M: usize = 9;
        const N: usize = 6;
        let keys = |len: i64| (0..len).map(|i| i * i % 4).collect::<Vec<i64>>();
        let same_key = |kept| Mask::same_key(&keys(M as i64), &keys(N as i64), kept);
        let masks = [
            Mask::None,
            Mask::Own((0..M as i64).map(|i| i - 2).collect()),
            Mask::Own((0..M as i64).map(|i| i / 2).collect()),
            same_key(None),
            same_key(Some((0..M as i64).map(|i| i - 1).collect())),
            same_key(Some((0..M as i64).map(|i| i / 3 * 2).collect())),
            Mask::Listed { starts: vec![0, 2, 2, 5, 5, 5, 6, 6, 6, 9], columns: vec![-1, 0, 0, 2, 5, 3, 1, 5, 7] },
        ];
        for mask in masks {
            let left_out = |mask: &Mask, row: usize, column: usize, columns: usize| {
                let mut x = vec![0.0; columns];
                mask.cover(Isa::detect(), row, 0..columns, 1.0, &mut x);
                x[column] == 1.0
            };
            let turned = mask.transposed([M, N]);
            for (i, j) in (0..M).flat_map(|i| (0..N).map(move |j| (i, j))) {
                assert_eq!(left_out(&mask, i, j, N), left_out(&turned, j, i, M), "({i}, {j}) of {mask:?}");
            }
        }
    }
}
