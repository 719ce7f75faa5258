//! Bits against the scalar reference and against the same steps with the matrix of pairs; forms against each other.

use super::*;
use crate::ops::testing::{devices, noise_values};
use crate::ops::{self, Unary};
use selfsame_kernels::reference::{self, PairWeights};

const ALL: PairStatistics = PairStatistics { weighted_dot: true, top: true };

const TERMS: [PairTerm; 3] = [
    PairTerm::ExpShifted { scale: 1.5, shift: 2.0 },
    PairTerm::Exp { scale: 3.0 },
    PairTerm::Softplus { scale: 1.5, bias: -0.5 },
];

/// Values of length about 1, so that dot products are of moderate size.
fn vectors(rows: usize, d: usize, seed: u32) -> Vec<f32> {
    let size = 1.0 / (d as f32).sqrt();
    noise_values(rows * d, seed).into_iter().map(|x| x * size).collect()
}

fn array(values: &[f32], shape: &[usize], device: &Device) -> Array {
    Array::from_slice(values, shape, device).unwrap()
}

fn integers(values: impl IntoIterator<Item = usize>, device: &Device) -> Array {
    let values: Vec<i64> = values.into_iter().map(|x| x as i64).collect();
    Array::from_slice(&values, &[values.len()], device).unwrap()
}

