//! Test cases of the kernels of order along an axis.

use super::*;
use crate::case::{Case, exactly, noise};
use std::cmp::Ordering;

/// Rows with ties, both zeros, NaNs of both signs, infinities and a subnormal.
fn mixed(n: usize, seed: u64) -> Vec<f32> {
    const SPECIAL: [f32; 8] = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40];
    let values = noise(n, seed);
    let special = |(i, x): (usize, f32)| match i % 5 {
        3 => SPECIAL[i / 5 % SPECIAL.len()],
        4 => (x * 4.0).floor(),
        _ => x,
    };
    values.into_iter().enumerate().map(special).collect()
}

/// The total order, said with comparisons alone.
fn order(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The positions of a row in order.
fn sorted(row: &[f32], descending: bool) -> Vec<u32> {
    let mut positions: Vec<u32> = (0..row.len() as u32).collect();
    let value = |i: u32| row[i as usize];
    positions.sort_by(|&i, &j| if descending { order(value(j), value(i)) } else { order(value(i), value(j)) });
    positions
}

/// The values and positions of the first `k` of each row.
fn first(x: &[f32], cols: usize, k: usize, descending: bool) -> (Vec<f32>, Vec<i64>) {
    let pairs = x.chunks(cols).flat_map(|row| {
        let positions = sorted(row, descending).into_iter().take(k);
        positions.map(|i| (row[i as usize], i64::from(i))).collect::<Vec<_>>()
    });
    pairs.unzip()
}

pub(super) fn sort_rows_cases() -> Vec<Case> {
    let case = |(n, cols, k, descending): (usize, usize, usize, bool)| {
        let x = mixed(n * cols, 21);
        let (values, positions) = first(&x, cols, k, descending);
        sort_rows::TestCase {
            x,
            values: exactly(values),
            positions: exactly(positions),
            rows: n as u32,
            cols: cols as u32,
            k: k as u32,
            descending: descending.into(),
        }
        .named(format!("{k} of {n} x {cols}, descending: {descending}"))
    };
    let shapes = [
        (1, 1, 1, false),
        (3, 2, 2, true),
        (2, 40, 40, false),
        (2, 64, 64, true),
        (3, 65, 65, true),
        (2, 129, 5, true),
        (1, 300, 300, false),
        (1, 1500, 7, false),
    ];
    shapes.map(case).into()
}

/// Runs of the ranks of one row, `kept` of each, filled up.
fn runs(row: &[f32], run: usize, kept: usize, descending: bool) -> Vec<u64> {
    let ranks_of = |(at, part): (usize, &[f32])| {
        let ranks = sorted(part, descending).into_iter();
        let mut ranks: Vec<u64> =
            ranks.map(|i| rank(part[i as usize], (at * run) as u32 + i, flip(descending.into()))).collect();
        ranks.resize(kept, PAD);
        ranks
    };
    row.chunks(run).enumerate().flat_map(ranks_of).collect()
}

pub(super) fn sort_runs_cases() -> Vec<Case> {
    let case = |(n, cols, kept, descending): (usize, usize, usize, bool)| {
        let x = mixed(n * cols, 22);
        let ranks = x.chunks(cols).flat_map(|row| runs(row, RUN as usize, kept, descending)).collect();
        sort_runs::TestCase {
            x,
            ranks: exactly(ranks),
            rows: n as u32,
            cols: cols as u32,
            kept: kept as u32,
            descending: descending.into(),
        }
        .named(format!("{n} x {cols}, {kept} kept, descending: {descending}"))
    };
    [(1, 4097, RUN as usize, false), (2, 700, 100, true)].map(case).into()
}

pub(super) fn merge_runs_cases() -> Vec<Case> {
    let case = |(n, cols, run, kept): (usize, usize, usize, usize)| {
        let x = mixed(n * cols, 23);
        let from: Vec<u64> = x.chunks(cols).flat_map(|row| runs(row, run, run, true)).collect();
        let runs = cols.div_ceil(run);
        let merge = |pair: &[u64]| {
            let mut ranks = pair.to_vec();
            ranks.sort_unstable();
            ranks.resize(kept, PAD);
            ranks
        };
        let to = from.chunks(runs * run).flat_map(|row| row.chunks(2 * run).flat_map(merge)).collect();
        let (rows, runs, run, kept) = (n as u32, runs as u32, run as u32, kept as u32);
        merge_runs::TestCase { from, to: exactly(to), rows, runs, run, kept }
            .named(format!("{rows} x {runs} runs of {run}, {kept} kept"))
    };
    [(2, 33, 10, 20), (1, 5, 8, 16), (2, 48, 8, 8), (1, 2700, 900, 1800), (1, 3, 1, 2)].map(case).into()
}

pub(super) fn unpack_ranks_cases() -> Vec<Case> {
    let case = |(n, cols, k): (usize, usize, usize)| {
        let x = mixed(n * cols, 24);
        let len = cols + 3;
        let ranks = x.chunks(cols).flat_map(|row| runs(row, cols, len, false)).collect();
        let (values, positions) = first(&x, cols, k, false);
        let (values, positions) = (exactly(values), exactly(positions));
        let (rows, cols, len, k) = (n as u32, cols as u32, len as u32, k as u32);
        unpack_ranks::TestCase { x, ranks, values, positions, rows, cols, len, k }
            .named(format!("{k} of {rows} x {cols}"))
    };
    [(1, 1, 1), (3, 150, 100), (2, 7, 3)].map(case).into()
}

/// Chains along the middle axis: each one's first element, all of step `inner`.
fn chains([outer, len, inner]: [usize; 3]) -> impl Iterator<Item = usize> {
    (0..outer * inner).map(move |i| i / inner * len * inner + i % inner)
}

const AXES: [[usize; 3]; 7] = [[1, 1, 1], [3, 100, 1], [20, 7, 1], [1, 33, 1], [2, 9, 5], [1, 40, 300], [4, 1, 3]];

fn extrema(descending: bool, make: impl Fn(Vec<f32>, Vec<i64>, [u32; 3]) -> Case) -> Vec<Case> {
    let case = |shape: [usize; 3]| {
        let x = mixed(shape.iter().product(), 25);
        let extremum = |first: usize| {
            let chain: Vec<f32> = x[first..].iter().step_by(shape[2]).take(shape[1]).copied().collect();
            i64::from(sorted(&chain, descending)[0])
        };
        let position = chains(shape).map(extremum).collect();
        make(x, position, shape.map(|extent| extent as u32))
    };
    AXES.map(case).into()
}

pub(super) fn argmax_cases() -> Vec<Case> {
    extrema(true, |x, position, [outer, len, inner]| {
        argmax::TestCase { x, position: exactly(position), outer, len, inner }
            .named(format!("[{outer}, {len}, {inner}]"))
    })
}

pub(super) fn argmin_cases() -> Vec<Case> {
    extrema(false, |x, position, [outer, len, inner]| {
        argmin::TestCase { x, position: exactly(position), outer, len, inner }
            .named(format!("[{outer}, {len}, {inner}]"))
    })
}

fn running_sums(x: &[f32], shape: [usize; 3]) -> Vec<f32> {
    let mut y = x.to_vec();
    for first in chains(shape) {
        for j in 1..shape[1] {
            y[first + j * shape[2]] += y[first + (j - 1) * shape[2]];
        }
    }
    y
}

pub(super) fn cumsum_cases() -> Vec<Case> {
    let case = |shape: [usize; 3]| {
        let mut x = noise(shape.iter().product(), 26);
        x[0] = -0.0;
        let y = exactly(running_sums(&x, shape));
        let [outer, len, inner] = shape.map(|extent| extent as u32);
        cumsum::TestCase { x, y, outer, len, inner }.named(format!("{shape:?}"))
    };
    AXES.map(case).into()
}

pub(super) fn cumsum_rows_cases() -> Vec<Case> {
    let case = |(rows, cols): (usize, usize)| {
        let mut x = noise(rows * cols, 27);
        x[0] = -0.0;
        let y = exactly(running_sums(&x, [rows, cols, 1]));
        cumsum_rows::TestCase { x, y, rows: rows as u32, cols: cols as u32 }.named(format!("{rows} x {cols}"))
    };
    [(1, 1), (3, 70), (33, 33), (40, 5)].map(case).into()
}
