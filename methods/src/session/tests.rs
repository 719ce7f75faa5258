//! Runs that are stopped, that fail, and that go on.

use super::*;
use crate::method::{Method, Step};
use crate::observer::Silent;
use crate::run::checkpoint_store::tests::make_newer;
use crate::zoo::{deepcluster, simclr};
use selfsame_autograd::{ParamSet, ParamVisitor};
use selfsame_data::readers::encode_png;
use selfsame_models::Ctx;
use selfsame_models::backbones::Backbone;
use std::fs;
use std::path::Path;

fn request(out: PathBuf, mode: CreateMode, threads: usize) -> Pretrain {
    request_of(&simclr::SPEC, &[], out, mode, threads)
}

/// Three epochs of three steps.
fn request_of(spec: &'static MethodSpec, changed: &[&str], out: PathBuf, mode: CreateMode, threads: usize) -> Pretrain {
    let mut config = settings::defaults(spec).unwrap();
    let small = [
        "data=scenes:train=50,test=20",
        "backbone=resnet-small",
        "stem=small",
        "width=0.25",
        "batch=16",
        "epochs=3",
        "eval_every=2",
    ];
    for setting in small.iter().chain(changed) {
        config.apply_setting(setting).unwrap();
    }
    let device = Device::cpu_with(threads).unwrap();
    Pretrain { spec, config, device, ranks: 1, workers: 1, out, mode, stop: Arc::default() }
}

/// The pictures of [`request`] as files, under `folder`.
fn photos(folder: &Path) -> PathBuf {
    let (photos, scenes) = (folder.join("photos"), open("scenes:train=50,test=20", Split::Train).unwrap());
    fs::create_dir(&photos).unwrap();
    for index in 0..scenes.len() {
        let png = encode_png(&scenes.get(index).unwrap().image).unwrap();
        fs::write(photos.join(format!("{index:02}.png")), png).unwrap();
    }
    photos
}

fn newest_checkpoint(out: &Path) -> u64 {
    *CheckpointStore::at(out.join("checkpoints")).list().unwrap().last().unwrap()
}

/// Takes the images away once a step has its batch, as a file server does that hangs up.
struct Unplug<'a>(u64, &'a Path);

impl Observer for Unplug<'_> {
    fn before_step(&mut self, step: u64) {
        if step == self.0 {
            fs::rename(self.1, self.1.with_extension("away")).unwrap();
        }
    }
}

#[test]
fn a_run_whose_images_went_away_keeps_its_steps_and_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let data = format!("data=folder:{}", photos.display());
    let request = |spec: &'static MethodSpec, out: &str, mode| {
        let clusters = ["clusters=4", "components=4"].into_iter().filter(|_| spec.name == "deepcluster");
        let settings: Vec<&str> = ["checkpoint_every=5", &data].into_iter().chain(clusters).collect();
        Pretrain { workers: 0, ..request_of(spec, &settings, folder.path().join(out), mode, 1) }
    };
    // Inside an epoch, at its first batch, and while DeepCluster looks at all images before one.
    for (spec, runs) in [(&simclr::SPEC, &[4, 3][..]), (&deepcluster::SPEC, &[3])] {
        let straight = pretrain(request(spec, spec.name, CreateMode::New), &mut Silent).unwrap();
        for &done in runs {
            let name = format!("{}-{done}", spec.name);
            let failed = pretrain(request(spec, &name, CreateMode::New), &mut Unplug(done, &photos)).map(drop);
            let (kind, sentence) = failed.map_err(|error| (error.kind(), error.sentence())).unwrap_err();
            assert_eq!(kind, ErrorKind::Io);
            let said = [&format!("after step {done}: "), ".png: No such file", "--resume", "a new run"];
            assert!(said.iter().all(|said| sentence.contains(*said)), "{sentence}");
            assert_eq!(newest_checkpoint(&folder.path().join(&name)), done);

            fs::rename(photos.with_extension("away"), &photos).unwrap();
            let one = photos.join("07.png");
            let good = fs::read(&one).unwrap();
            fs::write(&one, [&good[..good.len() - 1], &[!good[good.len() - 1]]].concat()).unwrap();
            let refused = pretrain(request(spec, &name, CreateMode::Resume), &mut Silent).map(drop).unwrap_err();
            assert!(refused.sentence().contains("other images"), "{}", refused.sentence());
            fs::write(&one, good).unwrap();
            let resumed = pretrain(request(spec, &name, CreateMode::Resume), &mut Silent).unwrap();
            assert_eq!(resumed.manifest.sessions[1].from_step, done);
            assert_eq!(resumed.weights_hash, straight.weights_hash);
        }
    }
}