fn floats(x: &Array) -> Vec<u32> {
    x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Whether the pair of a row and a column is left out.
type IsExcluded = Box<dyn Fn(usize, usize) -> bool>;

/// The kinds of exclusion for m rows and n columns, symmetric where m = n, with the same as a function.
fn exclusions([m, n]: [usize; 2], device: &Device) -> Vec<(Excluded, IsExcluded)> {
    let partner = move |i: usize| if i ^ 1 < m.min(n) { i ^ 1 } else { i };
    let kept: Vec<i64> = (0..m).map(|i| if i < m.min(n) { partner(i) as i64 } else { -1 }).collect();
    let lists: Vec<Vec<usize>> =
        (0..m).map(|i| (0..n).filter(|j| (i + j) % 7 == 3 || i + 1 == n - j).collect()).collect();
    let starts = (0..=m).map(|i| lists[..i].iter().map(Vec::len).sum());
    vec![
        (Excluded::None, Box::new(|_, _| false)),
        (Excluded::Own(integers(0..m, device)), Box::new(|i, j| i == j)),
        (
            Excluded::SameKey {
                rows: integers((0..m).map(|i| i * i % 5), device),
                columns: integers((0..n).map(|j| j * j % 5), device),
                kept: Some(Array::from_slice(&kept, &[m], device).unwrap()),
            },
            Box::new(move |i, j| i * i % 5 == j * j % 5 && !(i < m.min(n) && partner(i) == j)),
        ),
        (
            Excluded::Listed { starts: integers(starts, device), columns: integers(lists.concat(), device) },
            Box::new(move |i, j| (i + j) % 7 == 3 || i + 1 == n - j),
        ),
    ]
}

fn assert_rows(found: &PairRows, expected: &[reference::PairRow<f32>], what: &str) {
    let bits = |of: &dyn Fn(&reference::PairRow<f32>) -> f32| -> Vec<u32> {
        expected.iter().map(|row| of(row).to_bits()).collect()
    };
    assert_eq!(floats(&found.value), bits(&|row| row.value), "value, {what}");
    assert_eq!(floats(&found.sum), bits(&|row| row.sum), "sum, {what}");
    assert_eq!(floats(found.weighted_dot.as_ref().unwrap()), bits(&|row| row.weighted_dot), "weighted dot, {what}");
    let top: Vec<i64> = expected.iter().map(|row| row.top.map_or(-1, |at| at as i64)).collect();
    assert_eq!(found.top.as_ref().unwrap().to_vec::<i64>().unwrap(), top, "top, {what}");
}

/// Weights of a side as a backward would make them.
fn weights(rows: &[reference::PairRow<f32>], term: PairTerm, seed: u32) -> (Vec<f32>, Vec<f32>) {
    let upstream = noise_values(rows.len(), seed);
    let is_shifted = matches!(term, PairTerm::ExpShifted { .. });
    let weight = upstream.iter().zip(rows).map(|(g, row)| if is_shifted && row.sum > 0.0 { g / row.sum } else { *g });
    (weight.collect(), rows.iter().map(|row| row.value).collect())
}

fn assert_reference(device: &Device, dims: [usize; 3], terms: &[PairTerm], masks: std::ops::Range<usize>) {
    let [m, n, d] = dims;
    let (q, k) = (vectors(m, d, 1), vectors(n, d, 2));
    let (rows, columns) = (array(&q, &[m, d], device), array(&k, &[n, d], device));
    for &term in terms {
        for (number, (excluded, is_out)) in exclusions([m, n], device).into_iter().enumerate() {
            if !masks.contains(&number) {
                continue;
            }
            let what = format!("{dims:?} {term:?} exclusion {number} on {device:?}");
            let of_rows = reference::pair_rows(dims, &q, &k, term.cast(), &is_out);
            let of_columns = reference::pair_rows([n, m, d], &k, &q, term.cast(), |j, i| is_out(i, j));
            assert_rows(&pair_rows(&rows, &columns, term, &excluded, ALL).unwrap(), &of_rows, &what);
            let both = pair_rows_and_columns(&rows, &columns, term, &excluded, ALL).unwrap();
            assert_rows(&both[0], &of_rows, &what);
            assert_rows(&both[1], &of_columns, &what);

            let (row, column) = (weights(&of_rows, term, 3), weights(&of_columns, term, 4));
            let arrays = |(weight, value): &(Vec<f32>, Vec<f32>)| {
                [array(weight, &[weight.len()], device), array(value, &[value.len()], device)]
            };
            let ([row_weight, row_value], [column_weight, column_value]) = (arrays(&row), arrays(&column));
            let row_side = PairSide { weight: &row_weight, value: &row_value };
            let column_side = PairSide { weight: &column_weight, value: &column_value };
            let row = PairWeights { weight: &row.0, value: &row.1 };
            let column = PairWeights { weight: &column.0, value: &column.1 };
            let term_r = term.cast();
            let dq = reference::pair_rows_grad(dims, &q, &k, term_r, row, column, &is_out);
            let dk = reference::pair_rows_grad([n, m, d], &k, &q, term_r, column, row, |j, i| is_out(i, j));
            let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
            let found = pair_rows_grad(&rows, &columns, term, &excluded, Some(row_side), Some(column_side)).unwrap();
            assert_eq!(floats(&found), bits(&dq), "gradient of rows alone, {what}");
            let both = pair_rows_and_columns_grad(&rows, &columns, term, &excluded, Some(row_side), Some(column_side))
                .unwrap();
            assert_eq!(floats(&both[0]), bits(&dq), "gradient of rows, {what}");
            assert_eq!(floats(&both[1]), bits(&dk), "gradient of columns, {what}");
        }
    }
}

#[test]
fn small_problems_have_the_bits_of_the_reference() {
    let device = Device::cpu_with(2).unwrap();
    for dims in [[1, 1, 1], [2, 2, 1], [15, 17, 3], [17, 2, 128], [33, 40, 5], [3, 0, 2], [0, 3, 2], [4, 3, 0]] {
        assert_reference(&device, dims, &TERMS, 0..4);
    }
}

#[test]
fn several_blocks_have_the_bits_of_the_reference() {
    let device = Device::cpu_with(3).unwrap();
    assert_reference(&device, [511, 1030, 3], &TERMS, 1..2);
    assert_reference(&device, [1030, 513, 3], &TERMS, 2..4);
    assert_reference(&device, [40, 530, 513], &TERMS, 1..2);
    // Columns that are packed tile by tile.
    assert_reference(&device, [16, 1030, 1100], &TERMS[..1], 1..2);
}

#[test]
fn threads_and_instruction_sets_leave_the_bits() {
    for device in devices() {
        assert_reference(&device, [530, 600, 37], &TERMS, 1..2);
    }
}

#[test]
fn the_symmetric_form_has_the_bits_of_the_rows() {
    for (threads, n, d) in [(1, 1, 1), (2, 17, 3), (1, 1100, 5), (2, 2600, 3), (8, 1540, 20)] {
        let device = Device::cpu_with(threads).unwrap();
        let z = array(&vectors(n, d, 5), &[n, d], &device);
        for term in TERMS {
            for (excluded, _) in exclusions([n, n], &device) {
                let symmetric = pair_rows_symmetric(&z, term, &excluded, ALL).unwrap();
                let rows = pair_rows(&z, &z, term, &excluded, ALL).unwrap();
                assert_eq!(floats(&symmetric.value), floats(&rows.value), "{n} {term:?}");
                assert_eq!(floats(&symmetric.sum), floats(&rows.sum));
                assert_eq!(floats(&symmetric.weighted_dot.unwrap()), floats(&rows.weighted_dot.unwrap()));
                assert_eq!(symmetric.top.unwrap().to_vec::<i64>().unwrap(), rows.top.unwrap().to_vec::<i64>().unwrap());
                let weight = array(&noise_values(n, 6), &[n], &device);
                let side = PairSide { weight: &weight, value: &rows.value };
                let dz = pair_rows_symmetric_grad(&z, term, &excluded, side).unwrap();
                let by_rows = pair_rows_grad(&z, &z, term, &excluded, Some(side), Some(side)).unwrap();
                assert_eq!(floats(&dz), floats(&by_rows), "gradient, {n} {term:?}");
            }
        }
    }
}

/// The same steps with the matrix of pairs in memory, from the engine's other primitives: one block of columns.
#[test]
fn one_block_has_the_bits_of_the_composed_twin() {
    let device = Device::cpu_with(2).unwrap();
    let (m, n, d) = (300, 512, 64);
    let (q, k) = (array(&vectors(m, d, 7), &[m, d], &device), array(&vectors(n, d, 8), &[n, d], &device));
    let (scale, weight) = (2.0, array(&noise_values(m, 9), &[m], &device));
    let dots = ops::matmul(&q, &k.transpose(0, 1).unwrap()).unwrap();
    let x = ops::binary_scalar(ops::Binary::Mul, &dots, scale).unwrap();
    let expected = ops::log_sum_exp(&x).unwrap();
    let found = pair_rows(&q, &k, PairTerm::Exp { scale }, &Excluded::None, ALL).unwrap();
    assert_eq!(floats(&found.value), floats(&expected));

    let shifted = ops::sub(&x, &expected.reshape(&[m, 1]).unwrap()).unwrap();
    let share = ops::unary(Unary::Exp, &shifted).unwrap();
    let g = ops::mul(&share, &weight.reshape(&[m, 1]).unwrap()).unwrap();
    let dq = ops::binary_scalar(ops::Binary::Mul, &ops::matmul(&g, &k).unwrap(), scale).unwrap();
    let side = PairSide { weight: &weight, value: &found.value };
    let found = pair_rows_grad(&q, &k, PairTerm::Exp { scale }, &Excluded::None, Some(side), None).unwrap();
    assert_eq!(floats(&found), floats(&dq));
}

#[test]
fn rows_of_a_rank_have_their_results_in_the_whole() {
    let device = Device::cpu_with(2).unwrap();
    let (n, d) = (1100, 6);
    let z = array(&vectors(n, d, 10), &[n, d], &device);
    for term in TERMS {
        let whole = pair_rows_symmetric(&z, term, &Excluded::Own(integers(0..n, &device)), ALL).unwrap();
        let weight = array(&noise_values(n, 11), &[n], &device);
        let side = PairSide { weight: &weight, value: &whole.value };
        let dz = pair_rows_symmetric_grad(&z, term, &Excluded::Own(integers(0..n, &device)), side).unwrap();
        for (from, to) in [(0, 1), (300, 700), (1050, 1100)] {
            let part = z.slice(0, from, to).unwrap();
            let own = Excluded::Own(integers(from..to, &device));
            let found = pair_rows(&part, &z, term, &own, ALL).unwrap();
            assert_eq!(floats(&found.value), floats(&whole.value)[from..to]);
            let (weight, value) = (weight.slice(0, from, to).unwrap(), found.value);
            let row = PairSide { weight: &weight, value: &value };
            let found = pair_rows_grad(&part, &z, term, &own, Some(row), Some(side)).unwrap();
            assert_eq!(floats(&found), floats(&dz)[from * d..to * d]);
        }
    }
}

#[test]
fn f64_is_near_f32() {
    let device = Device::cpu_with(2).unwrap();
    let z = array(&vectors(700, 9, 12), &[700, 9], &device);
    let wide = ops::cast(&z, crate::DType::F64).unwrap();
    for term in TERMS {
        let narrow = pair_rows_symmetric(&z, term, &Excluded::None, ALL).unwrap();
        let wide = pair_rows_symmetric(&wide, term, &Excluded::None, ALL).unwrap();
        let (a, b) = (narrow.value.to_vec::<f32>().unwrap(), wide.value.to_vec::<f64>().unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5 * b.abs().max(1.0)), "{term:?}");
        assert_eq!(narrow.top.unwrap().to_vec::<i64>().unwrap(), wide.top.unwrap().to_vec::<i64>().unwrap());
    }
}

