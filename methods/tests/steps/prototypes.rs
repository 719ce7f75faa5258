//! SwAV and MIRA: prototypes that wait, stay on the sphere, and a queue that fills before it counts.

use crate::bench::Bench;
use selfsame_methods::method::MethodSpec;
use selfsame_methods::zoo::{carl, mira, swav};

/// The lengths of the columns of a `[d, k]` weight.
fn lengths(weight: &[f64], k: usize) -> Vec<f64> {
    (0..k).map(|j| weight.iter().skip(j).step_by(k).map(|w| w * w).sum::<f64>().sqrt()).collect()
}

#[test]
fn prototypes_wait_for_their_first_epoch_without_decay() {
    let methods: [&'static MethodSpec; 2] = [&swav::SPEC, &mira::SPEC];
    for spec in methods {
        let mut bench = Bench::new(spec, &["freeze_epochs=1", "weight_decay=0.5"]);
        let first = bench.values("prototypes");
        assert!(!first.is_empty());
        bench.epoch(0);
        for (path, value) in &bench.values("prototypes") {
            // SwAV's are brought back to length 1 after each step, which may round.
            let moved = value.iter().zip(&first[path]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(moved < 1e-6, "{}: {moved}", spec.name);
        }
        bench.epoch(1);
        assert!(bench.values("prototypes") != first, "{}", spec.name);
    }
}

#[test]
fn prototypes_have_length_1_after_each_step() {
    let methods: [(&'static MethodSpec, &[&str]); 2] = [(&swav::SPEC, &["freeze_epochs=0"]), (&carl::SPEC, &[])];
    for (spec, settings) in methods {
        let mut bench = Bench::new(spec, settings);
        for views in bench.batches(0) {
            bench.step(&views);
            for weight in bench.values("prototypes").values() {
                assert!(lengths(weight, 6).iter().all(|l| (l - 1.0).abs() < 1e-6), "{}", spec.name);
            }
        }
    }
}

#[test]
fn a_queue_counts_once_it_is_full() {
    // Two batches long, filling from the first step on: the third step is the first that sees it.
    let losses = |settings: &[&str]| -> Vec<f64> {
        let mut bench = Bench::new(&swav::SPEC, &[&["queue_from=0"], settings].concat());
        bench.epoch(0).iter().map(|record| record.loss).collect()
    };
    let (with, without) = (losses(&["queue=32"]), losses(&["queue=0"]));
    assert_eq!(with[..2], without[..2]);
    assert!(with[2] != without[2]);
    let later = losses(&["queue=32", "queue_from=1"]);
    assert_eq!(later, without);
}

#[test]
fn a_queue_holds_the_newest_embeddings() {
    let mut bench = Bench::new(&swav::SPEC, &["queue=32", "queue_from=0"]);
    let first = bench.values("queue0.keys")["queue0.keys"].clone();
    let views = bench.batch();
    bench.step(&views);
    let now = bench.values("queue0.keys")["queue0.keys"].clone();
    let changed: Vec<bool> = now.chunks(12).zip(first.chunks(12)).map(|(a, b)| a != b).collect();
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 16, "a batch of a queue of two");
    assert!(now.chunks(12).all(|row| (row.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5));
    assert_eq!(bench.integers("queue0.pointer"), [16]);
}
