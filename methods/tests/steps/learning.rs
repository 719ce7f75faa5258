//! Methods trained on one batch for a while: where the loss starts, and what comes of it.

use crate::bench::{BATCH, Bench, STEPS, built, loss};
use selfsame_methods::eval::collapse;
use selfsame_methods::zoo::{simclr, swav};
use selfsame_models::Ctx;

/// Trained on one batch again and again: views of an image come together and images part, where a collapse would do the
/// first alone.
#[test]
fn simclr_starts_near_chance_and_learns_by_alignment_and_uniformity() {
    let settings = [
        "dim=32",
        "temperature=0.2",
        "optimizer=adamw",
        "lr=0.003",
        "lr_scaling=none",
        "weight_decay=0.0",
        "epochs=40",
        "crop_min=0.4",
    ];
    let mut bench = Bench::new(&simclr::SPEC, &settings);
    let views = bench.batch();
    let chance = ((2 * BATCH - 1) as f64).ln();
    // At a temperature that hardly tells random similarities apart.
    let (first, _) = loss(&*built(&simclr::SPEC, &[&settings[..], &["temperature=0.5"]].concat()).0, &views, 0);
    assert!((first / chance - 1.0).abs() < 0.35, "{first} untrained, {chance} at chance");

    let geometry = |bench: &Bench| {
        let z = bench.trainer.method().embed(&views, &Ctx::train().no_grad()).unwrap();
        let [a, b] = ["z0", "z1"].map(|name| z.get(name).unwrap().array().clone());
        [collapse::alignment(&a, &b).unwrap(), collapse::uniformity(&a).unwrap()]
    };
    let before = geometry(&bench);
    let losses: Vec<f64> = (0..40 * STEPS).map(|_| bench.step(&views).loss).collect();
    let after = geometry(&bench);
    assert!(losses[losses.len() - 1] < chance / 2.0, "{losses:?}");
    assert!(after[0] < before[0] && after[1] < before[1], "alignment and uniformity: {before:?}, then {after:?}");
}

/// Trained on one batch again and again: predictions leave equal scores, and no prototype is given up for that.
#[test]
fn swav_starts_near_ln_k_and_falls_with_all_prototypes_in_use() {
    let settings = [
        "prototypes=4",
        "dim=256",
        "epsilon=0.02",
        "freeze_epochs=0",
        "small_crops=0",
        "optimizer=adamw",
        "lr=0.003",
        "lr_scaling=none",
        "weight_decay=0.0",
        "epochs=40",
        "crop_min=0.6",
        "jitter=0.0",
        "grayscale=0.0",
        "blur=0.0",
    ];
    let mut bench = Bench::new(&swav::SPEC, &settings);
    let views = bench.batch();
    let records: Vec<_> = (0..40 * STEPS).map(|_| bench.step(&views)).collect();
    let chance = 4f64.ln();
    let (first, last) = (records[0].loss, records[records.len() - 1].loss);
    assert!((first / chance - 1.0).abs() < 0.5, "{first} at first, ln K is {chance}");
    assert!(last < chance / 2.0, "{last} at last");
    for record in &records[records.len() - 30..] {
        let used = record.scalars.iter().find(|(key, _)| key == "prototypes/used").unwrap().1;
        assert!(used > 0.9, "{used} of the prototypes in step {}", record.step);
    }
}
