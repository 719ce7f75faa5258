//! The levels of the promise, on every method: a recorded run is replayed under every condition that may not change a
//! bit, and when a bit is changed on purpose, the replay names the operation and the element.

use std::path::Path;
use std::sync::Arc;

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::op_log::{Fault, LogPlace};
use selfsame_engine::{Device, ErrorKind, Numerics};
use selfsame_methods::replay::{Execution, Recorded, Replay, Side, Verdict, locate, replay};
use selfsame_methods::run::fingerprints::{self, Field};
use selfsame_methods::run::{CreateMode, RunDir};
use selfsame_methods::{METHODS, MethodSpec, Pretrain, Silent, pretrain, settings};

const SETTINGS: [&str; 4] = ["warmup_epochs=0", "eval_every=0", "keep_checkpoints=9", "seed=3"];

/// A contrastive method, one with a teacher and one with Sinkhorn: enough for every day. The ignored tests take all.
const EVERY_DAY: [&str; 3] = ["simclr", "byol", "swav"];

/// Records a run of `spec` with `images` images in batches of `batch`, on two threads.
fn record(spec: &'static MethodSpec, out: &Path, images: usize, batch: usize, more: &[&str]) -> Recorded {
    record_in(Numerics::Strict, spec, out, [images, batch], more)
}

fn record_in(
    numerics: Numerics,
    spec: &'static MethodSpec,
    out: &Path,
    [images, batch]: [usize; 2],
    more: &[&str],
) -> Recorded {
    let mut config = settings::defaults(spec).unwrap();
    let data = [format!("data=scenes:train={images},test=16"), format!("batch={batch}")];
    for setting in data.iter().map(String::as_str).chain(SETTINGS) {
        config.apply_setting(setting).unwrap();
    }
    settings::shrink(&mut config).unwrap();
    more.iter().for_each(|setting| config.apply_setting(setting).unwrap());
    let request = Pretrain {
        spec,
        config,
        device: Device::open_with("cpu", CpuDevice::new(2).unwrap(), numerics).unwrap(),
        ranks: 1,
        workers: 1,
        out: out.to_path_buf(),
        mode: CreateMode::New,
        stop: Arc::default(),
    };
    pretrain(request, &mut Silent).map(drop).unwrap();
    Recorded::open(out, METHODS).unwrap()
}

fn replayed(recorded: &Recorded, steps: Option<(u64, u64)>, execution: Execution) -> selfsame_engine::Result<Verdict> {
    replay(&Replay { recorded, steps, execution, keep: None, stop: Arc::default() }, &mut Silent)
}

fn on(threads: usize) -> Execution {
    Execution::on(Device::cpu_with(threads).unwrap())
}

#[test]
fn methods_have_the_same_bits_at_every_level() {
    METHODS
        .iter()
        .filter(|spec| EVERY_DAY.contains(&spec.name))
        .for_each(|spec| has_the_same_bits_at_every_level(spec, Numerics::Strict));
}

#[test]
fn other_numerics_have_the_same_bits_at_every_level() {
    [Numerics::Fast, Numerics::Bf16].into_iter().for_each(|numerics| {
        has_the_same_bits_at_every_level(METHODS[0], numerics);
    });
}

#[test]
#[ignore = "minutes: all methods"]
fn every_method_has_the_same_bits_at_every_level() {
    METHODS.iter().for_each(|spec| has_the_same_bits_at_every_level(spec, Numerics::Strict));
}

