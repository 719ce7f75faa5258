//! The bits of a step do not depend on how its batch is cut into micro-batches and over ranks.

mod toy;

use std::time::Duration;

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Device, ErrorKind, Numerics, Result};
use selfsame_methods::method::MethodSpec;
use selfsame_methods::trainer::{Cut, Plan, Trainer};
use selfsame_methods::{settings, zoo::simclr};
use selfsame_models::BatchNormMode::{self, Frozen, Local, Lockstep};
use toy::{TOY, views};

const CACHED: bool = true;
const TOGETHER: bool = false;

/// What to train, on what.
#[derive(Clone, Copy)]
struct Setting<'a> {
    spec: &'static MethodSpec,
    images: usize,
    size: usize,
    steps: u64,
    settings: &'a [&'a str],
}

const GROUP_NORM: Setting = Setting { spec: &TOY, images: 64, size: 8, steps: 3, settings: &[] };
const BATCH_NORM: Setting = Setting { settings: &["norm=batch"], ..GROUP_NORM };
const BLOCKS: Setting = Setting { settings: &["norm=blocks"], ..GROUP_NORM };
const SIMCLR: Setting = Setting {
    spec: &simclr::SPEC,
    images: 64,
    size: 16,
    steps: 2,
    settings: &["backbone=resnet-small", "stem=small", "width=0.25", "dim=16"],
};

/// What a training left: losses, gradient norms and embedding statistics of every step, and the trainer's whole state.
#[derive(PartialEq)]
struct Trained {
    numbers: Vec<[u64; 3]>,
    state: Vec<u8>,
}

fn trainer(setting: &Setting, cut: Cut, device: &Device) -> Result<Trainer> {
    let mut config = settings::defaults(setting.spec)?;
    let batch = format!("batch={}", setting.images);
    for setting in [&batch[..], "warmup_epochs=0"].iter().chain(setting.settings) {
        config.apply_setting(setting)?;
    }
    let plan = Plan::of(&config, setting.images * 10)?;
    Trainer::new(setting.spec, &config, &plan, device)?.with_cut(cut)
}

fn trained(setting: &Setting, cut: Cut, threads: usize) -> Result<Trained> {
    trained_on(&Device::cpu_with(threads)?, setting, cut)
}

fn trained_on(device: &Device, setting: &Setting, cut: Cut) -> Result<Trained> {
    let mut trainer = trainer(setting, cut, device)?;
    let mut numbers = Vec::new();
    for step in 0..setting.steps {
        let record = trainer.step(&views(setting.images, setting.size, step, device), Duration::ZERO)?;
        let deviation = record.embedding_std.expect("both methods show their embeddings");
        numbers.push([record.loss, record.grad_norm, deviation].map(f64::to_bits));
    }
    Ok(Trained { numbers, state: trainer.snapshot()? })
}

fn cut(sizes: &[&[usize]], cached: bool, batch_norm: BatchNormMode) -> Cut {
    Cut::sizes(sizes.iter().map(|rank| rank.to_vec()).collect(), cached, batch_norm).unwrap()
}

/// Trains `setting` in one piece and under every cut, and compares all bits.
fn expect_same_bits(
    setting: &Setting,
    batch_norm: BatchNormMode,
    cached: bool,
    cuts: &[&[&[usize]]],
    threads: &[usize],
) {
    let whole = trained(setting, cut(&[&[setting.images]], cached, batch_norm), 2).unwrap();
    for sizes in cuts {
        for &threads in threads {
            let found = trained(setting, cut(sizes, cached, batch_norm), threads).unwrap();
            let case = format!("{:?} {batch_norm:?} in {sizes:?}, {threads} threads", setting.settings);
            assert_eq!(found.numbers, whole.numbers, "{case}");
            assert!(found.state == whole.state, "{case}: another state");
        }
    }
}

const MICRO: &[&[&[usize]]] = &[&[&[64]], &[&[32, 32]], &[&[16, 16, 16, 16]], &[&[32, 16, 16]], &[&[16, 48]]];

#[test]
fn gradient_caching_has_the_bits_of_the_batch_where_nothing_couples_samples() {
    expect_same_bits(&GROUP_NORM, Lockstep, CACHED, MICRO, &[1, 2, 3]);
    expect_same_bits(&BATCH_NORM, Frozen, CACHED, MICRO, &[2]);
    // Statistics of blocks of 16 images: whole in every cut, running averages included.
    expect_same_bits(&BLOCKS, Lockstep, CACHED, MICRO, &[2]);
    let contrasts = Setting { settings: &["objective=ntxent"], ..GROUP_NORM };
    expect_same_bits(&contrasts, Lockstep, CACHED, MICRO, &[2]);
}

