//! Learned temperatures of the contrastive losses: their values, the gradient of the scale, and their split over ranks.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, DType, ErrorKind, Result, ops};
use selfsame_losses::{
    Form, HardNegatives, InfoNce, NtXent, SupCon, hard_negatives_scaled, info_nce_scaled, nt_xent_scaled,
    nt_xent_watched, supcon_scaled,
};
use std::sync::Arc;

/// Images.
const N: usize = 64;

/// The losses, with both ways to give a temperature.
const LOSSES: [&str; 5] = ["nt_xent", "materialised", "info_nce", "supcon", "hard_negatives"];

/// A loss of two views and ids of images.
fn run(
    loss: &str,
    [a, b]: [&Tensor; 2],
    ids: &Array,
    temperature: f64,
    scale: Option<&Tensor>,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    match loss {
        "nt_xent" => nt_xent_scaled(a, b, Some(ids), scale, &NtXent { temperature, form: Form::Streaming }, comm),
        "materialised" => {
            nt_xent_scaled(a, b, Some(ids), scale, &NtXent { temperature, form: Form::Materialised }, comm)
        }
        "info_nce" => {
            let queue = Tensor::constant(ops::cast(&random(70, a.shape()[1], 2), a.dtype())?);
            info_nce_scaled(a, b, &queue, scale, &InfoNce { temperature }, comm)
        }
        "supcon" => supcon_scaled(a, ids, scale, &SupCon { temperature }, comm),
        // Some rows on their floor, which the temperature moves, too.
        _ => hard_negatives_scaled(a, b, scale, &HardNegatives { temperature, beta: 1.0, tau_plus: 0.3 }, comm),
    }
}

fn ids() -> Array {
    labels(&(0..N as i64).map(|i| i * i % 23).collect::<Vec<_>>())
}

#[test]
fn a_learned_scale_has_the_value_of_a_fixed_temperature() {
    let (a, b) = (Tensor::leaf(random(N, 4, 0)), Tensor::leaf(random(N, 4, 1)));
    for loss in LOSSES {
        let scale = scalar(4.0);
        let of = |temperature, scale| run(loss, [&a, &b], &ids(), temperature, scale, &single()).unwrap();
        let fixed = of(0.25, None);
        // The option is not looked at beside a scale, whatever it is.
        let learned = of(f64::NAN, Some(&scale));
        close(value(&learned), value(&fixed));
        all_close(&gradient(&learned, &a), &gradient(&fixed, &a));
        assert!((value(&of(0.5, None)) - value(&fixed)).abs() > 1e-3, "{loss}: the temperature matters");
    }
}

/// With H the mean entropy of softmax(s cosines), L = H + s dL/ds.
#[test]
fn the_gradient_of_the_scale_is_what_the_loss_has_above_the_entropy() {
    let s = 5.0;
    for (dtype, form, tolerance) in [
        (DType::F64, Form::Streaming, 1e-12),
        (DType::F64, Form::Materialised, 1e-12),
        (DType::F32, Form::Streaming, 1e-5),
        (DType::F32, Form::Bf16, 1e-5),
    ] {
        let [a, b] = [0, 1].map(|view| Tensor::constant(ops::cast(&random(N, 4, view), dtype).unwrap()));
        let scale = Tensor::leaf(ops::cast(&array(&[s], &[]), dtype).unwrap());
        let wide = |x: &Array| ops::cast(x, DType::F64).unwrap().item::<f64>().unwrap();
        for ids in [None, Some(ids())] {
            let o = NtXent { form, ..NtXent::default() };
            let loss = nt_xent_scaled(&a, &b, ids.as_ref(), Some(&scale), &o, &single()).unwrap();
            let slope = wide(&loss.backward().unwrap().get(&scale).unwrap().unwrap());
            let watched = NtXent { form: if form == Form::Materialised { Form::Streaming } else { form }, ..o };
            let (same, contrast) = nt_xent_watched(&a, &b, ids.as_ref(), Some(&scale), &watched, &single()).unwrap();
            let (loss, same) = (wide(loss.array()), wide(same.array()));
            assert!((loss - same).abs() <= tolerance * loss, "{loss} and {same}");
            let expected = contrast.entropy + s * slope;
            assert!(slope.abs() > 0.1, "{slope}");
            assert!((loss - expected).abs() <= tolerance * loss, "{form:?} in {dtype}: {loss} and {expected}");
        }
    }
}

