//! What objectives keep between steps, and the weight-normalised layer.

use crate::common::*;
use selfsame_autograd::{Param, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::state::{Centre, Prototypes, Usage};
use selfsame_losses::{centred_targets, mean_entropy, unit_linear};
use std::sync::Arc;

#[test]
fn a_centre_begins_with_a_tenth_of_the_mean_and_ends_at_it() {
    let centre = Centre::new("centre", 3, 0.9, &device()).unwrap();
    let rows = Tensor::constant(Array::from_slice(&[1f32, 2.0, -4.0, 3.0, 0.0, 8.0], &[2, 3], &device()).unwrap());
    let other = Tensor::constant(Array::from_slice(&[0f32, 0.0, 0.0, 0.0, 6.0, 0.0], &[2, 3], &device()).unwrap());
    let next = centre.next(&[rows.clone(), other.clone()], &single()).unwrap().1.to_vec::<f32>().unwrap();
    // The mean over both crops is (1, 2, 1).
    next.iter().zip([0.1, 0.2, 0.1]).for_each(|(c, wanted)| assert!((c - wanted).abs() < 1e-7));
    assert_eq!(centre.value().to_vec::<f32>().unwrap(), [0.0; 3], "a step does not see its own centre");
    for _ in 0..200 {
        let (param, value) = centre.next(&[rows.clone(), other.clone()], &single()).unwrap();
        param.set(value).unwrap();
    }
    centre
        .value()
        .to_vec::<f32>()
        .unwrap()
        .iter()
        .zip([1.0, 2.0, 1.0])
        .for_each(|(c, w)| assert!((c - w).abs() < 1e-5));
    let narrow = Tensor::constant(Array::zeros(&[2, 2], DType::F32, &device()).unwrap());
    assert_eq!(centre.next(&[narrow], &single()).err().unwrap().kind(), ErrorKind::Shape);
    assert_eq!(Centre::new("centre", 3, 1.5, &device()).err().unwrap().kind(), ErrorKind::Config);
}

#[test]
fn centring_alone_makes_a_constant_teacher_uniform() {
    let centre = Centre::new("centre", 4, 0.9, &device()).unwrap();
    let row = Array::from_slice(&[3f32, -1.0, 0.5, 2.0], &[4], &device()).unwrap();
    let teacher = Tensor::constant(row.broadcast_to(&[16, 4]).unwrap().contiguous().unwrap());
    let entropy = || {
        let targets = centred_targets(teacher.array(), &centre.value(), 0.04).unwrap();
        mean_entropy(&[Tensor::constant(targets)], &single()).unwrap()
    };
    assert!(entropy() < 1e-3, "sharpened");
    for _ in 0..200 {
        let (param, value) = centre.next(std::slice::from_ref(&teacher), &single()).unwrap();
        param.set(value).unwrap();
    }
    assert!((entropy() - Real::log(4.0)).abs() < 1e-3);
}

#[test]
fn a_centre_has_the_same_bits_on_any_number_of_ranks() {
    let outputs = ops::cast(&random(64, 5, 1), DType::F32).unwrap();
    let next = |size: usize| -> Vec<Vec<f32>> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = Comm::emulated(size)
                .unwrap()
                .into_iter()
                .map(|comm| {
                    let share = outputs.slice(0, comm.rank() * 64 / size, (comm.rank() + 1) * 64 / size).unwrap();
                    scope.spawn(move || {
                        let centre = Centre::new("centre", 5, 0.9, &device()).unwrap();
                        centre.next(&[Tensor::constant(share)], &comm).unwrap().1.to_vec::<f32>().unwrap()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    };
    let one = next(1).remove(0);
    assert!([2, 4].into_iter().flat_map(next).all(|centre| centre == one));
}

fn prototypes(role: Role) -> (Param, Prototypes) {
    let weight = Param::new("prototypes", role, random(4, 6, 2));
    (weight.clone(), Prototypes::new(weight).unwrap())
}

#[test]
fn prototypes_are_unit_vectors_and_scores_cosines() {
    let (weight, prototypes) = prototypes(Role::Weight);
    assert_eq!(prototypes.count(), 6);
    let z = random(5, 4, 3);
    let scores = prototypes.scores(&Tensor::constant(z.clone()), 0, false).unwrap();
    let (z, w) = (z.to_vec::<f64>().unwrap(), random(4, 6, 2).to_vec::<f64>().unwrap());
    for (at, score) in scores.array().to_vec::<f64>().unwrap().iter().enumerate() {
        let (z, k) = (&z[at / 6 * 4..][..4], at % 6);
        let column: Vec<f64> = (0..4).map(|d| w[d * 6 + k]).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        close(*score, dot(z, &column) / (dot(z, z) * dot(&column, &column)).sqrt());
    }
    // A step off the sphere and back.
    weight.set(ops::scale(weight.array(), 3.0).unwrap()).unwrap();
    prototypes.normalise().unwrap();
    let again = prototypes.scores(&Tensor::constant(random(5, 4, 3)), 0, false).unwrap();
    all_close(&again.array().to_vec::<f64>().unwrap(), &scores.array().to_vec::<f64>().unwrap());
}

#[test]
fn frozen_and_clustered_prototypes_get_no_gradient_at_all() {
    let z = Tensor::leaf(random(5, 4, 3));
    let has_gradient = |role, frozen| {
        let (weight, prototypes) = prototypes(role);
        let loss = prototypes.scores(&z, 0, frozen).unwrap().square().unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        assert!(grads.get(&z).unwrap().is_some());
        grads.param(&weight).unwrap().is_some()
    };
    assert!(has_gradient(Role::Weight, false));
    assert!(!has_gradient(Role::Weight, true) && !has_gradient(Role::Buffer, false));
}

#[test]
fn centroids_take_the_prototypes_place() {
    let (weight, prototypes) = prototypes(Role::Buffer);
    let centroids = random(6, 4, 4);
    let (param, value) = prototypes.replaced(&centroids).unwrap();
    assert!(param.is(&weight));
    param.set(value).unwrap();
    // Each centroid's best prototype is its own, at cosine 1.
    let scores = prototypes.scores(&Tensor::constant(centroids), 0, false).unwrap();
    let scores = scores.array().to_vec::<f64>().unwrap();
    (0..6).for_each(|k| close(scores[k * 6 + k], 1.0));
    assert_eq!(prototypes.replaced(&random(5, 4, 0)).err().unwrap().kind(), ErrorKind::Shape);
}

#[test]
fn usage_of_one_of_all_and_of_half_of_the_prototypes() {
    let codes = |at: &[usize]| {
        let rows: Vec<f64> = at.iter().flat_map(|at| (0..4).map(move |j| f64::from(j == *at))).collect();
        Tensor::constant(array(&rows, &[at.len(), 4]))
    };
    let of = |views: &[Tensor]| Usage::of(views, &single()).unwrap();
    assert_eq!(of(&[codes(&[2; 6])]), Usage { used: 0.25, entropy: 0.0 });
    let all = of(&[codes(&[0, 1]), codes(&[2, 3])]);
    assert_eq!(all.used, 1.0);
    close(all.entropy, Real::log(4.0));
    let half = of(&[codes(&[0, 3, 3, 0])]);
    assert_eq!(half.used, 0.5);
    close(half.entropy, Real::log(2.0));
}

#[test]
fn a_weight_normalised_layer_is_the_layer_of_normalised_weights() {
    let (x, v) = (Tensor::leaf(random(7, 4, 5)), Tensor::leaf(random(6, 4, 6)));
    let comm = Arc::new(Comm::single());
    let plain = x.matmul(&v.l2_normalize(1e-12).unwrap().transpose(0, 1).unwrap()).unwrap();
    let normed = unit_linear(&x, &v, 0, &comm).unwrap();
    all_close(&normed.array().to_vec::<f64>().unwrap(), &plain.array().to_vec::<f64>().unwrap());
    let loss = |y: &Tensor| y.square().unwrap().mul(y).unwrap().sum_all().unwrap();
    all_close(&gradient(&loss(&normed), &x), &gradient(&loss(&plain), &x));
    all_close(&gradient(&loss(&normed), &v), &gradient(&loss(&plain), &v));
    // Lengths do not matter, so no gradient goes along a row.
    let (dv, v) = (gradient(&loss(&normed), &v), v.array().to_vec::<f64>().unwrap());
    for (dv, v) in dv.chunks(4).zip(v.chunks(4)) {
        assert!(dv.iter().zip(v).map(|(d, v)| d * v).sum::<f64>().abs() < 1e-12);
    }
}

#[test]
fn a_weight_normalised_layer_has_the_same_bits_on_any_number_of_ranks() {
    let weight = random(6, 4, 7);
    expect_same_bits("unit_linear", &[random(64, 4, 8)], &|x, comm| {
        let (leaf, v) = (Tensor::leaf(x[0].clone()), Tensor::leaf(ops::cast(&weight, x[0].dtype())?));
        let first = comm.rank() * x[0].shape()[0];
        let y = unit_linear(&leaf, &v, first, &comm)?;
        let loss = selfsame_losses::sample_totals(&y.square()?, first, &comm)?.sum_all()?;
        Ok((loss, vec![(true, leaf), (false, v)]))
    });
}
