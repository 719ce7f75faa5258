//! BYOL, DINO, MIRA, ReLIC, CARL with a teacher: what teachers are made of.

use crate::bench::{Bench, STEPS, built, loss};
use selfsame_autograd::{Role, Tensor};
use selfsame_engine::Array;
use selfsame_engine::ops::{self, Binary};
use selfsame_methods::method::{MethodSpec, Views};
use selfsame_methods::zoo::{byol, carl, dino, mira, moco, relic_v2};
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

/// A queue of two batches, and keys normalised by batches of the bench.
const MOCO: [&str; 2] = ["queue=32", "bn_group=16"];

#[test]
fn moco_s_keys_and_queue_have_no_gradient() {
    let views = Bench::new(&moco::SPEC, &MOCO).batch();
    let (method, params) = built(&moco::SPEC, &MOCO);
    let (_, grads) = loss(&*method, &views, 0);
    let mut constants = 0;
    for (path, param) in params.iter().filter(|(path, _)| path.starts_with("teacher.") || path.starts_with("queue.")) {
        assert_eq!(param.role(), Role::Buffer, "{path}");
        assert!(grads.param(param).unwrap().is_none(), "{path}");
        constants += 1;
    }
    assert!(constants > 2, "the encoder of keys, keys and pointer");
    assert!(params.trainable().all(|(_, param)| grads.param(param).unwrap().is_some()), "of the queries' encoder");
}

/// Queries' weights that stand still: what the keys' ones are apart shrinks by the momentum in each step.
#[test]
fn moco_s_key_encoder_comes_nearer_by_its_momentum_each_step() {
    let still = ["key_momentum=0.5", "lr=1e-30", "weight_decay=0.0"];
    let mut bench = Bench::new(&moco::SPEC, &[&MOCO[..], &still].concat());
    let is_key = |path: &str| path.starts_with("teacher.") && is_averaged(path);
    for (_, param) in bench.trainer.params().iter().filter(|(path, _)| is_key(path)) {
        param.set(ops::binary_scalar(Binary::Add, &param.array(), 1.0).unwrap()).unwrap();
    }
    let views = bench.batch();
    for apart in [0.5, 0.25, 0.125] {
        bench.step(&views);
        let queries = bench.values("");
        for (path, keys) in bench.values("teacher.").iter().filter(|(path, _)| is_key(path)) {
            let twins = &queries[path.strip_prefix("teacher.").unwrap()];
            for (key, query) in keys.iter().zip(twins) {
                assert!((key - query - apart).abs() < 1e-5, "{path}: {key} and {query}, not {apart} apart");
            }
        }
    }
}

/// The rate moves no student; the teachers start 1/4 beside theirs.
#[test]
fn each_step_leaves_a_teacher_the_momentum_s_share_of_its_distance_to_a_resting_student() {
    for (spec, settings) in TEACHERS {
        let resting = ["lr=1e-12", "teacher_momentum=0.5", "teacher_momentum_end=0.5"];
        let mut bench = Bench::new(spec, &[settings, &resting].concat());
        let params = bench.trainer.params();
        let mut averaged = Vec::new();
        for (path, student) in params.trainable() {
            let Some(teacher) = params.get(&format!("teacher.{path}")) else { continue };
            teacher.set(ops::binary_scalar(Binary::Add, &student.array(), 0.25).unwrap()).unwrap();
            averaged.push(path.to_string());
        }
        assert!(!averaged.is_empty(), "{}", spec.name);
        for (steps, views) in (1..).zip(bench.batches(0)) {
            bench.step(&views);
            let (students, teachers) = (bench.values(""), bench.values("teacher."));
            for path in &averaged {
                let pairs = teachers[&format!("teacher.{path}")].iter().zip(&students[path]);
                let off = pairs.map(|(t, s)| (t - s - 0.25 * 0.5f64.powi(steps)).abs()).fold(0.0, f64::max);
                assert!(off < 1e-6, "{}: {path} is {off} off after {steps} steps", spec.name);
            }
        }
    }
}

/// Both collapses as the log shows them: outputs all alike, and one output that wins for every image.
#[test]
fn dino_s_log_tells_outputs_all_alike_from_a_single_winner() {
    let first = |temperature: &str, winner: Option<usize>| {
        let setting = format!("teacher_temperature={temperature}");
        let mut bench = Bench::new(&dino::SPEC, &[setting.as_str()]);
        if let Some(winner) = winner {
            let centre = bench.trainer.params().get("centre").unwrap();
            let values: Vec<f32> = (0..20).map(|k| if k == winner { -100.0 } else { 0.0 }).collect();
            centre.set(Array::from_slice(&values, &[20], centre.array().device()).unwrap()).unwrap();
        }
        let views = bench.batch();
        let record = bench.step(&views);
        let logged = |key: &str| record.scalars.iter().find(|(name, _)| name == key).unwrap().1;
        let entropy = logged("teacher/entropy");
        assert!(record.loss >= entropy - 1e-5, "a cross-entropy of {} below an entropy of {entropy}", record.loss);
        (entropy, logged("prototypes/used"))
    };
    let (alike, _) = first("1e6", None);
    assert!((alike - 20f64.ln()).abs() < 1e-5, "{alike}");
    let (sure, used) = first("0.04", Some(7));
    assert!(sure.abs() < 1e-6, "{sure}");
    assert_eq!(used, 1.0 / 20.0);
}

/// What is left of images without any object, at one level of grey.
#[test]
fn images_that_are_all_one_grey_leave_relic_at_chance() {
    let settings = ["negatives=3"];
    let views = Bench::new(&relic_v2::SPEC, &settings).batch();
    let one_grey = |view: &Tensor| Tensor::constant(Array::full(0.5f32, view.shape(), view.device()).unwrap());
    let views = Views::new(views.iter().map(one_grey).collect(), views.indices().to_vec()).unwrap();
    // The invariance term is 0, and all pairs of views have the same contrast.
    let (found, _) = loss(&*built(&relic_v2::SPEC, &settings).0, &views, 0);
    assert!((found - 4f64.ln()).abs() < 1e-5, "{found}");
}