#[test]
fn a_scale_of_another_type_or_shape_or_sign_is_refused() {
    let (a, b) = (Tensor::leaf(random(N, 4, 0)), Tensor::leaf(random(N, 4, 1)));
    let narrow = Tensor::leaf(ops::cast(scalar(1.0).array(), DType::F32).unwrap());
    let mut refused = vec![(narrow, ErrorKind::DType), (Tensor::leaf(array(&[1.0], &[1])), ErrorKind::Shape)];
    refused.extend([0.0, -1.0, f64::NAN, f64::INFINITY].map(|number| (scalar(number), ErrorKind::Config)));
    for loss in LOSSES {
        for (scale, kind) in &refused {
            let error = run(loss, [&a, &b], &ids(), 0.5, Some(scale), &single()).unwrap_err();
            assert_eq!(error.kind(), *kind, "{loss}: {error}");
        }
        let error = run(loss, [&a, &b], &ids(), -0.5, None, &single()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{loss}");
    }
}

/// Of rows that meet nothing the logarithm of the sum is -infinity whatever the scale.
#[test]
fn a_scale_of_nothing_has_no_gradient() {
    let scale = scalar(4.0);
    let (q, k) = (Tensor::leaf(random(5, 4, 3)), Tensor::leaf(random(5, 4, 4)));
    let queue = Tensor::constant(Array::zeros(&[0, 4], DType::F64, &device()).unwrap());
    let empty = info_nce_scaled(&q, &k, &queue, Some(&scale), &InfoNce::default(), &single()).unwrap();
    let lone = Tensor::leaf(random(1, 4, 5));
    let lone = supcon_scaled(&lone, &labels(&[1]), Some(&scale), &SupCon::default(), &single()).unwrap();
    for loss in [empty, lone] {
        assert_eq!((value(&loss), gradient(&loss, &scale)), (0.0, vec![0.0]));
    }
}

/// One rank's part of a loss with a scale of 7.
fn on_rank(loss: &str, x: &[Array], comm: &Arc<Comm>) -> Result<(Tensor, Vec<(bool, Tensor)>)> {
    let (a, b) = (Tensor::leaf(x[0].clone()), Tensor::leaf(x[1].clone()));
    let scale = Tensor::leaf(ops::cast(&Array::scalar(7.0, x[0].device())?, x[0].dtype())?);
    let found = run(loss, [&a, &b], &x[2], 0.1, Some(&scale), comm)?;
    let second = if ["supcon", "info_nce"].contains(&loss) { None } else { Some((true, b)) };
    Ok((found, [(true, a), (false, scale)].into_iter().chain(second).collect()))
}

#[test]
fn the_gradient_of_the_scale_adds_up_over_ranks_to_the_bit() {
    let inputs = [random(N, 8, 20), random(N, 8, 21), ids()];
    for loss in LOSSES.into_iter().filter(|loss| *loss != "materialised") {
        expect_same_bits(loss, &inputs, &|x, comm| on_rank(loss, x, &comm));
    }
}

#[test]
fn of_the_materialised_form_it_adds_up_to_rounding() {
    let inputs = [random(N, 8, 20), random(N, 8, 21), ids()];
    let on = |ranks| split(&inputs, ranks, &|x, comm| on_rank("materialised", x, &comm));
    let one = on(1);
    for ranks in [2, 4] {
        for (some, whole) in on(ranks).iter().zip(&one) {
            let values = |bits: &[u64]| bits.iter().map(|bits| f64::from_bits(*bits)).collect::<Vec<_>>();
            all_close(&values(some), &values(whole));
        }
    }
}