/// Levels 0 to 4 on the CPU, on a batch of four leaves.
fn has_the_same_bits_at_every_level(spec: &'static MethodSpec, numerics: Numerics) {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record_in(numerics, spec, &folder.path().join("run"), [64, 64], &["epochs=2"]);
    let mut seen = Vec::new();
    for level in recorded.levels(None).unwrap() {
        if level.execution.device.name() != "cpu" {
            continue;
        }
        let case = format!("{} in {} numerics, {}: {}", spec.name, numerics.name(), level.name, level.what);
        let ranks = level.execution.ranks;
        // Both steps, also at the slow levels.
        let verdict = match replayed(&recorded, None, level.execution) {
            Ok(verdict) => verdict,
            // An objective that wants equal shares of ranks says so.
            Err(error) if error.kind() == ErrorKind::Numerics && ranks == 3 => continue,
            Err(error) => panic!("{case}: {error}"),
        };
        assert!(verdict.difference.is_none(), "{case}: {verdict:?}");
        assert_eq!((verdict.from, verdict.through, verdict.compared), (0, 2, 3), "{case}");
        seen.push(level.name);
    }
    for (name, least) in [("L0", 1), ("L1", 7), ("L2", 6), ("L3", 2), ("L4", 1)] {
        assert!(seen.iter().filter(|seen| **seen == name).count() >= least, "{}: {seen:?}", spec.name);
    }
}

/// LARS sums over parameters, and the loss over ranks. The batch is twelve leaves: 2, 3 and 4 ranks have equal shares.
#[test]
fn simclr_with_lars_has_the_same_bits_on_threads_and_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(METHODS[0], &folder.path().join("run"), 192, 192, &["epochs=2", "optimizer=lars"]);
    for level in recorded.levels(None).unwrap().into_iter().filter(|level| ["L1", "L3"].contains(&level.name)) {
        let verdict = replayed(&recorded, None, level.execution).unwrap();
        assert!(verdict.difference.is_none() && verdict.through == 2, "{}: {verdict:?}", level.what);
    }
}

#[test]
fn methods_have_the_same_bits_through_kernels() {
    METHODS
        .iter()
        .filter(|spec| EVERY_DAY.contains(&spec.name))
        .for_each(|spec| has_the_same_bits_through_kernels(spec));
}

#[test]
#[ignore = "minutes: all methods"]
fn every_method_has_the_same_bits_through_kernels() {
    METHODS.iter().for_each(|spec| has_the_same_bits_through_kernels(spec));
}

/// Level 4 through the GPU's kernels, which the host runs slowly: one step of one leaf.
fn has_the_same_bits_through_kernels(spec: &'static MethodSpec) {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(spec, &folder.path().join("run"), 16, 16, &["epochs=1"]);
    let kernels = recorded.levels(None).unwrap().pop().expect("the last level is that of the kernels");
    assert_ne!(kernels.execution.device.name(), "cpu");
    let verdict = replayed(&recorded, None, kernels.execution).unwrap();
    assert!(verdict.difference.is_none() && verdict.compared == 2, "{}: {verdict:?}", spec.name);
}

#[test]
fn a_replay_begins_at_the_nearest_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(METHODS[0], &folder.path().join("run"), 32, 16, &["epochs=4", "checkpoint_every=1"]);
    let verdict = replayed(&recorded, Some((6, 7)), on(1)).unwrap();
    // Two steps an epoch: the state of step 4 is the last at or before step 5. Of the recorded lines, 5 to 7 count.
    assert_eq!((verdict.from, verdict.through, verdict.compared), (4, 7, 3), "{verdict:?}");
    let refused = replayed(&recorded, Some((6, 9)), on(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.sentence().contains("1 to 8"), "{}", refused.sentence());
    // A damaged checkpoint is passed over.
    let checkpoint = folder.path().join("run/checkpoints/step-000000000004.ckpt");
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&checkpoint, bytes).unwrap();
    let verdict = replayed(&recorded, Some((6, 7)), on(1)).unwrap();
    assert_eq!((verdict.from, verdict.through), (2, 7));
    assert!(verdict.difference.is_none());
}

