//! Every stamped loop gives the same bits on every instruction-set level, and those of its definition.

use proptest::collection::vec;
use proptest::prelude::*;
use selfsame_kernels::elementwise::{self, Binary, Compare, Unary};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::{lanes, reference};

/// Edges, everyday numbers, and random bits; NaNs included.
fn number() -> impl Strategy<Value = f64> {
    let edges = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::MIN_POSITIVE,
        -5e-324,
        f64::MAX,
        f64::from(f32::MAX),
        f64::from(f32::MIN_POSITIVE),
        1e-45,
        88.72,
        -103.9,
        709.78,
        -745.1,
        131072.0,
        1e30,
    ];
    prop_oneof![
        1 => proptest::sample::select(edges),
        3 => -4.0..4.0,
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => any::<u32>().prop_map(|b| f64::from(f32::from_bits(b))),
    ]
}

fn bits<T: Real>(y: &[T]) -> Vec<u64> {
    y.iter().map(|y| y.canonical_bits()).collect()
}

fn elementwise_loops<T: Real>(a: &[f64], b: &[f64]) -> Result<(), TestCaseError> {
    let a: Vec<T> = a.iter().map(|&v| T::from_f64(v)).collect();
    let b: Vec<T> = b.iter().map(|&v| T::from_f64(v)).collect();
    let (n, scalar) = (a.len(), b[0]);
    let mut y = vec![T::ZERO; n];
    let mut mask = vec![0u8; n];
    for isa in Isa::available() {
        for &op in Unary::ALL {
            elementwise::unary(isa, op, &a, &mut y);
            let want: Vec<T> = a.iter().map(|&a| op.apply(a)).collect();
            prop_assert_eq!(bits(&y), bits(&want), "{} {}", op.name(), isa);
        }
        for &op in Binary::ALL {
            elementwise::binary(isa, op, &a, &b, &mut y);
            let want: Vec<T> = a.iter().zip(&b).map(|(&a, &b)| op.apply(a, b)).collect();
            prop_assert_eq!(bits(&y), bits(&want), "{} {}", op.name(), isa);
            elementwise::binary_scalar(isa, op, &a, scalar, &mut y);
            let want: Vec<T> = a.iter().map(|&a| op.apply(a, scalar)).collect();
            prop_assert_eq!(bits(&y), bits(&want), "{} with a scalar, {}", op.name(), isa);
        }
        for &op in Compare::ALL {
            elementwise::compare(isa, op, &a, &b, &mut mask);
            let want: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| u8::from(op.apply(a, b))).collect();
            prop_assert_eq!(&mask, &want, "{} {}", op.name(), isa);
            elementwise::select(isa, &mask, &a, &b, &mut y);
            let want: Vec<T> = (0..n).map(|i| if mask[i] != 0 { a[i] } else { b[i] }).collect();
            prop_assert_eq!(bits(&y), bits(&want));
            elementwise::compare_scalar(isa, op, &a, scalar, &mut mask);
            let want: Vec<u8> = a.iter().map(|&a| u8::from(op.apply(a, scalar))).collect();
            prop_assert_eq!(&mask, &want, "{} with a scalar, {}", op.name(), isa);
        }
        y.copy_from_slice(&b);
        elementwise::axpy(isa, scalar, &a, &mut y);
        elementwise::add_assign(isa, &a, &mut y);
        elementwise::scale(isa, scalar, &mut y);
        let want: Vec<T> = (0..n).map(|i| (Real::mul_add(scalar, a[i], b[i]) + a[i]) * scalar).collect();
        prop_assert_eq!(bits(&y), bits(&want));
        elementwise::mul_add(isa, &a, &b, &b, &mut y);
        let want: Vec<T> = (0..n).map(|i| Real::mul_add(a[i], b[i], b[i])).collect();
        prop_assert_eq!(bits(&y), bits(&want));
        elementwise::clamp(isa, -T::ONE, T::HALF, &a, &mut y);
        let want: Vec<T> = a.iter().map(|&a| Real::clamp(a, -T::ONE, T::HALF)).collect();
        prop_assert_eq!(bits(&y), bits(&want));
        for scale in [T::ONE, b[n - 1]] {
            let want: Vec<T> = a.iter().map(|&a| Real::exp(Real::mul_add(a, scale, -scalar))).collect();
            lanes::exp_fma(isa, &a, scale, scalar, &mut y);
            prop_assert_eq!(bits(&y), bits(&want), "{}", isa);
            y.copy_from_slice(&a);
            lanes::exp_fma_in_place(isa, scale, scalar, &mut y);
            prop_assert_eq!(bits(&y), bits(&want), "in place, {}", isa);
        }
    }
    Ok(())
}

