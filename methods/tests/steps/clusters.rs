//! DeepCluster and its second version, self-labelling, domain-agnostic clustering, IIC: labels and heads.

use crate::bench::{BATCH, Bench, built, loss};
use selfsame_autograd::Grads;
use selfsame_methods::eval::clustering::Agreement;
use selfsame_methods::zoo::{deepcluster, deepcluster_v2, domain_agnostic_self_distillation as domain, iic, sela};

/// Images of the training set: three batches and two.
const IMAGES: usize = 3 * BATCH + 2;

fn counts(labels: &[i64], k: usize) -> Vec<usize> {
    (0..k as i64).map(|c| labels.iter().filter(|label| **label == c).count()).collect()
}

#[test]
fn deepcluster_starts_its_classifier_anew_each_epoch() {
    let mut bench = Bench::new(&deepcluster::SPEC, &["clusters=5", "components=8"]);
    bench.epoch(0);
    let trained = bench.values("classifier");
    bench.begin(1);
    let anew = bench.values("classifier");
    assert_eq!(trained.len(), 2);
    assert!(anew["classifier.bias"].iter().all(|b| *b == 0.0) && trained["classifier.bias"].iter().any(|b| *b != 0.0));
    let std = |w: &[f64]| (w.iter().map(|w| w * w).sum::<f64>() / w.len() as f64).sqrt();
    assert!((std(&anew["classifier.weight"]) - 0.01).abs() < 0.002);
    assert!(anew["classifier.weight"] != trained["classifier.weight"]);
    assert!(counts(&bench.integers("labels"), 5).iter().all(|n| *n > 0), "no cluster stays empty");
    let nmi = bench.values("nmi")["nmi"][0];
    assert!((0.0..=1.0).contains(&nmi));
}

#[test]
fn deepcluster_sees_clusters_equally_often() {
    let mut bench = Bench::new(&deepcluster::SPEC, &["clusters=4", "components=8"]);
    bench.begin(0);
    let labels = bench.integers("labels");
    let order = bench.trainer.begin_epoch(0).unwrap().unwrap();
    assert_eq!(order.len(), IMAGES);
    let seen: Vec<i64> = order.iter().map(|image| labels[*image]).collect();
    let seen = counts(&seen, 4);
    let used = counts(&labels, 4).iter().filter(|n| **n > 0).count();
    let share = IMAGES / used + 1;
    assert!(seen.iter().filter(|n| **n > 0).all(|n| (share - used..=share).contains(n)), "{seen:?}");
    let mut plain = Bench::new(&deepcluster::SPEC, &["clusters=4", "balanced=false"]);
    assert!(plain.trainer.begin_epoch(0).unwrap().is_none());
}

#[test]
fn deepcluster_with_one_cluster_has_no_loss() {
    let mut bench = Bench::new(&deepcluster::SPEC, &["clusters=1", "components=8"]);
    assert!(bench.epoch(0).iter().all(|record| record.loss == 0.0));
}

#[test]
fn centroids_move_between_epochs_alone() {
    let mut bench = Bench::new(&deepcluster_v2::SPEC, &["heads=2", "weight_decay=0.5"]);
    bench.begin(0);
    let first = bench.values("head");
    for views in bench.batches(0) {
        bench.step(&views);
        assert!(bench.values("head") == first, "no gradient, no decay");
    }
    bench.begin(1);
    assert!(bench.values("head") != first);
    // The two images that the first epoch has left out have no label in the second.
    let labels = bench.integers("head0.labels");
    assert_eq!(labels.iter().filter(|label| **label < 0).count(), 2);
}