/// What else than weights a run goes on with: a queue and a teacher (moco), prototypes and a later phase (pcl), a bank
/// and clusters over the data (local aggregation), labels of all images (deepcluster, sela), a teacher's centre (dino).
#[test]
fn late_steps_of_methods_with_states_of_their_own_replay_from_a_checkpoint() {
    for name in ["moco", "pcl", "local-aggregation", "deepcluster", "sela", "dino"] {
        let spec = METHODS.iter().find(|spec| spec.name == name).expect("a method");
        let folder = tempfile::tempdir().unwrap();
        let recorded = record(spec, &folder.path().join("run"), 64, 32, &["epochs=4", "checkpoint_every=1"]);
        let verdict = replayed(&recorded, Some((6, 8)), on(1)).unwrap();
        assert!(verdict.difference.is_none(), "{name}: {verdict:?}");
        // From the state of step 4 on, the lines of steps 5 to 8.
        assert_eq!((verdict.from, verdict.through, verdict.compared), (4, 8, 4), "{name}");
    }
}

/// Flips a bit of one element of the first convolution and lets the replay find it.
#[test]
fn a_flipped_bit_is_traced_to_its_operation_and_element() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(METHODS[0], &folder.path().join("run"), 48, 16, &["epochs=2"]);
    let fault = Fault { place: LogPlace { index: 0, lane: 0 }, element: 77, bit: 20 };
    let flipping = Execution { fault: Some((5, fault)), ..on(2) };
    let verdict = replayed(&recorded, None, flipping.clone()).unwrap();
    let difference = verdict.difference.expect("a flipped bit");
    assert_eq!((verdict.through, difference.step), (4, 5));
    assert!(difference.field >= Field::Loss, "{difference:?}");
    let recorded_side = Side { recorded: &recorded, execution: recorded.execution(5).unwrap() };
    let sides = [&recorded_side, &Side { recorded: &recorded, execution: flipping }];
    let place = locate(sides, 5, difference.field, &Arc::default(), &mut Silent).unwrap();
    assert_eq!(place.step, 5);
    assert!(place.what.starts_with("entry 0, forward of conv2d in "), "{}", place.what);
    assert!(place.remarks.is_empty(), "{:?}", place.remarks);
    let element = place.element.expect("both arrays were kept");
    assert_eq!(element.count, 1);
    let flat = element.index.iter().zip(&place.shape).fold(0, |at, (i, len)| at * len + i);
    assert_eq!(flat, 77);
    let bits = element.bits.map(|bits| u32::from_str_radix(&bits, 16).unwrap());
    assert_eq!(bits[0] ^ bits[1], 1 << 20);
    let values = element.values.map(|value| value.parse::<f32>().unwrap().to_bits());
    assert_eq!(values, bits, "the decimals name the same values");
}

/// A bit flipped in a rank's part cannot be paired with an operation of the whole batch; the state still tells.
#[test]
fn differently_cut_sides_are_compared_by_gradients_and_state() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = record(METHODS[0], &folder.path().join("run"), 32, 32, &["epochs=2"]);
    let fault = Fault { place: LogPlace { index: 0, lane: 1 }, element: 5, bit: 22 };
    let ranks = Execution { ranks: 2, fault: Some((2, fault)), ..on(2) };
    let difference = replayed(&recorded, None, ranks.clone()).unwrap().difference.expect("a flipped bit");
    assert_eq!(difference.step, 2);
    let side = |execution| Side { recorded: &recorded, execution };
    let sides = [&side(recorded.execution(2).unwrap()), &side(ranks)];
    let place = locate(sides, 2, difference.field, &Arc::default(), &mut Silent).unwrap();
    assert!(place.what.contains("the gradient of "), "{}", place.what);
    assert!(place.remarks[0].contains("cut in 1 parts and in 2"), "{:?}", place.remarks);
    assert!(place.element.is_some());
}

