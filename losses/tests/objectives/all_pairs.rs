//! What must hold of the losses over all pairs beside NT-Xent: identities of their papers, and their split over ranks.

use crate::common::*;
use selfsame_autograd::{Grads, Tensor};
use selfsame_engine::{Array, DType, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::{
    Clip, Coefficient, Form, HardNegatives, InfoNce, LOSSES, NtXent, Options, SigLip, SupCon, clip, clip_masked,
    clip_ranks, evaluate, find, hard_negatives, hard_negatives_ranks, info_nce, info_nce_ranks, nt_xent,
    nt_xent_masked, nt_xent_watched, siglip, siglip_ranks, supcon, supcon_ranks,
};
use std::collections::BTreeMap;

#[test]
fn known_values_of_the_registry_are_those_of_the_losses() {
    let n = 6;
    let equal = ops::add(&Array::zeros(&[2 * n, 3], DType::F64, &device()).unwrap(), &array(&[0.4, -1.0, 2.0], &[3]));
    let (equal, apart) = (equal.unwrap(), axes(2 * n, n, 3.0));
    let run = |name: &str, z: &Array| {
        let spec = find(LOSSES, name).unwrap();
        let half = |at: usize| z.slice(0, at, at + n).unwrap();
        let inputs = match name {
            "clip" | "siglip" => vec![("a", half(0)), ("b", half(n))],
            "supcon" => vec![("z", z.clone()), ("labels", labels(&[0, 1, 2, 3, 4, 5].repeat(2)))],
            _ => vec![("z", z.clone())],
        };
        let inputs = inputs.into_iter().map(|(name, array)| (name.to_string(), array)).collect();
        evaluate(spec, inputs, &[]).unwrap()["loss"].item::<f64>().unwrap()
    };
    for (name, fact, images, z) in [
        ("clip", 0, n, &equal),
        ("clip", 1, n, &apart),
        ("siglip", 0, n, &equal),
        ("siglip", 1, n, &apart),
        ("supcon", 0, 2 * n, &equal),
        ("hard_negatives", 0, n, &equal),
    ] {
        let spec = find(LOSSES, name).unwrap();
        close(run(name, z), (spec.facts[fact].value)(images, &Options::parse(spec, &[]).unwrap()));
    }
}

#[test]
fn clip_does_not_tell_its_sides_apart() {
    let (a, b) = (Tensor::leaf(random(7, 4, 0)), Tensor::leaf(random(7, 4, 1)));
    let scale = scalar(9.0);
    let o = Clip { scale: Coefficient::Learned(scale.clone()) };
    let (there, back) = (clip(&a, &b, &o).unwrap(), clip(&b, &a, &o).unwrap());
    close(value(&there), value(&back));
    let (of_there, of_back) = (there.backward().unwrap(), back.backward().unwrap());
    let of = |grads: &Grads, x| grads.get(x).unwrap().unwrap().to_vec::<f64>().unwrap();
    for x in [&a, &b, &scale] {
        all_close(&of(&of_there, x), &of(&of_back, x));
    }
    let fixed = clip(&a, &b, &Clip { scale: Coefficient::Fixed(9.0) }).unwrap();
    assert_eq!(value(&fixed), value(&there), "a learned scale has the value of a fixed one");
}

#[test]
fn a_coefficient_of_another_type_or_shape_is_refused() {
    let x = Tensor::leaf(random(4, 3, 0));
    let narrow = Tensor::leaf(ops::cast(scalar(1.0).array(), DType::F32).unwrap());
    let row = Tensor::leaf(array(&[1.0], &[1]));
    for (bad, kind) in [(narrow, ErrorKind::DType), (row, ErrorKind::Shape)] {
        let scale = Coefficient::Learned(bad);
        assert_eq!(clip(&x, &x, &Clip { scale: scale.clone() }).unwrap_err().kind(), kind);
        assert_eq!(siglip(&x, &x, &SigLip { scale, ..SigLip::default() }).unwrap_err().kind(), kind);
    }
    let negative = Clip { scale: Coefficient::Fixed(-1.0) };
    assert_eq!(clip(&x, &x, &negative).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_queue_of_copies_of_the_key_gives_ln_of_1_plus_k() {
    for length in [1usize, 7, 600] {
        let q = random(1, 5, 2);
        let queue = Tensor::constant(q.broadcast_to(&[length, 5]).unwrap());
        let loss = info_nce(&Tensor::leaf(q.clone()), &Tensor::constant(q), &queue, &InfoNce::default()).unwrap();
        close(value(&loss), Real::log(1.0 + length as f64));
    }
}

#[test]
fn a_queue_orthogonal_to_the_query_gives_the_formula() {
    let q = Tensor::leaf(axes(1, 4, 2.0));
    let queue = Tensor::constant(axes(4, 4, 1.0).slice(0, 1, 4).unwrap());
    let loss = info_nce(&q, &q, &queue, &InfoNce { temperature: 0.2 }).unwrap();
    close(value(&loss), Real::log(1.0 + 3.0 * Real::exp(-5.0)));
}

#[test]
fn an_empty_queue_leaves_no_loss_and_no_gradient() {
    let (q, k) = (Tensor::leaf(random(5, 4, 3)), Tensor::leaf(random(5, 4, 4)));
    let queue = Tensor::constant(Array::zeros(&[0, 4], DType::F64, &device()).unwrap());
    for temperature in [0.01, 0.2] {
        let loss = info_nce(&q, &k, &queue, &InfoNce { temperature }).unwrap();
        assert_eq!(value(&loss), 0.0);
        assert!(gradient(&loss, &q).iter().all(|d| *d == 0.0));
    }
}

#[test]
fn keys_and_queue_get_no_gradient() {
    let leaf = |rows, number| Tensor::leaf(random(rows, 4, number));
    let (q, k, queue) = (leaf(5, 3), leaf(5, 4), leaf(9, 5));
    let loss = info_nce(&q, &k, &queue, &InfoNce::default()).unwrap();
    let grads = loss.backward().unwrap();
    assert!(grads.get(&k).unwrap().is_none() && grads.get(&queue).unwrap().is_none());
    assert!(grads.get(&q).unwrap().unwrap().to_vec::<f64>().unwrap().iter().any(|d| d.abs() > 1e-3));

    let spec = find(LOSSES, "info_nce").unwrap();
    let inputs = [("q", &q), ("k", &k), ("queue", &queue)];
    let inputs = inputs.map(|(name, x)| (name.to_string(), x.array().clone()));
    let names: Vec<String> = evaluate(spec, BTreeMap::from(inputs), &[]).unwrap().into_keys().collect();
    assert_eq!(names, ["grad_q", "loss"]);
}

#[test]
fn one_label_for_both_views_of_each_image_is_nt_xent() {
    let n = 8;
    let z = Tensor::leaf(random(2 * n, 5, 6));
    let images: Vec<i64> = (0..2 * n as i64).map(|row| 100 - row % n as i64).collect();
    let classes = supcon(&z, &labels(&images), &SupCon { temperature: 0.3 }).unwrap();
    let pairs = nt_xent(&z, &NtXent { temperature: 0.3, ..NtXent::default() }).unwrap();
    close(value(&classes), value(&pairs));
    all_close(&gradient(&classes, &z), &gradient(&pairs, &z));
}

#[test]
fn rows_without_positives_add_nothing_and_are_still_negatives() {
    let z = random(4, 3, 7);
    let o = SupCon::default();
    let alone = Tensor::leaf(z.clone());
    let loss = supcon(&alone, &labels(&[4, 3, 2, 1]), &o).unwrap();
    assert_eq!(value(&loss), 0.0);
    assert!(gradient(&loss, &alone).iter().all(|d| *d == 0.0));
    let two = supcon(&alone, &labels(&[1, 1, 2, 3]), &o).unwrap();
    assert!(gradient(&two, &alone)[6..].iter().any(|d| d.abs() > 1e-6), "the others are pushed away");
    let lone = Tensor::leaf(z.slice(0, 0, 1).unwrap());
    assert_eq!(value(&supcon(&lone, &labels(&[1]), &o).unwrap()), 0.0);
}

#[test]
fn labels_must_be_integers_one_for_each_row() {
    let spec = find(LOSSES, "supcon").unwrap();
    let run = |labels: Array| {
        let inputs = BTreeMap::from([("z".to_string(), random(4, 3, 0)), ("labels".to_string(), labels)]);
        evaluate(spec, inputs, &[])
    };
    assert_eq!(run(array(&[0.0; 4], &[4])).unwrap_err().kind(), ErrorKind::DType);
    assert_eq!(run(labels(&[0; 3])).unwrap_err().kind(), ErrorKind::Shape);
    let names: Vec<String> = run(labels(&[0; 4])).unwrap().into_keys().collect();
    assert_eq!(names, ["grad_z", "loss"]);
}

#[test]
fn alike_weights_and_no_correction_are_nt_xent() {
    let z = Tensor::leaf(random(12, 5, 8));
    for temperature in [0.01, 0.2, 1.0] {
        let hard = hard_negatives(&z, &HardNegatives { temperature, beta: 0.0, tau_plus: 0.0 }).unwrap();
        let pairs = nt_xent(&z, &NtXent { temperature, ..NtXent::default() }).unwrap();
        close(value(&hard), value(&pairs));
        let scale = 1.0 / temperature;
        let (hard, pairs) = (gradient(&hard, &z), gradient(&pairs, &z));
        hard.iter().zip(&pairs).for_each(|(a, b)| close(a / scale, b / scale));
    }
}

#[test]
fn harder_negatives_raise_the_loss_and_the_correction_lowers_it() {
    let a = random(6, 5, 9);
    // Equal partners: more similar than any negative, so that taking false negatives off leaves less.
    let z = Tensor::leaf(ops::concat(&[&a, &a], 0).unwrap());
    let loss =
        |beta, tau_plus| value(&hard_negatives(&z, &HardNegatives { temperature: 0.5, beta, tau_plus }).unwrap());
    let by_beta = [0.0, 0.5, 1.0, 4.0].map(|beta| loss(beta, 0.0));
    assert!(by_beta.windows(2).all(|w| w[0] < w[1]), "{by_beta:?}");
    assert!(loss(1.0, 0.05) < loss(1.0, 0.0));
    // Nearly all negatives are false: the estimate is on its floor, n exp(-1/t), for rows with any similar partner.
    let equal = Tensor::leaf(axes(12, 6, 1.0));
    let o = HardNegatives { temperature: 0.5, beta: 0.0, tau_plus: 0.5 };
    close(value(&hard_negatives(&equal, &o).unwrap()), Real::log(1.0 + 10.0 * Real::exp(-4.0)));
}

#[test]
fn one_image_has_no_hard_negatives() {
    let z = Tensor::leaf(random(2, 3, 0));
    assert_eq!(hard_negatives(&z, &HardNegatives::default()).unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn views_of_a_duplicate_are_no_negatives_and_the_partner_stays() {
    let n = 6;
    let (a, b) = (Tensor::leaf(random(n, 4, 10)), Tensor::leaf(random(n, 4, 11)));
    let pair = |form| NtXent { temperature: 0.5, form };
    let masked = |ids: &[i64], form| nt_xent_masked(&a, &b, &labels(ids), &pair(form), &single()).unwrap();
    let z = Tensor::concat(&[&a, &b], 0).unwrap();
    let whole = nt_xent(&z, &pair(Form::Streaming)).unwrap();
    let none_equal = masked(&[9, 8, 7, 6, 5, 4], Form::Streaming);
    assert_eq!(value(&none_equal), value(&whole));
    let all_equal = masked(&[3; 6], Form::Streaming);
    assert!(value(&all_equal).abs() <= 1e-15, "partners alone are left");

    let ids = [0, 1, 0, 2, 3, 3];
    let (tiles, matrix) = (masked(&ids, Form::Streaming), masked(&ids, Form::Materialised));
    close(value(&tiles), value(&matrix));
    assert!(value(&tiles) < value(&whole));
    all_close(&gradient(&tiles, &a), &gradient(&matrix, &a));
    let short = nt_xent_masked(&a, &b, &labels(&[0; 5]), &pair(Form::Streaming), &single());
    assert_eq!(short.unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn rows_of_a_duplicate_are_no_negatives_of_either_side() {
    let n = 6;
    let (a, b) = (Tensor::leaf(random(n, 4, 14)), Tensor::leaf(random(n, 4, 15)));
    let o = Clip { scale: Coefficient::Fixed(3.0) };
    let masked = |ids: &[i64]| clip_masked(&a, &b, &labels(ids), &o, &single()).unwrap();
    let whole = clip(&a, &b, &o).unwrap();
    let none_equal = masked(&[9, 8, 7, 6, 5, 4]);
    assert_eq!(value(&none_equal), value(&whole));
    assert_eq!(gradient(&none_equal, &a), gradient(&whole, &a));
    assert!(value(&masked(&[3; 6])).abs() <= 1e-15, "partners alone are left");

    // The same from the matrix of all logits.
    let ids = [0, 1, 0, 2, 3, 3];
    let (u, v) = (a.l2_normalize(1e-12).unwrap(), b.l2_normalize(1e-12).unwrap());
    let left_out = |at: usize| at / n != at % n && ids[at / n] == ids[at % n];
    let left_out = Array::from_slice(&(0..n * n).map(left_out).collect::<Vec<_>>(), &[n, n], &device()).unwrap();
    let nothing = Tensor::constant(array(&[f64::NEG_INFINITY], &[]));
    let side = |u: &Tensor, v: &Tensor| {
        let logits = u.matmul(&v.transpose(0, 1).unwrap()).unwrap().scale(3.0).unwrap();
        Tensor::select(&left_out, &nothing, &logits).unwrap().log_sum_exp().unwrap()
    };
    let positive = u.mul(&v).unwrap().sum(&[1], false).unwrap().scale(6.0).unwrap();
    let sums = side(&u, &v).add(&side(&v, &u)).unwrap().sub(&positive).unwrap();
    let matrix = sums.sum_all().unwrap().scale(1.0 / (2 * n) as f64).unwrap();
    let tiles = masked(&ids);
    close(value(&tiles), value(&matrix));
    assert!(value(&tiles) < value(&whole));
    let (of_tiles, of_matrix) = (gradients(&tiles, [&a, &b]), gradients(&matrix, [&a, &b]));
    all_close(&of_tiles.concat(), &of_matrix.concat());
    let refused = |ids: &Array| clip_masked(&a, &b, ids, &o, &single()).unwrap_err().kind();
    assert_eq!(refused(&labels(&[0; 5])), ErrorKind::Shape);
    assert_eq!(refused(&array(&[0.0; 6], &[6])), ErrorKind::DType);
}

#[test]
fn numbers_for_the_log_are_those_of_the_matrix() {
    let n = 16;
    let (a, b) = (random(n, 3, 12), random(n, 3, 13));
    let tau = 0.5;
    let o = NtXent { temperature: tau, ..NtXent::default() };
    let (a, b) = (Tensor::constant(a), Tensor::constant(b));
    let (loss, contrast) = nt_xent_watched(&a, &b, None, None, &o, &single()).unwrap();
    assert_eq!(value(&loss), value(&nt_xent(&Tensor::concat(&[&a, &b], 0).unwrap(), &o).unwrap()));

    let z = [a.array().to_vec::<f64>().unwrap(), b.array().to_vec().unwrap()].concat();
    let dot = |i: usize, j: usize| (0..3).map(|k| z[i * 3 + k] * z[j * 3 + k]).sum::<f64>();
    let (mut hits, mut entropy) = (0.0, 0.0);
    for i in 0..2 * n {
        let others: Vec<usize> = (0..2 * n).filter(|j| *j != i).collect();
        let sims: Vec<f64> = others.iter().map(|j| dot(i, *j) / (dot(i, i) * dot(*j, *j)).sqrt()).collect();
        let best = (0..sims.len()).max_by(|x, y| sims[*x].total_cmp(&sims[*y])).unwrap();
        hits += if others[best] == (i + n) % (2 * n) { 1.0 } else { 0.0 };
        let total: f64 = sims.iter().map(|s| Real::exp(s / tau)).sum();
        let shares = sims.iter().map(|s| Real::exp(s / tau) / total);
        entropy -= shares.map(|p| p * Real::log(p)).sum::<f64>() / (2 * n) as f64;
    }
    assert_eq!(contrast.top1, hits / (2 * n) as f64);
    close(contrast.entropy, entropy);

    let same = nt_xent_watched(&a, &a, None, None, &o, &single()).unwrap().1;
    assert_eq!(same.top1, 1.0, "equal partners are picked");
    let materialised = NtXent { form: Form::Materialised, ..o };
    let refused = nt_xent_watched(&a, &b, None, None, &materialised, &single());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn losses_and_gradients_have_the_same_bits_on_any_number_of_ranks() {
    let (a, b) = (random(64, 8, 20), random(64, 8, 21));
    let ids = labels(&(0..64).map(|i| i * i % 23).collect::<Vec<_>>());
    let leaf = |x: &Array| Tensor::leaf(x.clone());
    let number = |value: f64, like: &Array| {
        Tensor::leaf(ops::cast(&Array::scalar(value, like.device()).unwrap(), like.dtype()).unwrap())
    };
    expect_same_bits("clip", &[a.clone(), b.clone()], &|x, comm| {
        let (a, b, scale) = (leaf(&x[0]), leaf(&x[1]), number(7.0, &x[0]));
        let o = Clip { scale: Coefficient::Learned(scale.clone()) };
        Ok((clip_ranks(&a, &b, &o, &comm)?, vec![(true, a), (true, b), (false, scale)]))
    });
    expect_same_bits("clip with ids", &[a.clone(), b.clone(), ids.clone()], &|x, comm| {
        let (a, b, scale) = (leaf(&x[0]), leaf(&x[1]), number(7.0, &x[0]));
        let o = Clip { scale: Coefficient::Learned(scale.clone()) };
        Ok((clip_masked(&a, &b, &x[2], &o, &comm)?, vec![(true, a), (true, b), (false, scale)]))
    });
    expect_same_bits("siglip", &[a.clone(), b.clone()], &|x, comm| {
        let (a, b, scale, bias) = (leaf(&x[0]), leaf(&x[1]), number(7.0, &x[0]), number(-3.0, &x[0]));
        let o = SigLip { scale: Coefficient::Learned(scale.clone()), bias: Coefficient::Learned(bias.clone()) };
        Ok((siglip_ranks(&a, &b, &o, &comm)?, vec![(true, a), (true, b), (false, scale), (false, bias)]))
    });
    expect_same_bits("hard_negatives", &[a.clone(), b.clone()], &|x, comm| {
        let (a, b) = (leaf(&x[0]), leaf(&x[1]));
        let o = HardNegatives { tau_plus: 0.01, ..HardNegatives::default() };
        Ok((hard_negatives_ranks(&a, &b, &o, &comm)?, local([a, b])))
    });
    expect_same_bits("supcon", &[a.clone(), ids.clone()], &|x, comm| {
        let z = leaf(&x[0]);
        Ok((supcon_ranks(&z, &x[1], &SupCon::default(), &comm)?, local([z])))
    });
    let queue = random(70, 8, 22);
    expect_same_bits("info_nce", &[a.clone(), b.clone()], &|x, comm| {
        let queue = Tensor::constant(ops::cast(&queue, x[0].dtype())?);
        let q = leaf(&x[0]);
        Ok((info_nce_ranks(&q, &leaf(&x[1]), &queue, &InfoNce::default(), &comm)?, local([q])))
    });
    expect_same_bits("nt_xent", &[a, b, ids], &|x, comm| {
        let (a, b) = (leaf(&x[0]), leaf(&x[1]));
        let (loss, contrast) = nt_xent_watched(&a, &b, Some(&x[2]), None, &NtXent::default(), &comm)?;
        // The numbers for the log ride along as factors of the loss.
        let watched = loss.scale(contrast.entropy)?.scale(1.0 + contrast.top1)?;
        Ok((watched, local([a, b])))
    });
}