/// Rows and columns in bf16, their bits, and the same problem's results by the reference.
#[test]
fn bf16_rows_have_the_bits_of_the_reference() {
    let mut problems: Vec<(Device, [usize; 3])> = devices().into_iter().map(|device| (device, [70, 530, 37])).collect();
    let device = Device::cpu_with(2).unwrap();
    problems.extend(
        [[1, 1, 1], [3, 0, 2], [4, 3, 0], [33, 40, 5], [1030, 513, 3], [40, 50, 600]].map(|d| (device.clone(), d)),
    );
    for (device, dims @ [m, n, d]) in problems {
        let rounded = |values: Vec<f32>| -> Vec<bf16> { values.into_iter().map(bf16::from_f32).collect() };
        let (q, k) = (rounded(vectors(m, d, 1)), rounded(vectors(n, d, 2)));
        let rows = Array::from_slice(&q, &[m, d], &device).unwrap();
        let columns = Array::from_slice(&k, &[n, d], &device).unwrap();
        let bits = |x: &[bf16]| -> Vec<u16> { x.iter().map(|x| x.to_bits()).collect() };
        let (q, k) = (bits(&q), bits(&k));
        for term in TERMS {
            let (excluded, is_out) = exclusions([m, n], &device).swap_remove(2);
            let what = format!("{dims:?} {term:?} on {device:?}");
            let of_rows = reference::pair_rows_bf16(dims, &q, &k, term.cast(), &is_out);
            let of_columns = reference::pair_rows_bf16([n, m, d], &k, &q, term.cast(), |j, i| is_out(i, j));
            assert_rows(&pair_rows(&rows, &columns, term, &excluded, ALL).unwrap(), &of_rows, &what);
            let both = pair_rows_and_columns(&rows, &columns, term, &excluded, ALL).unwrap();
            assert_rows(&both[0], &of_rows, &what);
            assert_rows(&both[1], &of_columns, &what);

            let (row, column) = (weights(&of_rows, term, 3), weights(&of_columns, term, 4));
            let arrays = [&row, &column].map(|(weight, value)| [weight, value].map(|x| array(x, &[x.len()], &device)));
            let [row_side, column_side] = arrays.each_ref().map(|[weight, value]| Some(PairSide { weight, value }));
            let [row, column] = [&row, &column].map(|(weight, value)| PairWeights { weight, value });
            let dq = reference::pair_rows_grad_bf16(dims, &q, &k, term.cast(), row, column, &is_out);
            let dk = reference::pair_rows_grad_bf16([n, m, d], &k, &q, term.cast(), column, row, |j, i| is_out(i, j));
            let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
            let found = pair_rows_grad(&rows, &columns, term, &excluded, row_side, column_side).unwrap();
            assert_eq!(floats(&found), bits(&dq), "gradient of rows alone, {what}");
            let both = pair_rows_and_columns_grad(&rows, &columns, term, &excluded, row_side, column_side).unwrap();
            assert_eq!(floats(&both[0]), bits(&dq), "gradient of rows, {what}");
            assert_eq!(floats(&both[1]), bits(&dk), "gradient of columns, {what}");
        }
    }
}