#[test]
fn what_differs_is_said_before_running() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let recorded = record(METHODS[0], &path, 32, 16, &["epochs=1"]);
    let device = Device::cpu_with(1).unwrap();
    assert_eq!(recorded.differences(&device), [] as [String; 0]);

    let text = std::fs::read_to_string(path.join("config.toml")).unwrap();
    std::fs::write(path.join("config.toml"), text.replace("momentum = 0.9", "momentum = 0.8")).unwrap();
    let dir = RunDir::open(&path).unwrap();
    let mut manifest = dir.read_manifest().unwrap();
    manifest.data_checksum = Some("0123456789abcdef".into());
    manifest.sessions[0].build.compiler = "rustc 1.0.0".into();
    dir.write_manifest(&manifest).unwrap();
    let changed = Recorded::open(&path, METHODS).unwrap();
    let found = changed.differences(&device);
    for (sentence, word) in found.iter().zip(["compiler: rustc 1.0.0", "'momentum': 0.9", "checksum 0123456789abcdef"])
    {
        assert!(sentence.contains(word), "{found:?}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
    // The manifest's side is made again with the changed file, and does not give what was recorded: that is said.
    let side = Side { recorded: &changed, execution: on(2) };
    let place = locate([&side, &side], 2, Field::State, &Arc::default(), &mut Silent).unwrap();
    assert!(place.remarks[0].contains("does not compute what"), "{place:?}");
    // The momentum acts from the second step on.
    let verdict = replayed(&changed, None, on(1)).unwrap();
    let difference = verdict.difference.expect("another momentum");
    assert_eq!((difference.step, difference.field), (2, Field::State));
}

/// Two statistics groups of 16 images: on one rank as recorded, on two ranks, and no others.
#[test]
fn a_run_with_local_batch_norm_is_replayed_in_its_groups_alone() {
    let folder = tempfile::tempdir().unwrap();
    let local = ["epochs=2", "batch_norm=local", "micro_batch=16", "checkpoint_every=1"];
    let recorded = record(METHODS[0], &folder.path().join("run"), 32, 32, &local);
    for execution in [recorded.execution(1).unwrap(), Execution { ranks: 2, ..on(2) }] {
        let verdict = replayed(&recorded, None, execution).unwrap();
        assert!(verdict.difference.is_none() && verdict.through == 2, "{verdict:?}");
    }
    // From the beginning and from a checkpoint.
    for steps in [None, Some((2, 2))] {
        let refused = replayed(&recorded, steps, on(2)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Numerics);
        assert!(refused.sentence().contains("micro-batches of 16+16 images, as the run began"), "{refused}");
    }
}

/// A run that records everything, every second step.
#[test]
fn sparse_and_dense_recordings_replay_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let more = ["epochs=3", "fingerprints=operations", "fingerprint_every=2"];
    let recorded = record(METHODS[0], &path, 32, 16, &more);
    let lines = fingerprints::read(&path.join("fingerprints.jsonl")).unwrap();
    assert_eq!(lines.iter().map(|line| line.step).collect::<Vec<_>>(), [0, 2, 4, 6]);
    let work = lines[1].work.as_ref().unwrap();
    assert!(work.operations.iter().any(|entry| entry.starts_with("0:conv2d/forward/0 ")), "{:?}", work.operations);
    assert!(work.operations.iter().any(|entry| entry.contains("conv2d/backward")));
    assert!(work.gradient.len() > 4);
    let verdict = replayed(&recorded, None, on(1)).unwrap();
    assert_eq!((verdict.through, verdict.compared), (6, 4), "{verdict:?}");

    // A fault in step 3 shows in the line of step 4; the search goes back to step 3.
    let fault = Fault { place: LogPlace { index: 0, lane: 0 }, element: 1, bit: 20 };
    let flipping = Execution { fault: Some((3, fault)), ..on(1) };
    let difference = replayed(&recorded, None, flipping.clone()).unwrap().difference.expect("a flipped bit");
    assert_eq!(difference.step, 4);
    let side = |execution| Side { recorded: &recorded, execution };
    let sides = [&side(recorded.execution(4).unwrap()), &side(flipping)];
    let place = locate(sides, 4, difference.field, &Arc::default(), &mut Silent).unwrap();
    assert!((place.step, place.what.starts_with("entry 0, ")) == (3, true), "{place:?}");
}
