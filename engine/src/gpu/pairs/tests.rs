//! Every way to split a problem over thread blocks, which its size chooses, gives one result.

use super::*;
use crate::Device;
use crate::ops::testing::noise;
use selfsame_kernels::math::Real;

const ALL: PairStatistics = PairStatistics { weighted_dot: true, top: true };

fn bits(x: &Array) -> Vec<u64> {
    x.to_vec::<f32>().unwrap().into_iter().map(|x| f64::from(x).canonical_bits()).collect()
}

fn assert_same(a: &PairRows, b: &PairRows) {
    assert_eq!(bits(&a.value), bits(&b.value));
    assert_eq!(bits(&a.sum), bits(&b.sum));
    assert_eq!(bits(a.weighted_dot.as_ref().unwrap()), bits(b.weighted_dot.as_ref().unwrap()));
    let top = |rows: &PairRows| rows.top.as_ref().unwrap().to_vec::<i64>().unwrap();
    assert_eq!(top(a), top(b));
}

/// Exclusions of m rows against n columns, for m = n the same both ways.
fn masks([m, n]: [i64; 2]) -> [Mask; 3] {
    let keys = |len: i64| (0..len).map(|i| i % 5).collect::<Vec<i64>>();
    let partner = |i: i64| if (i ^ 5) < n { i ^ 5 } else { -1 };
    [
        Mask::Own((0..m).collect()),
        Mask::same_key(&keys(m), &keys(n), Some((0..m).map(partner).collect())),
        Mask::Listed { starts: (0..=m as usize).collect(), columns: (0..m).map(|i| n - 1 - i).collect() },
    ]
}

#[test]
fn sums_do_not_depend_on_the_split() {
    let simt = Device::open("simt").unwrap();
    let gpu = simt.gpu().unwrap();
    let z = noise(&[1030, 3], 1, &simt);
    let terms = [
        PairTerm::ExpShifted { scale: 0.5, shift: 2.0 },
        PairTerm::Exp { scale: 0.5 },
        PairTerm::Softplus { scale: 0.5, bias: -1.0 },
    ];
    for term in terms {
        for mask in masks([1030; 2]) {
            let pairs = Pairs::new(gpu, [&z, &z], term, &mask).unwrap();
            let by_block = pairs.joined(&pairs.parts(1).unwrap(), ALL).unwrap();
            assert_same(&by_block, &pairs.joined(&pairs.parts(3).unwrap(), ALL).unwrap());
            if pairs.has_symmetric_kernel() {
                assert_same(&by_block, &pairs.joined(&pairs.symmetric_parts().unwrap(), ALL).unwrap());
            }
        }
    }
    let listed = Pairs::new(gpu, [&z, &z], terms[0], &masks([1030; 2])[2]).unwrap();
    let shifted = Pairs::new(gpu, [&z, &z], terms[0], &masks([1030; 2])[0]).unwrap();
    assert!(shifted.has_symmetric_kernel() && !listed.has_symmetric_kernel());
}

#[test]
fn gradients_do_not_depend_on_the_split() {
    let simt = Device::open("simt").unwrap();
    let gpu = simt.gpu().unwrap();
    let columns = noise(&[530, 130], 1, &simt);
    let rows = columns.slice(0, 100, 170).unwrap();
    let (weight, value) = (noise(&[530], 2, &simt), noise(&[530], 3, &simt));
    let (row_weight, row_value) = (weight.slice(0, 0, 70).unwrap(), value.slice(0, 0, 70).unwrap());
    let (row, column) = ([&row_weight, &row_value], [&weight, &value]);
    let terms = [
        PairTerm::ExpShifted { scale: 0.1, shift: 2.0 },
        PairTerm::Exp { scale: 0.1 },
        PairTerm::Softplus { scale: -0.1, bias: -1.0 },
    ];
    for (term, mask) in terms.into_iter().zip(masks([70, 530])) {
        let pairs = Pairs::new(gpu, [&rows, &columns], term, &mask).unwrap();
        let by_block = bits(&pairs.fused_grad(row, column, 1).unwrap());
        assert!(by_block == bits(&pairs.fused_grad(row, column, 2).unwrap()), "{term:?}, all columns at once");
        for at_once in [64, 1024] {
            let by_products = bits(&pairs.grad_by_products(row, column, at_once).unwrap());
            assert!(by_block == by_products, "{term:?}, {at_once} rows at once");
        }
    }
}