#[test]
fn without_soft_targets_domain_agnostic_clustering_is_deepcluster_v2_of_one_crop() {
    let narrow = ["heads=2", "prototypes=5", "temperature=0.2"];
    let (one, twins) = built(&domain::SPEC, &[&narrow[..], &["alpha=0.0"]].concat());
    let (other, params) = built(&deepcluster_v2::SPEC, &[&narrow[..], &["large_crops=1", "small_crops=0"]].concat());
    let mut bench = Bench::new(&domain::SPEC, &narrow);
    let views = bench.batch();
    let ((a, own), (b, grads)) = (loss(&*one, &views, 0), loss(&*other, &views, 0));
    assert_eq!(a, b);
    // The same parameters at the same paths get the same gradients.
    let mut compared = 0;
    for (path, param) in params.trainable() {
        let twin = twins.get(path).unwrap();
        let bits = |grads: &Grads, param| -> Vec<u32> {
            let gradient = grads.param(param).unwrap().unwrap().to_vec::<f32>().unwrap();
            gradient.into_iter().map(f32::to_bits).collect()
        };
        assert!(bits(&grads, param) == bits(&own, twin), "{path}");
        compared += 1;
    }
    assert!(compared > 5);
}

#[test]
fn soft_targets_come_from_memory_or_from_the_last_epoch_s_network() {
    for soft in ["soft=memory", "soft=snapshot"] {
        let mut bench = Bench::new(&domain::SPEC, &[soft, "heads=2", "prototypes=4", "alpha=0.7", "lr=0.02"]);
        let first = bench.epoch(0);
        let second = bench.epoch(1);
        assert!(first.iter().chain(&second).all(|record| record.loss.is_finite() && record.loss > 0.0));
    }
    let mut bench = Bench::new(&domain::SPEC, &["soft=snapshot", "prototypes=4"]);
    bench.epoch(0);
    let before = bench.values("encoder");
    bench.begin(1);
    for (path, value) in before.iter().filter(|(path, _)| !path.contains("running")) {
        assert_eq!(&bench.values("teacher.encoder")[&format!("teacher.{path}")], value, "{path}");
    }
}

#[test]
fn right_after_clustering_the_loss_is_far_below_that_of_chance() {
    let mut bench = Bench::new(&domain::SPEC, &["heads=1", "prototypes=8", "alpha=0.0", "lr=0.001"]);
    bench.epoch(0);
    // The clusters of embeddings that training steps have stored, in training mode.
    let loss = bench.epoch(1)[0].loss;
    assert!(loss < 0.8 * 8f64.ln(), "{loss}");
}

#[test]
fn self_labels_are_balanced_before_the_first_step_and_written_by_image() {
    let mut bench = Bench::new(&sela::SPEC, &["classes=5", "heads=2", "relabellings=4", "lambda=1000"]);
    let random = bench.integers("labels0");
    assert!(counts(&random, 5).iter().all(|n| n.abs_diff(IMAGES / 5) <= 1));
    bench.begin(0);
    for head in ["labels0", "labels1"] {
        let labels = bench.integers(head);
        assert!(labels != random, "{head}");
        // The argmax of balanced codes: equal to a few images.
        assert!(counts(&labels, 5).iter().all(|n| n.abs_diff(IMAGES / 5) <= 3), "{:?}", counts(&labels, 5));
    }
    assert!(bench.integers("labels0") != bench.integers("labels1"), "heads differ");
    let mut one = Bench::new(&sela::SPEC, &["classes=1", "heads=1"]);
    assert!(one.epoch(0).iter().all(|record| record.loss == 0.0));
}

#[test]
fn one_head_in_turn_gets_new_labels() {
    let mut bench =
        Bench::new(&sela::SPEC, &["classes=5", "heads=2", "relabellings=50", "relabel=linear", "relabel_heads=one"]);
    let first = [bench.integers("labels0"), bench.integers("labels1")];
    bench.begin(0);
    assert!(bench.integers("labels0") != first[0] && bench.integers("labels1") == first[1]);
    bench.begin(1);
    assert!(bench.integers("labels1") != first[1]);
}

#[test]
fn without_balance_self_labels_are_the_classifier_s_own() {
    let mut bench = Bench::new(&sela::SPEC, &["classes=5", "heads=1", "balance=false"]);
    bench.begin(0);
    let used = counts(&bench.integers("labels0"), 5);
    assert!(used.iter().any(|n| n.abs_diff(IMAGES / 5) > 3), "{used:?}: an untrained classifier is not balanced");
}

