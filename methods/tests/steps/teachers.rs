//! BYOL, DINO, MIRA, ReLIC, CARL with a teacher: what teachers are made of.

use crate::bench::{Bench, STEPS, built, loss};
use selfsame_autograd::Role;
use selfsame_methods::method::{MethodSpec, Views};
use selfsame_methods::zoo::{byol, carl, dino, mira, relic_v2};
use selfsame_models::Ctx;

const TEACHERS: [(&MethodSpec, &[&str]); 5] = [
    (&byol::SPEC, &[]),
    (&dino::SPEC, &["freeze_epochs=0"]),
    (&mira::SPEC, &["freeze_epochs=0"]),
    (&relic_v2::SPEC, &[]),
    (&carl::SPEC, &["teacher=true"]),
];

/// Running statistics belong to a network and are not averaged.
fn is_averaged(path: &str) -> bool {
    !path.contains("running")
}

#[test]
fn a_momentum_of_1_leaves_the_teacher_and_of_0_makes_it_the_student() {
    for (spec, settings) in TEACHERS {
        let at = |momentum: &str| {
            let (start, end) = (format!("teacher_momentum={momentum}"), format!("teacher_momentum_end={momentum}"));
            let mut bench = Bench::new(spec, &[settings, &[&start, &end]].concat());
            let first = bench.values("teacher.");
            for views in bench.batches(0) {
                bench.step(&views);
            }
            (first, bench)
        };
        let (first, constant) = at("1.0");
        let now = constant.values("teacher.");
        for (path, value) in first.iter().filter(|(path, _)| is_averaged(path)) {
            assert!(&now[path] == value, "{}: {path} has moved", spec.name);
        }
        let (first, copying) = at("0.0");
        let teacher = copying.values("teacher.");
        let student = copying.values("");
        for (path, value) in teacher.iter().filter(|(path, _)| is_averaged(path)) {
            let twin = &student[path.strip_prefix("teacher.").unwrap()];
            assert!(twin == value, "{}: {path} is not the student's", spec.name);
        }
        assert!(teacher.iter().any(|(path, value)| is_averaged(path) && &first[path] != value), "{}", spec.name);
    }
}

#[test]
fn teachers_have_no_gradient_and_are_no_parameters() {
    for (spec, settings) in TEACHERS {
        let mut bench = Bench::new(spec, settings);
        let views = bench.batch();
        let (method, params) = built(spec, settings);
        let (_, grads) = loss(&*method, &views, STEPS);
        let mut teachers = 0;
        for (path, param) in params.iter().filter(|(path, _)| path.starts_with("teacher.")) {
            assert_eq!(param.role(), Role::Buffer, "{}: {path}", spec.name);
            assert!(grads.param(param).unwrap().is_none(), "{}: {path}", spec.name);
            teachers += 1;
        }
        assert!(teachers > 0, "{}", spec.name);
    }
}

#[test]
fn teachers_see_batches_of_their_own() {
    for (spec, settings) in TEACHERS {
        let mut bench = Bench::new(spec, settings);
        let first = bench.values("teacher.");
        let views = bench.batch();
        bench.step(&views);
        let now = bench.values("teacher.");
        let moved = first.iter().filter(|(path, value)| !is_averaged(path) && &now[*path] != *value).count();
        assert!(moved > 0, "{}: running statistics of the teacher follow its own batches", spec.name);
    }
}

#[test]
fn byol_s_views_may_change_places() {
    let mut bench = Bench::new(&byol::SPEC, &[]);
    let views = bench.batch();
    let swapped =
        Views::new(vec![views.view(1).unwrap().clone(), views.view(0).unwrap().clone()], views.indices().to_vec());
    let value = |views: &Views| loss(&*built(&byol::SPEC, &[]).0, views, 0).0;
    let (one, other) = (value(&views), value(&swapped.unwrap()));
    assert!((one - other).abs() < 1e-6 * one, "{one} and {other}");
}

#[test]
fn a_student_that_is_its_own_target_without_a_predictor_has_nothing_to_learn_from_equal_views() {
    let mut bench = Bench::new(&byol::SPEC, &["predictor=false"]);
    let views = bench.batch();
    let same = Views::new(vec![views.view(0).unwrap().clone(); 2], views.indices().to_vec()).unwrap();
    assert_eq!(loss(&*built(&byol::SPEC, &["predictor=false"]).0, &same, 0).0, 0.0);
}

#[test]
fn dino_s_centre_moves_by_a_tenth_and_its_last_layer_waits_an_epoch() {
    let mut bench = Bench::new(&dino::SPEC, &["weight_decay=0.5"]);
    let last = |bench: &Bench| bench.values("head.last_layer");
    let first = last(&bench);
    assert!(!first.is_empty());
    for views in bench.batches(0) {
        bench.step(&views);
        assert!(last(&bench) == first, "no gradient, no decay, no moments");
    }
    assert!(bench.values("centre")["centre"].iter().any(|c| *c != 0.0));
    for views in bench.batches(1) {
        bench.step(&views);
    }
    assert!(last(&bench) != first);
}

#[test]
fn dino_without_centring_does_not_see_its_centre() {
    let run = |setting: &str| {
        let mut bench = Bench::new(&dino::SPEC, &[setting]);
        bench.epoch(0).iter().map(|record| record.loss).collect::<Vec<_>>()
    };
    let (with, without) = (run("centring=true"), run("centring=false"));
    assert_eq!(with[0], without[0], "the centre begins at 0");
    assert!(with[2] != without[2]);
}

#[test]
fn a_transformer_s_teacher_drops_no_branch() {
    let vit = ["backbone=vit-tiny", "backbone_options=patch=4 image=16 depth=2 drop_path=0.5"];
    let mut bench = Bench::new(&dino::SPEC, &vit);
    let views = bench.batch();
    let (method, _) = built(&dino::SPEC, &vit);
    let bits = |found: selfsame_methods::Embeddings| -> Vec<u32> {
        found.iter().flat_map(|(_, z)| z.array().to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
    };
    let at = |step| Ctx::train().step(0, step).no_grad();
    assert!(bits(method.targets(&views, &at(0)).unwrap()) == bits(method.targets(&views, &at(1)).unwrap()));
    assert!(bits(method.embed(&views, &at(0)).unwrap()) != bits(method.embed(&views, &at(1)).unwrap()));
    assert!(bench.step(&views).loss.is_finite());
}
