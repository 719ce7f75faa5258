//! What must hold of the methods on MoCo and of those with phases, over several steps and epochs.

mod training;

use selfsame_kernels::math::Real;
use selfsame_methods::METHODS;
use selfsame_methods::method::find;
use std::collections::BTreeSet;
use training::{IMAGES, Training};

/// A queue of twice the batch, and few clusters.
const SMALL: [&str; 2] = ["queue=64", "dim=16"];

fn training(method: &str, settings: &[&str]) -> Training {
    let settings: Vec<&str> = SMALL.iter().chain(settings).copied().collect();
    Training::new(find(method, METHODS).unwrap(), &settings)
}

/// Epochs 0 to `epochs`.
fn trained(method: &str, settings: &[&str], epochs: u64) -> Training {
    let mut training = training(method, settings);
    (0..epochs).for_each(|epoch| training.epoch(epoch));
    training
}

#[test]
fn without_their_additions_the_methods_on_moco_are_moco_to_the_bit() {
    let moco = trained("moco", &[], 2);
    assert!(moco.losses.iter().all(|loss| loss.is_finite()));
    for (method, settings) in [
        ("mochi", &["plain_epochs=2", "hardest=8", "between=4", "towards=4"][..]),
        ("pcl", &["plain_epochs=2", "clusters=4,8"]),
        ("false-negatives", &["accepted=0.0", "clusters=4,8"]),
        ("xmoco", &["consistency_weight=0.0", "uniformity_weight=0.0"]),
        // With MoCo's settings, which its own defaults are not.
        (
            "macl",
            &[
                "base=moco",
                "alpha=0.0",
                "reweight=false",
                "temperature=0.2",
                "lr=0.03",
                "crop_min=0.2",
                "brightness=multiplicative",
                "blur=0.5",
            ],
        ),
    ] {
        let other = trained(method, settings, 2);
        assert_eq!(other.losses, moco.losses, "{method}");
        for path in moco.paths() {
            assert_eq!(other.bytes(&path), moco.bytes(&path), "{method}: {path}");
        }
    }
}

#[test]
fn the_additions_raise_the_loss() {
    let plain = trained("moco", &[], 1).losses[0];
    let mixed = ["plain_epochs=0", "hardest=8", "between=4", "towards=4"];
    let mixed = trained("mochi", &mixed, 1);
    assert!(mixed.losses[0] > plain);
    assert!(trained("xmoco", &[], 1).losses[0] > plain);
}

#[test]
fn keys_come_from_a_slow_copy_and_leave_the_queue_in_order() {
    let mut still = training("moco", &["key_momentum=1.0"]);
    let teacher = |training: &Training| {
        let paths =
            training.paths().into_iter().filter(|path| path.starts_with("teacher.") && !path.contains("running"));
        paths.map(|path| training.bytes(&path)).collect::<Vec<_>>()
    };
    let first = teacher(&still);
    let random = still.values("queue.keys");
    for steps in 1..=3 {
        still.step(0);
        assert_eq!(still.integers("queue.pointer"), [32 * steps % 64]);
        let kept = still.values("queue.keys").chunks(16).zip(random.chunks(16)).filter(|(a, b)| a == b).count();
        assert_eq!(kept, 64 - 32 * (steps as usize).min(2), "each step replaces a batch of the first keys");
    }
    assert_eq!(teacher(&still), first, "at momentum 1 the copy stays");
    let mut moving = training("moco", &["key_momentum=0.9"]);
    moving.step(0);
    assert_ne!(teacher(&moving), first);
    let lengths: Vec<f32> =
        moving.values("queue.keys").chunks(16).map(|key| key.iter().map(|x| x * x).sum::<f32>()).collect();
    assert!(lengths.iter().all(|square| (square - 1.0).abs() < 1e-5));
}

#[test]
fn shuffling_changes_what_keys_are_normalised_with() {
    let loss = |settings: &[&str]| trained("moco", settings, 1).losses[0];
    assert_ne!(loss(&["shuffle=true"]), loss(&["shuffle=false"]));
    // One group of the whole batch: the order of its images is of no matter but for rounding.
    let whole = ["bn_group=0", "shuffle=true"];
    assert!((loss(&whole) - loss(&["bn_group=0", "shuffle=false"])).abs() < 1e-4);
}

#[test]
fn a_queue_that_the_batch_does_not_divide_is_refused() {
    let error = Training::build(find("moco", METHODS).unwrap(), &["queue=40"]).err().unwrap();
    assert!(error.sentence().contains("queue"), "{error}");
}