fn lane_reductions<T: Real>(a: &[f64], b: &[f64]) -> Result<(), TestCaseError> {
    let a: Vec<T> = a.iter().map(|&v| T::from_f64(v)).collect();
    let b: Vec<T> = b.iter().map(|&v| T::from_f64(v)).collect();
    let centre = T::from_f64(0.3);
    let want = [
        reference::lane_sum(&a),
        reference::lane_dot(&a, &b),
        reference::lane_sum_sq(&a),
        reference::lane_sum_sq_centred(&a, centre),
        reference::lane_sum_exp(&a, centre),
        reference::lane_max(&a),
        reference::lane_min(&a),
        reference::norm_sq(&a),
    ];
    for isa in Isa::available() {
        let got = [
            lanes::sum(isa, &a),
            lanes::dot(isa, &a, &b),
            lanes::sum_sq(isa, &a),
            lanes::sum_sq_centred(isa, &a, centre),
            lanes::sum_exp(isa, &a, centre),
            lanes::max(isa, &a),
            lanes::min(isa, &a),
            lanes::norm_sq(isa, &a),
        ];
        prop_assert_eq!(bits(&got), bits(&want), "{}", isa);
    }
    Ok(())
}

fn pair(len: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    len.prop_flat_map(|n| (vec(number(), n), vec(number(), n)))
}

fn tame_pair(len: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    len.prop_flat_map(|n| (vec(-2.0..2.0, n), vec(-2.0..2.0, n)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn elementwise_loops_are_their_definition((a, b) in pair(1..100)) {
        elementwise_loops::<f32>(&a, &b)?;
        elementwise_loops::<f64>(&a, &b)?;
    }

    #[test]
    fn lane_reductions_are_their_reference((a, b) in tame_pair(0..200)) {
        lane_reductions::<f32>(&a, &b)?;
        lane_reductions::<f64>(&a, &b)?;
    }

    #[test]
    fn lane_reductions_of_edges_are_their_reference((a, b) in pair(0..60)) {
        lane_reductions::<f32>(&a, &b)?;
        lane_reductions::<f64>(&a, &b)?;
    }
}

#[test]
fn norm_of_several_chunks_is_the_reference() {
    for len in [4095, 4096, 4097, 5 * 4096 + 7] {
        let x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1009) as f32 / 100.0 - 5.0).collect();
        for isa in Isa::available() {
            assert_eq!(lanes::norm_sq(isa, &x).to_bits(), reference::norm_sq(&x).to_bits());
        }
    }
}

#[test]
fn exponentials_of_f32_of_every_size_are_their_definition() {
    const OF_EACH: u32 = 37;
    for high in 0..=u32::from(u16::MAX) {
        let x: Vec<f32> = (0..OF_EACH).map(|i| f32::from_bits((high << 16) | (i * 40503 % 65536))).collect();
        let want: Vec<f32> = x.iter().map(|&x| Real::exp(x)).collect();
        let mut y = vec![0.0; x.len()];
        for isa in Isa::available() {
            lanes::exp_fma(isa, &x, 1.0, 0.0, &mut y);
            assert_eq!(bits(&y), bits(&want), "{isa}");
        }
    }
}