#[test]
fn the_symmetric_form_of_bf16_rows_has_the_bits_of_the_rows() {
    for (threads, n, d) in [(1, 40, 3), (2, 1540, 20), (3, 2100, 5)] {
        let device = Device::cpu_with(threads).unwrap();
        let z = ops::cast(&array(&vectors(n, d, 5), &[n, d], &device), DType::BF16).unwrap();
        for term in TERMS {
            let (excluded, _) = exclusions([n, n], &device).swap_remove(1);
            let symmetric = pair_rows_symmetric(&z, term, &excluded, ALL).unwrap();
            let rows = pair_rows(&z, &z, term, &excluded, ALL).unwrap();
            assert_eq!(floats(&symmetric.value), floats(&rows.value), "{n} {term:?}");
            assert_eq!(floats(&symmetric.weighted_dot.unwrap()), floats(&rows.weighted_dot.unwrap()));
            let weight = array(&noise_values(n, 6), &[n], &device);
            let side = PairSide { weight: &weight, value: &rows.value };
            let dz = pair_rows_symmetric_grad(&z, term, &excluded, side).unwrap();
            let by_rows = pair_rows_grad(&z, &z, term, &excluded, Some(side), Some(side)).unwrap();
            assert_eq!(floats(&dz), floats(&by_rows), "gradient, {n} {term:?}");
        }
    }
}