#[test]
fn prototypes_change_at_the_start_of_epochs_alone() {
    let settings = ["plain_epochs=1", "clusters=4,8", "negatives=3", "restarts=2"];
    let mut pcl = trained("pcl", &settings, 1);
    let none = pcl.bytes("prototypes.1.centroids");
    pcl.begin(1);
    let found = pcl.bytes("prototypes.1.centroids");
    assert_ne!(found, none);
    pcl.step(1);
    assert_eq!(pcl.bytes("prototypes.1.centroids"), found);
    for (m, clusters) in [(0, 4), (1, 8)] {
        let phi = pcl.values(&format!("prototypes.{m}.concentrations"));
        let mean = phi.iter().map(|x| f64::from(*x)).sum::<f64>() / clusters as f64;
        assert!((mean - 0.2).abs() < 1e-6 && phi.iter().all(|phi| *phi > 0.0), "{phi:?}");
        let assigned = pcl.integers(&format!("prototypes.{m}.assigned"));
        assert!(assigned.len() == IMAGES && assigned.iter().all(|cluster| (0..clusters).contains(cluster)));
    }
    let keys: BTreeSet<&str> = pcl.scalars.iter().map(|(key, _)| key.as_str()).collect();
    assert!(keys.contains("loss/prototypes") && pcl.losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn labels_are_trusted_more_from_epoch_to_epoch() {
    let mut found = training("false-negatives", &["clusters=4", "epochs=5"]);
    for epoch in 0..5 {
        found.epoch(epoch);
        let accepted = found.integers("labels.0").iter().filter(|label| **label >= 0).count();
        assert_eq!(accepted, IMAGES * epoch as usize / 4);
    }
    let images = found.integers("queue.images");
    assert!(images.iter().all(|image| (0..IMAGES as i64).contains(image)), "every key is of an image by now");
    let mut last: Vec<i64> = images[images.len() / 2..].to_vec();
    last.sort_unstable();
    last.dedup();
    assert_eq!(last.len(), 32, "a batch holds each image once");
}

#[test]
fn the_bank_follows_the_batch_and_the_clusterings_the_epochs() {
    let settings = ["plain_epochs=1", "clusters=8", "runs=2", "background=20", "batch=32"];
    let mut found = Training::new(find("local-aggregation", METHODS).unwrap(), &settings);
    let (bank, own) = (found.values("bank.rows"), found.integers("clusterings"));
    assert_eq!(own, (0..IMAGES as i64).collect::<Vec<_>>().repeat(2), "each image its own cluster");
    found.begin(0);
    let seen: BTreeSet<usize> = found.step(0).into_iter().collect();
    let dim = bank.len() / IMAGES;
    for (image, (before, after)) in bank.chunks(dim).zip(found.values("bank.rows").chunks(dim)).enumerate() {
        assert_eq!(before != after, seen.contains(&image), "row {image}");
        assert!((after.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    assert!((found.losses[0] - Real::log(IMAGES as f64)).abs() < 3.0, "near ln N: nothing is recognised yet");

    let mut found = Training::new(find("local-aggregation", METHODS).unwrap(), &settings);
    found.epoch(0);
    assert!(!found.scalars.iter().any(|(key, _)| key == "neighbours/close"), "instance recognition at first");
    found.begin(1);
    let clusterings = found.integers("clusterings");
    assert!(clusterings != own && clusterings.iter().all(|cluster| (0..8).contains(cluster)));
    assert_ne!(clusterings[..IMAGES], clusterings[IMAGES..], "each run has draws of its own");
    found.step(1);
    assert_eq!(found.integers("clusterings"), clusterings);
    let close = found.scalars.iter().rfind(|(key, _)| key == "neighbours/close").unwrap().1;
    assert!((1.0..=20.0).contains(&close) && found.losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn scan_goes_through_its_three_steps() {
    let settings =
        ["pretext_epochs=1", "cluster_epochs=2", "epochs=4", "neighbours=3", "clusters=4", "heads=2", "batch=32"];
    let mut scan = Training::new(find("scan", METHODS).unwrap(), &settings);
    let own = scan.integers("neighbours");
    assert!(own.chunks(4).enumerate().all(|(image, row)| row == [image as i64; 4]));
    assert!(scan.begin(0).is_none());
    scan.steps(0);
    let head = scan.bytes("heads.0.weight");
    let order = scan.begin(1).unwrap();
    let neighbours = scan.integers("neighbours");
    assert!(neighbours.chunks(4).enumerate().all(|(image, row)| row[0] == image as i64), "itself first");
    assert!(neighbours.chunks(4).all(|row| row.iter().collect::<BTreeSet<_>>().len() == 4));
    assert_eq!(order.len(), IMAGES);
    for pair in order.chunks(2) {
        assert!(neighbours[4 * pair[0]..4 * pair[0] + 4].contains(&(pair[1] as i64)));
    }
    let anchors: BTreeSet<usize> = order.iter().step_by(2).copied().collect();
    assert_eq!(anchors.len(), IMAGES / 2);
    scan.steps(1);
    assert_ne!(scan.bytes("heads.0.weight"), head);
    assert!(scan.values("head_losses").iter().all(|loss| *loss != 0.0));
    // One of four clusters at least has an image of the batch.
    let used: Vec<f64> =
        scan.scalars.iter().filter(|(key, _)| key == "prototypes/used").map(|(_, share)| *share).collect();
    assert_eq!(used.len(), IMAGES / 32, "in each step of the clustering, in none before");
    assert!(used.iter().all(|share| [0.25, 0.5, 0.75, 1.0].contains(share)), "{used:?}");
    scan.epoch(2);
    assert_eq!(scan.integers("neighbours"), neighbours, "mined once");
    assert!(scan.begin(3).is_none());
    scan.steps(3);
    let confident = scan.scalars.iter().rfind(|(key, _)| key == "labels/confident").unwrap().1;
    assert!(confident > 0.0 || *scan.losses.last().unwrap() == 0.0, "where nobody is sure there is no loss");
    assert!(scan.losses.iter().all(|loss| loss.is_finite()));
}

/// Forms that no default has: they train, and every parameter moves.
#[test]
fn other_forms_train_too() {
    for (method, settings) in [
        ("macl", &["base=moco", "queue=64"][..]),
        ("macl", &["candidates=both", "adaptation=exponential"]),
        ("cacr", &["form=momentum", "views=3", "hidden=32"]),
        ("cacr", &["form=momentum", "views=2", "hidden=32", "contrast=euclidean", "temperature=0.2"]),
        ("cacr", &["views=2", "rbf=1.0"]),
        ("moco", &["queue=64", "head=linear", "temperature=0.07"]),
        ("xmoco", &["queue=64", "consistency=distributions", "uniformity=entropy"]),
        ("xmoco", &["queue=64", "consistency=queue"]),
        ("false-negatives", &["queue=64", "clusters=4", "form=attract", "epochs=2"]),
        ("pcl", &["queue=64", "clusters=4", "plain_epochs=0", "unique=true", "head=linear"]),
    ] {
        let mut training = Training::new(find(method, METHODS).unwrap(), settings);
        let paths: Vec<String> = training.paths();
        let before: Vec<Vec<u64>> = paths.iter().map(|path| training.bytes(path)).collect();
        (0..2).for_each(|epoch| training.epoch(epoch));
        assert!(training.losses.iter().all(|loss| loss.is_finite()), "{method} {settings:?}");
        let online = |path: &str| path.ends_with("weight") && !path.starts_with("teacher.");
        let weights = paths.iter().zip(before).filter(|(path, _)| online(path));
        for (path, before) in weights {
            assert_ne!(training.bytes(path), before, "{method} {settings:?}: {path}");
        }
    }
}

/// At every step; and the loss stays above that of InfoNCE at that temperature.
#[test]
fn macl_s_temperature_follows_the_alignment_within_its_bounds() {
    let macl = trained("macl", &["temperature=0.2", "alpha=0.5"], 2);
    let logged = |key: &str| -> Vec<f64> {
        macl.scalars.iter().filter(|(name, _)| name == key).map(|(_, value)| *value).collect()
    };
    let (alignment, temperature) = (logged("contrast/alignment"), logged("contrast/temperature"));
    assert_eq!(alignment.len(), macl.losses.len());
    assert!(alignment.windows(2).all(|w| w[0] != w[1]), "{alignment:?}");
    for (a, tau) in alignment.iter().zip(&temperature) {
        assert!((tau - 0.2 * (1.0 + 0.5 * a)).abs() < 1e-12, "{tau} at {a}");
        assert!((0.1..=0.3).contains(tau));
    }
    assert!(macl.losses.iter().zip(logged("loss/info_nce")).all(|(loss, plain)| *loss > plain));
}

/// The same weights and images where mixing begins: the negatives alone are more.
#[test]
fn the_loss_rises_where_mixing_begins() {
    let losses = |plain_epochs: &str| {
        let mixing = ["hardest=8", "between=4", "towards=4", plain_epochs];
        trained("mochi", &mixing, 2).losses
    };
    let (mixed, plain) = (losses("plain_epochs=1"), losses("plain_epochs=2"));
    assert_eq!(mixed[..2], plain[..2], "two steps of MoCo");
    assert!(mixed[2] > plain[2], "{} and {}", mixed[2], plain[2]);
}

/// One sub-network wins for all views: its term is ln(2N - 1) and moves nothing.
#[test]
fn one_subnetwork_adds_a_constant_to_simclr() {
    let run = |weight: &str| {
        let settings = ["dim=16", "subnetworks=1", weight];
        let mut training = Training::new(find("bregman", METHODS).unwrap(), &settings);
        training.epoch(0);
        training
    };
    let (with, without) = (run("divergence_weight=1.0"), run("divergence_weight=0.0"));
    for (sum, simclr) in with.losses.iter().zip(&without.losses) {
        // Batches of 32 images; the losses are of f32.
        assert!((sum - simclr - Real::log(63.0)).abs() < 1e-5, "{sum} and {simclr}");
    }
    for path in with.paths() {
        assert_eq!(with.bytes(&path), without.bytes(&path), "{path}");
    }
    let active = with.scalars.iter().filter(|(key, _)| key == "divergence/active").map(|(_, active)| *active);
    assert_eq!(active.collect::<Vec<_>>(), [1.0; 2], "the dead state is in the log of both steps");
}