#[test]
fn the_log_tells_which_share_of_classes_a_batch_has() {
    let mut bench = Bench::new(&sela::SPEC, &["classes=5", "heads=1", "balance=false"]);
    bench.begin(0);
    let labels = bench.integers("labels0");
    for views in bench.batches(0) {
        let of_batch: Vec<i64> = views.indices().iter().map(|image| labels[*image]).collect();
        let present = counts(&of_batch, 5).iter().filter(|n| **n > 0).count();
        let logged = bench.step(&views).scalars;
        let used = logged.iter().find(|(key, _)| key == "prototypes/used").unwrap().1;
        assert_eq!(used, present as f64 / 5.0);
    }
}

#[test]
fn groups_of_heads_take_turns_by_epochs() {
    let mut bench = Bench::new(&iic::SPEC, &["clusters=3", "over_clusters=7", "partners=2", "weight_decay=0.1"]);
    let mut moved = Vec::new();
    for epoch in 0..4 {
        let before = [bench.values("over"), bench.values("clusters")];
        let losses = bench.epoch(epoch);
        assert!(losses.iter().all(|record| record.loss <= 1e-6), "minus a mutual information");
        moved.push([bench.values("over") != before[0], bench.values("clusters") != before[1]]);
    }
    assert_eq!(moved, [[true, false], [false, true], [false, true], [true, false]]);
}

/// Against the measure of the evaluation, which is held to scikit-learn's.
#[test]
fn deepcluster_logs_how_far_clusters_agree_with_those_of_the_epoch_before() {
    let mut bench = Bench::new(&deepcluster::SPEC, &["clusters=5", "components=8"]);
    bench.epoch(0);
    let labels = |bench: &Bench| bench.integers("labels").iter().map(|label| *label as u32).collect::<Vec<_>>();
    let before = labels(&bench);
    let records = bench.epoch(1);
    let expected = Agreement::of(&labels(&bench), 5, &before, 5).unwrap().nmi;
    assert!(expected > 0.0, "{expected}");
    for record in records {
        let logged = record.scalars.iter().find(|(key, _)| key == "clusters/nmi").unwrap().1;
        assert!((logged - expected).abs() < 1e-6, "{logged}, not {expected}");
    }
}

/// Labels that are the classifier's own cost less and less and are of few classes; balanced ones keep all.
#[test]
fn without_balance_classes_are_lost_and_the_loss_falls() {
    let train = |balance: &str| {
        let settings =
            [balance, "classes=5", "heads=1", "lambda=100", "relabel=linear", "relabellings=100", "epochs=12"];
        let mut bench = Bench::new(&sela::SPEC, &settings);
        let (mut used, mut loss) = (Vec::new(), 0.0);
        for epoch in 0..12 {
            let records = bench.epoch(epoch);
            loss = records.iter().map(|record| record.loss).sum::<f64>() / records.len() as f64;
            used.push(counts(&bench.integers("labels0"), 5).iter().filter(|n| **n > 0).count());
        }
        (used, loss)
    };
    let ((all, balanced), (few, own)) = (train("balance=true"), train("balance=false"));
    assert!(all.iter().all(|used| *used == 5), "{all:?}");
    assert!(few[11] < 5 && few[11] <= few[0], "{few:?}");
    assert!(own < 0.5 * balanced, "{own} with the classifier's own labels, {balanced} with balanced ones");
}

/// Cosines with random directions are small in 128 dimensions.
#[test]
fn before_any_clustering_the_loss_is_near_that_of_chance() {
    let settings = ["heads=1", "prototypes=8", "alpha=0.0", "temperature=1.0", "dim=128"];
    let mut bench = Bench::new(&domain::SPEC, &settings);
    let views = bench.batch();
    let loss = bench.step(&views).loss;
    assert!((loss - 8f64.ln()).abs() < 0.2, "{loss}");
}