/// SimCLR, of which something fails in the second of three epochs.
struct Faulty {
    simclr: Box<dyn Method>,
    fault: String,
}

const FAULTS: [&str; 4] = ["forward", "nan", "after_step", "renewed"];

static FAULTY: MethodSpec = MethodSpec {
    defaults: "temperature = 0.5\nhidden = 0\nhead = \"code\"\ndim = 16\nfault = \"forward\"\n",
    build: |config, init, plan| {
        let simclr = (simclr::SPEC.build)(config, init, plan)?;
        Ok(Box::new(Faulty { simclr, fault: config.choice("fault", &FAULTS)?.to_string() }))
    },
    ..simclr::SPEC
};

impl Method for Faulty {
    fn loss(&self, views: &Views, cx: &Ctx) -> Result<Step> {
        match (self.fault.as_str(), cx.steps_done()) {
            ("forward", 4) | ("renewed", 3) => Err(Error::new(ErrorKind::Device, "matmul", "no such device")),
            ("nan", 4) => Err(Error::new(ErrorKind::NonFinite, "matmul", "NaN")),
            _ => self.simclr.loss(views, cx),
        }
    }

    fn before_epoch(&mut self, epoch: u64, _: &Sweep) -> Result<Vec<String>> {
        if epoch == 1 && self.fault == "renewed" {
            let params = ParamSet::collect(|visitor| self.simclr.visit(visitor))?;
            params.iter().try_for_each(|(_, param)| param.set(param.array()))?;
        }
        Ok(Vec::new())
    }

    fn after_step(&mut self, step: u64) -> Result<()> {
        match (self.fault.as_str(), step) {
            ("after_step", 4) => Err(Error::new(ErrorKind::OutOfMemory, "teacher", "no room")),
            _ => self.simclr.after_step(step),
        }
    }

    fn encoder(&self) -> &dyn Backbone {
        self.simclr.encoder()
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.simclr.visit(visitor);
    }
}

#[test]
fn a_failed_step_saves_the_state_before_it_and_never_half_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [("forward", 1, 4), ("nan", 1, 3), ("after_step", 1, 3), ("renewed", 5, 0)];
    for (fault, checkpoint_every, saved) in cases {
        let (fault_setting, every) = (format!("fault={fault}"), format!("checkpoint_every={checkpoint_every}"));
        let out = folder.path().join(fault);
        let request = request_of(&FAULTY, &[&fault_setting, &every], out.clone(), CreateMode::New, 1);
        let sentence = pretrain(request, &mut Silent).map(drop).unwrap_err().sentence();
        assert_eq!(newest_checkpoint(&out), saved, "{sentence}");
        assert_eq!(sentence.contains("the steps done are saved"), saved == 4, "{sentence}");
    }
}

/// Asks a run to stop after a step.
struct StopAfter(u64, Arc<AtomicBool>);

impl Observer for StopAfter {
    fn step(&mut self, record: &StepRecord) {
        self.1.store(record.step >= self.0, Ordering::Relaxed);
    }
}

#[test]
fn a_stopped_and_resumed_run_ends_with_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let straight = pretrain(request(folder.path().join("a"), CreateMode::New, 2), &mut Silent).unwrap();
    assert_eq!((straight.trainer.steps_done(), straight.plan.dropped), (9, 2));

    // Steps 4 and 6: inside an epoch, and at the end of one.
    for stop_after in [4, 6] {
        let out = folder.path().join(stop_after.to_string());
        let first = request(out.clone(), CreateMode::New, 1);
        let mut observer = StopAfter(stop_after, Arc::clone(&first.stop));
        let stopped = pretrain(first, &mut observer).unwrap();
        assert!(stopped.interrupted && stopped.trainer.steps_done() == stop_after);
        drop(stopped);
        let resumed = pretrain(request(out, CreateMode::Resume, 2), &mut Silent).unwrap();
        assert_eq!(resumed.weights_hash, straight.weights_hash);
        assert_eq!(resumed.manifest.sessions[1].from_step, stop_after);
        assert_eq!(resumed.manifest.sessions[1].micro_batches, [[16]]);
    }
}