/// Infinite and undefined dot products of pairs that are left out reach no result, in any form.
#[test]
fn an_excluded_pair_adds_nothing_whatever_its_dot_product() {
    let device = Device::cpu_with(2).unwrap();
    let (n, d) = (530, 2);
    for term in TERMS {
        for wild in [f32::INFINITY, f32::NAN] {
            // Row 7 is wild and meets only itself.
            let mut values = vectors(n, d, 15);
            values[7 * d] = wild;
            let z = array(&values, &[n, d], &device);
            let key = |i: usize| i64::from(i == 7);
            let lists: Vec<Vec<usize>> =
                (0..n).map(|i| if key(i) == 1 { (0..n).filter(|j| *j != 7).collect() } else { vec![7] }).collect();
            let starts = (0..=n).map(|i| lists[..i].iter().map(Vec::len).sum());
            let excluded =
                Excluded::Listed { starts: integers(starts, &device), columns: integers(lists.concat(), &device) };
            let forms = [
                pair_rows_symmetric(&z, term, &excluded, ALL).unwrap(),
                pair_rows(&z, &z, term, &excluded, ALL).unwrap(),
                pair_rows_and_columns(&z, &z, term, &excluded, ALL).unwrap()[1].clone(),
            ];
            for found in forms {
                let weighted = found.weighted_dot.unwrap().to_vec::<f32>().unwrap();
                assert!(weighted.iter().enumerate().all(|(i, x)| i == 7 || x.is_finite()), "{term:?} {wild}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu_with(1).unwrap();
    let z = array(&vectors(4, 3, 13), &[4, 3], &device);
    let term = PairTerm::Exp { scale: 1.0 };
    let rows = |excluded: &Excluded| pair_rows(&z, &z, term, excluded, ALL).map(drop);
    let kind = |result: Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(rows(&Excluded::Own(integers(0..3, &device)))), ErrorKind::Shape);
    let list = |starts: &[usize], columns: &[usize]| Excluded::Listed {
        starts: integers(starts.iter().copied(), &device),
        columns: integers(columns.iter().copied(), &device),
    };
    assert!(rows(&list(&[0, 1, 1, 1, 3], &[2, 0, 1])).is_ok());
    assert_eq!(kind(rows(&list(&[0, 1, 1, 1, 3], &[2, 1, 0]))), ErrorKind::Config);
    assert_eq!(kind(rows(&list(&[0, 1, 1, 1, 2], &[2, 0, 1]))), ErrorKind::Config);
    assert_eq!(kind(rows(&list(&[0, 2, 1, 1, 3], &[2, 0, 1]))), ErrorKind::Config);
    let one_way = list(&[0, 1, 1, 1, 1], &[2]);
    assert_eq!(kind(pair_rows_symmetric(&z, term, &one_way, ALL).map(drop)), ErrorKind::Config);
    let narrow = array(&vectors(4, 2, 14), &[4, 2], &device);
    assert_eq!(kind(pair_rows(&z, &narrow, term, &Excluded::None, ALL).map(drop)), ErrorKind::Shape);
    let side = PairSide { weight: &narrow, value: &narrow };
    assert_eq!(kind(pair_rows_symmetric_grad(&z, term, &Excluded::None, side).map(drop)), ErrorKind::Shape);
}
