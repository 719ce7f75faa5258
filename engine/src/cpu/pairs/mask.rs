//! Which pairs are left out.

use super::terms;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
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
