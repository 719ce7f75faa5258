//! Sums over all pairs of rows and their gradients have the same bits on `simt` as on the CPU, through kernels alone.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{
    Excluded, PairRows, PairSide, PairStatistics, PairTerm, pair_rows, pair_rows_and_columns,
    pair_rows_and_columns_grad, pair_rows_grad, pair_rows_symmetric, pair_rows_symmetric_grad,
};
use selfsame_engine::{Array, Device, Result};

const ALL: PairStatistics = PairStatistics { weighted_dot: true, top: true };

const TERMS: [PairTerm; 3] = [
    PairTerm::ExpShifted { scale: 0.15, shift: 2.0 },
    PairTerm::Exp { scale: 0.3 },
    PairTerm::Softplus { scale: -0.15, bias: -0.5 },
];

fn integers(values: impl IntoIterator<Item = i64>, device: &Device) -> Result<Array> {
    let values: Vec<i64> = values.into_iter().collect();
    Array::from_slice(&values, &[values.len()], device)
}

/// Every kind for m rows and n columns: columns that one row names, that several name, and that do not exist.
fn exclusions([m, n]: [usize; 2], device: &Device) -> Result<Vec<Excluded>> {
    let (rows, columns) = (m as i64, n as i64);
    let key = |kept: Option<Array>| {
        Ok::<_, selfsame_engine::Error>(Excluded::SameKey {
            rows: integers((0..rows).map(|i| i * i % 7), device)?,
            columns: integers((0..columns).map(|j| j * j % 5), device)?,
            kept,
        })
    };
    let mut lists = Vec::new();
    let mut starts = vec![0];
    for i in 0..rows {
        lists.extend((-1..columns + 2).filter(|j| (i * 3 + j).rem_euclid(11) == 4));
        starts.push(lists.len() as i64);
    }
    Ok(vec![
        Excluded::None,
        Excluded::Own(integers((0..rows).map(|i| if i % 3 == 1 { -1 } else { i }), device)?),
        Excluded::Own(integers((0..rows).map(|i| i / 2 * 3), device)?),
        key(None)?,
        key(Some(integers((0..rows).map(|i| i ^ 1), device)?))?,
        key(Some(integers((0..rows).map(|i| i / 4), device)?))?,
        Excluded::Listed { starts: integers(starts, device)?, columns: integers(lists, device)? },
    ])
}

/// The same both ways for n rows against themselves.
fn symmetric_exclusions(n: usize, device: &Device) -> Result<Vec<Excluded>> {
    let n = n as i64;
    let keys = || integers((0..n).map(|i| i % 7), device);
    Ok(vec![
        Excluded::None,
        Excluded::Own(integers(0..n, device)?),
        Excluded::SameKey {
            rows: keys()?,
            columns: keys()?,
            kept: Some(integers(
                (0..n).map(|i| if i / 14 * 14 + 14 <= n { i / 14 * 14 + (i + 7) % 14 } else { -1 }),
                device,
            )?),
        },
        Excluded::Listed { starts: integers(0..=n, device)?, columns: integers((0..n).rev(), device)? },
    ])
}

fn all_of(rows: PairRows) -> [Array; 4] {
    [rows.value, rows.sum, rows.weighted_dot.expect("asked for"), rows.top.expect("asked for")]
}

fn both_forms([m, n, d]: [usize; 3], term: PairTerm, excluded: &Excluded, device: &Device) -> Result<Vec<Array>> {
    let (q, k) = (noise(&[m, d], 1, device), noise(&[n, d], 2, device));
    let mut results: Vec<Array> = all_of(pair_rows(&q, &k, term, excluded, ALL)?).into();
    let [rows, columns] = pair_rows_and_columns(&q, &k, term, excluded, ALL)?;
    let (of_rows, of_columns) = (noise(&[m], 3, device), noise(&[n], 4, device));
    let row = PairSide { weight: &of_rows, value: &rows.value };
    let column = PairSide { weight: &of_columns, value: &columns.value };
    results.push(pair_rows_grad(&q, &k, term, excluded, Some(row), None)?);
    results.extend(pair_rows_and_columns_grad(&q, &k, term, excluded, Some(row), Some(column))?);
    results.extend(all_of(rows));
    results.extend(all_of(columns));
    Ok(results)
}