/// A batch of 32 in one piece, and one that stops, to go on in micro-batches and on two ranks.
#[test]
fn a_run_may_be_resumed_under_another_cut() {
    let folder = tempfile::tempdir().unwrap();
    let request = |name: &str, mode, ranks: usize, settings: &[&str]| {
        let settings = [&["batch=32", "epochs=2", "batch_norm=frozen"][..], settings].concat();
        Pretrain { ranks, ..request_of(&simclr::SPEC, &settings, folder.path().join(name), mode, 2) }
    };
    let straight = pretrain(request("a", CreateMode::New, 1, &[]), &mut Silent).unwrap();
    let first = request("b", CreateMode::New, 1, &["micro_batch=16"]);
    let mut observer = StopAfter(1, Arc::clone(&first.stop));
    assert!(pretrain(first, &mut observer).unwrap().interrupted);
    let resumed = pretrain(request("b", CreateMode::Resume, 1, &["recompute=true"]), &mut Silent).unwrap();
    assert_eq!(resumed.weights_hash, straight.weights_hash);
    let cuts: Vec<_> = resumed.manifest.sessions.iter().map(|session| session.micro_batches.clone()).collect();
    assert_eq!(cuts, [[[16, 16].to_vec()], [[32].to_vec()]]);
}

/// Two statistics groups of 16 images: on two ranks, then as micro-batches of one.
#[test]
fn a_run_with_local_batch_norm_is_resumed_in_the_same_groups_alone() {
    let folder = tempfile::tempdir().unwrap();
    let request = |name: &str, mode, ranks: usize, settings: &[&str]| {
        let settings = [&["batch=32", "epochs=3", "batch_norm=local"][..], settings].concat();
        Pretrain { ranks, ..request_of(&simclr::SPEC, &settings, folder.path().join(name), mode, 2) }
    };
    let straight = pretrain(request("a", CreateMode::New, 2, &[]), &mut Silent).unwrap();
    assert!(straight.warnings.iter().any(|text| text.contains("depend on the cut")), "{:?}", straight.warnings);
    let stopped = |request: Pretrain, step| {
        let mut observer = StopAfter(step, Arc::clone(&request.stop));
        assert!(pretrain(request, &mut observer).unwrap().interrupted);
    };
    stopped(request("b", CreateMode::New, 2, &[]), 1);
    let manifest = || RunDir::open(folder.path().join("b")).unwrap().read_manifest().unwrap();
    let before = manifest();
    let refused = pretrain(request("b", CreateMode::Resume, 1, &[]), &mut Silent).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Numerics);
    for part in ["micro-batches of 32 images", "over 2 ranks: 16, 16 images, as the run began", "strict numerics"] {
        assert!(refused.sentence().contains(part), "'{part}' in {}", refused.sentence());
    }
    assert_eq!(manifest(), before, "a refused run is left as it is");

    stopped(request("b", CreateMode::Resume, 1, &["micro_batch=16"]), 2);
    let together = ["micro_batch=16", "grad_cache=false"];
    let resumed = pretrain(request("b", CreateMode::Resume, 1, &together), &mut Silent).unwrap();
    assert_eq!(resumed.weights_hash, straight.weights_hash);
    let cuts: Vec<_> = resumed.manifest.sessions.iter().map(|session| session.micro_batches.clone()).collect();
    assert_eq!(cuts, [vec![vec![16], vec![16]], vec![vec![16, 16]], vec![vec![16, 16]]]);
}

/// Neither an older checkpoint nor the beginning takes the place of one that another program can read.
#[test]
fn a_checkpoint_of_a_newer_format_is_not_resumed_from() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a");
    let first = request(out.clone(), CreateMode::New, 1);
    let mut observer = StopAfter(4, Arc::clone(&first.stop));
    assert!(pretrain(first, &mut observer).unwrap().interrupted);
    let files = || {
        let read = |name| fs::read(out.join(name)).unwrap();
        ["config.toml", "manifest.json", "metrics.jsonl", "fingerprints.jsonl"].map(read)
    };
    let before = files();
    make_newer(&out.join("checkpoints/step-000000000004.ckpt"));
    let resume = || pretrain(request(out.clone(), CreateMode::Resume, 1), &mut Silent).map(drop).unwrap_err();
    let error = resume();
    assert_eq!(error.kind(), ErrorKind::Config);
    for part in ["step-000000000004", "format 2", "expected format 1", "another version"] {
        assert!(error.sentence().contains(part), "'{part}' in {}", error.sentence());
    }
    // With nothing older either.
    fs::remove_file(out.join("checkpoints/step-000000000003.ckpt")).unwrap();
    assert_eq!(resume().kind(), ErrorKind::Config);
    assert!(files() == before, "a refused run is left as it is");
}

#[test]
fn a_resumed_run_keeps_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = request(folder.path().join("a"), CreateMode::New, 1);
    first.config.apply_setting("epochs=1").unwrap();
    pretrain(first, &mut Silent).map(drop).unwrap();
    let error = pretrain(request(folder.path().join("a"), CreateMode::Resume, 1), &mut Silent).map(drop).unwrap_err();
    assert!(error.sentence().contains("'epochs'"), "{}", error.sentence());
}
