//! Methods trained on one batch for a while: where the loss starts, and what comes of it.

use crate::bench::{BATCH, Bench, STEPS, built, loss};
use selfsame_methods::eval::collapse;
use selfsame_methods::trainer::StepRecord;
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

/// At the first step and every third; the loss and its gradients know nothing of it.
#[test]
fn simclr_s_log_says_how_well_views_pick_their_partners() {
    let settings = |log_every| ["optimizer=adamw", "lr=0.003", "lr_scaling=none", "temperature=0.2", log_every];
    let trained = |log_every| {
        let mut bench = Bench::new(&simclr::SPEC, &settings(log_every));
        let views = bench.batch();
        let records: Vec<_> = (0..12).map(|_| bench.step(&views)).collect();
        (records, bench.values(""))
    };
    let ((often, weights), (once, same)) = (trained("log_every=3"), trained("log_every=100"));
    assert_eq!(weights, same);
    let logged = |record: &StepRecord, key: &str| record.scalars.iter().find(|(k, _)| k == key).map(|(_, x)| *x);
    for (a, b) in often.iter().zip(&once) {
        assert_eq!(a.loss.to_bits(), b.loss.to_bits(), "step {}", a.step);
        assert_eq!(logged(b, "contrast/top1").is_some(), b.step == 1);
        let wanted = a.step == 1 || a.step % 3 == 0;
        assert_eq!(a.effective_rank.is_some(), wanted);
        let [top1, entropy] = ["contrast/top1", "contrast/entropy"].map(|key| logged(a, key));
        assert_eq!((top1.is_some(), entropy.is_some()), (wanted, wanted), "step {}", a.step);
        let views = (2 * BATCH) as f64;
        assert!(top1.is_none_or(|share| (0.0..=1.0).contains(&share) && (share * views).fract() == 0.0), "{top1:?}");
        assert!(entropy.is_none_or(|nats| (0.0..=(views - 1.0).ln()).contains(&nats)), "{entropy:?}");
    }
    let of = |key: &str| [logged(&often[0], key).unwrap(), logged(&often[11], key).unwrap()];
    let ([untrained, trained], [at_first, at_last]) = (of("contrast/top1"), of("contrast/entropy"));
    assert!(trained > untrained && at_last < at_first, "{untrained} to {trained}, {at_first} to {at_last} nats");
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