/// Every kind of exclusion and every term. What a kernel reads of exclusions does not depend on its term: unless `all`
/// combinations are asked for, each kind meets one term, and each term some kinds.
#[track_caller]
fn assert_same(dims: [usize; 3], all: bool) {
    for (at, term) in TERMS.into_iter().enumerate() {
        same(|device| {
            let mut results = Vec::new();
            for (kind, excluded) in exclusions([dims[0], dims[1]], device)?.into_iter().enumerate() {
                if all || kind % TERMS.len() == at {
                    results.extend(both_forms(dims, term, &excluded, device)?);
                }
            }
            Ok(results)
        });
    }
}

#[test]
fn several_blocks_of_rows_and_of_columns() {
    assert_same([66, 514, 2], false);
}

/// Every kind with every term in one block, where that is cheap.
#[test]
fn exclusions_of_every_kind() {
    assert_same([9, 20, 3], true);
}

/// The kernel depends on the term and on the width: each pair of them, with one kind of exclusion.
#[test]
fn rows_of_each_width_of_the_gradient() {
    for (at, dims) in [[3, 70, 128], [70, 3, 130], [3, 70, 260], [3, 5, 513]].into_iter().enumerate() {
        for (next, term) in TERMS.into_iter().enumerate() {
            same(|device| {
                let excluded = exclusions([dims[0], dims[1]], device)?.swap_remove((at + 2 * next) % 7);
                both_forms(dims, term, &excluded, device)
            });
        }
    }
}

#[test]
fn nothing_on_one_side_or_in_a_row() {
    for dims in [[3, 0, 2], [0, 3, 2], [4, 3, 0], [0, 0, 0]] {
        assert_same(dims, true);
    }
}

#[test]
fn rows_that_are_the_columns() {
    for (at, term) in TERMS.into_iter().enumerate() {
        same(|device| {
            let mut results = Vec::new();
            for n in [3, 66, 514] {
                let z = noise(&[n, 3], 1, device);
                let kinds = symmetric_exclusions(n, device)?.into_iter().enumerate();
                // Of large problems each term has one kind and the next term the next.
                for (_, excluded) in kinds.filter(|(kind, _)| n < 66 || kind % TERMS.len() == at) {
                    let rows = pair_rows_symmetric(&z, term, &excluded, ALL)?;
                    let weight = noise(&[n], 2, device);
                    let side = PairSide { weight: &weight, value: &rows.value };
                    results.push(pair_rows_symmetric_grad(&z, term, &excluded, side)?);
                    results.extend(all_of(rows));
                }
            }
            Ok(results)
        });
    }
}

#[test]
fn dot_products_that_are_no_numbers() {
    const ROWS: [f32; 6] = [1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    const COLUMNS: [f32; 5] = [f32::NEG_INFINITY, f32::NAN, -2.0, f32::INFINITY, 1.0];
    for term in TERMS {
        same(|device| {
            let (q, k) = (Array::from_slice(&ROWS, &[6, 1], device)?, Array::from_slice(&COLUMNS, &[5, 1], device)?);
            let mut results = Vec::new();
            for excluded in exclusions([6, 5], device)? {
                results.extend(pair_rows_and_columns(&q, &k, term, &excluded, ALL)?.map(all_of).concat());
            }
            let below = Array::from_slice(&[f32::NEG_INFINITY, f32::NAN], &[2, 1], device)?;
            let without_top = pair_rows(&q.slice(0, 0, 1)?, &below, term, &Excluded::None, ALL)?;
            assert_eq!(without_top.top.as_ref().expect("asked for").to_vec::<i64>()?, [-1]);
            results.extend(all_of(without_top));
            Ok(results)
        });
    }
}

#[test]
fn what_is_not_asked_for_is_not_returned() {
    let simt = Device::open("simt").unwrap();
    let z = noise(&[3, 2], 1, &simt);
    let rows = pair_rows(&z, &z, TERMS[0], &Excluded::None, PairStatistics::default()).unwrap();
    assert!(rows.weighted_dot.is_none() && rows.top.is_none());
}