#[test]
fn a_ragged_last_leaf_is_no_obstacle() {
    let ragged = Setting { images: 57, ..GROUP_NORM };
    expect_same_bits(&ragged, Lockstep, CACHED, &[&[&[32, 25]], &[&[16], &[32, 9]]], &[2]);
    let ragged = Setting { images: 57, ..BATCH_NORM };
    expect_same_bits(&ragged, Lockstep, TOGETHER, &[&[&[48, 9]], &[&[16, 16], &[25]]], &[2]);
}

#[test]
fn lockstep_has_the_bits_of_the_batch_with_batch_norm() {
    expect_same_bits(&BATCH_NORM, Lockstep, TOGETHER, MICRO, &[1, 2, 3]);
    let contrasts = Setting { settings: &["norm=batch", "objective=ntxent"], ..GROUP_NORM };
    expect_same_bits(&contrasts, Lockstep, TOGETHER, MICRO, &[2]);
}

const RANKS: &[&[&[usize]]] =
    &[&[&[32], &[32]], &[&[16], &[16], &[32]], &[&[16], &[16], &[16], &[16]], &[&[48], &[16]]];

#[test]
fn ranks_have_the_bits_of_one() {
    expect_same_bits(&BATCH_NORM, Lockstep, CACHED, RANKS, &[1, 2, 3]);
    expect_same_bits(&BLOCKS, Lockstep, CACHED, RANKS, &[2]);
    expect_same_bits(&GROUP_NORM, Lockstep, CACHED, RANKS, &[2]);
}

#[test]
fn ranks_that_cut_their_shares_have_the_bits_of_one() {
    let cuts: &[&[&[usize]]] = &[&[&[16, 16], &[32]], &[&[16], &[16, 32]], &[&[16, 16], &[16, 16]]];
    expect_same_bits(&BATCH_NORM, Lockstep, TOGETHER, cuts, &[1, 2]);
    expect_same_bits(&BATCH_NORM, Frozen, CACHED, cuts, &[2]);
    expect_same_bits(&BLOCKS, Lockstep, CACHED, cuts, &[2]);
}

#[test]
fn simclr_has_the_same_bits_in_micro_batches_with_and_without_recomputation() {
    let recomputing: Vec<&str> = SIMCLR.settings.iter().copied().chain(["recompute=true"]).collect();
    let recomputing = Setting { settings: &recomputing, ..SIMCLR };
    for (batch_norm, cached) in [(Lockstep, TOGETHER), (Frozen, CACHED)] {
        let whole = trained(&SIMCLR, cut(&[&[64]], cached, batch_norm), 2).unwrap();
        for setting in [&SIMCLR, &recomputing] {
            let found = trained(setting, cut(&[&[32, 16, 16]], cached, batch_norm), 2).unwrap();
            assert_eq!(found.numbers, whole.numbers, "{batch_norm:?} {:?}", setting.settings);
            assert!(found.state == whole.state, "{batch_norm:?} {:?}", setting.settings);
        }
    }
}

/// Synchronised batch norm and streaming NT-Xent: the whole training has the same bits for any number of ranks.
#[test]
fn simclr_on_ranks_has_the_bits_of_one() {
    let whole = trained(&SIMCLR, cut(&[&[64]], CACHED, Lockstep), 2).unwrap();
    for sizes in [&[&[32][..], &[32]][..], &[&[16], &[16], &[16], &[16]]] {
        let found = trained(&SIMCLR, cut(sizes, CACHED, Lockstep), 2).unwrap();
        assert_eq!(found.numbers, whole.numbers, "{sizes:?}");
        assert!(found.state == whole.state, "{sizes:?}");
    }
}

/// On a device with kernels, which ranks and micro-batches use from several threads.
#[test]
fn cuts_on_a_device_with_kernels_have_the_bits_of_the_cpu() {
    let short = Setting { images: 32, steps: 2, ..BATCH_NORM };
    let device = Device::open_with("simt:unchecked", CpuDevice::new(2).unwrap(), Numerics::Strict).unwrap();
    for (batch_norm, cached, sizes) in [
        (Frozen, CACHED, &[&[16, 16][..]][..]),
        (Lockstep, TOGETHER, &[&[16, 16]]),
        (Lockstep, CACHED, &[&[16], &[16]]),
    ] {
        let whole = trained(&short, cut(&[&[32]], cached, batch_norm), 2).unwrap();
        let found = trained_on(&device, &short, cut(sizes, cached, batch_norm)).unwrap();
        assert_eq!(found.numbers, whole.numbers, "{batch_norm:?} {sizes:?}");
        assert!(found.state == whole.state, "{batch_norm:?} {sizes:?}");
    }
}

#[test]
fn local_batch_norm_has_one_group_per_micro_batch() {
    // Blocks of 16 images are what local groups are when micro-batches have 16 images.
    let blocks = trained(&BLOCKS, cut(&[&[64]], CACHED, Lockstep), 2).unwrap();
    let local = |sizes: &[&[usize]], cached| trained(&BATCH_NORM, cut(sizes, cached, Local), 2).unwrap();
    for cached in [CACHED, TOGETHER] {
        for sizes in [&[&[16, 16, 16, 16][..]][..], &[&[16, 16], &[16, 16]], &[&[16], &[16], &[16], &[16]]] {
            let found = local(sizes, cached);
            assert_eq!(found.numbers, blocks.numbers, "{sizes:?}, {cached}");
            assert!(found.state == blocks.state, "{sizes:?}, {cached}");
        }
    }
    assert!(local(&[&[32, 32]], CACHED).state != blocks.state, "the cut did not matter");
}

#[test]
fn caching_holds_the_activations_of_one_micro_batch() {
    let peak = |sizes: &[&[usize]], cached| {
        let large = Setting { size: 32, ..GROUP_NORM };
        let device = Device::cpu_with(1).unwrap();
        let mut trainer = trainer(&large, cut(sizes, cached, Lockstep), &device).unwrap();
        let views = views(64, 32, 0, &device);
        trainer.step(&views, Duration::ZERO).unwrap();
        device.host().memory().reset_peak();
        let before = device.memory().live;
        trainer.step(&views, Duration::ZERO).unwrap();
        device.memory().peak - before
    };
    let (whole, quarter, half) =
        (peak(&[&[64]], CACHED), peak(&[&[16, 16, 16, 16]], CACHED), peak(&[&[32, 32]], CACHED));
    // A quarter of the activations, and embeddings and gradients that are small here.
    assert!(quarter * 10 < whole * 3, "{quarter} of {whole} bytes");
    assert!(half * 10 < whole * 6 && half > quarter, "{half} of {whole} bytes");
    // In lockstep all activations are kept; the workspace is that of one micro-batch.
    let together = peak(&[&[16, 16, 16, 16]], TOGETHER);
    assert!(together > quarter * 2 && together < whole, "{together} of {whole} bytes");
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_reason() {
    let refused = |setting: &Setting, cut: Cut| {
        let error = trained(setting, cut, 2).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Numerics, "{error}");
        error.sentence()
    };
    for sizes in [&[&[32, 32][..]][..], &[&[16, 16], &[32]]] {
        let sentence = refused(&BATCH_NORM, cut(sizes, CACHED, Lockstep));
        assert!(sentence.contains("statistics of the whole batch") && sentence.contains("grad_cache"), "{sentence}");
    }
    let sentence = refused(&SIMCLR, cut(&[&[16], &[16], &[32]], CACHED, Lockstep));
    assert!(sentence.contains("equally many on every rank"), "{sentence}");
    let whole = Setting { settings: &["divisible=false"], ..GROUP_NORM };
    let sentence = refused(&whole, cut(&[&[32, 32]], CACHED, Lockstep));
    assert!(sentence.contains("mixed across the batch") && sentence.contains("micro_batch = 0"), "{sentence}");
    let error = Cut::sizes(vec![vec![24, 40]], CACHED, Lockstep).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Numerics);
}

#[test]
fn an_indivisible_method_runs_whole_and_on_ranks() {
    let whole = Setting { settings: &["divisible=false"], ..GROUP_NORM };
    expect_same_bits(&whole, Lockstep, CACHED, RANKS, &[2]);
}

#[test]
fn a_failed_step_under_a_cut_changes_nothing_and_names_the_operation() {
    for (sizes, cached) in [(&[&[32, 32][..]][..], CACHED), (&[&[16, 16], &[32]], TOGETHER), (&[&[32], &[32]], CACHED)]
    {
        let bad = Setting { settings: &["objective=ntxent"], ..GROUP_NORM };
        let device = Device::cpu_with(2).unwrap();
        let mut trainer = trainer(&bad, cut(sizes, cached, Lockstep), &device).unwrap();
        let before = trainer.snapshot().unwrap();
        let mut bad = views(64, 8, 0, &device);
        let weight = trainer.params().iter().find(|(path, _)| *path == "head.weight").unwrap().1.clone();
        let kept = weight.array();
        weight.set(selfsame_engine::ops::scale(kept.clone(), 1e38).unwrap()).unwrap();
        let error = trainer.step(&bad, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.sentence().contains("the first is in"), "{}", error.sentence());
        weight.set(kept).unwrap();
        assert!(trainer.snapshot().unwrap() == before);
        bad = views(48, 8, 0, &device);
        assert!(trainer.step(&bad, Duration::ZERO).unwrap_err().sentence().contains("48 images"));
    }
}
