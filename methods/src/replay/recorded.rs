//! [`Recorded`]: a run directory as something to run again.

use std::ops::RangeInclusive;
use std::path::Path;

use selfsame_data::{Split, open};
use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::{Device, Error, ErrorKind, Numerics, Result};
use selfsame_kernels::isa::Isa;

use super::Execution;
use super::scratch::Start;
use crate::config::Config;
use crate::method::{self, MethodSpec};
use crate::run::fingerprints::{self, Detail};
use crate::run::manifest::{Build, Gpu, facts};
use crate::run::{CheckpointStore, Fingerprint, Manifest, RunDir, Session};
use crate::settings;
use crate::trainer::Cut;

/// A recorded run.
pub struct Recorded {
    dir: RunDir,
    spec: &'static MethodSpec,
    config: Config,
    manifest: Manifest,
    fingerprints: Vec<Fingerprint>,
}

impl Recorded {
    /// Reads the run in `path`, of one of `methods`.
    ///
    /// # Errors
    /// `Config` when there is no run, its method is unknown, or it has no fingerprints; `Io`; `Corrupt`.
    pub fn open(path: &Path, methods: &[&'static MethodSpec]) -> Result<Recorded> {
        let dir = RunDir::open(path)?;
        let manifest = dir.read_manifest()?;
        let spec = method::find(&manifest.method, methods)?;
        let config = settings::resolve(spec, Some(&dir.config_path()), &[])?;
        let file = dir.fingerprints_path();
        let fingerprints = match file.exists() {
            true => fingerprints::read(&file)?,
            false => Vec::new(),
        };
        if fingerprints.is_empty() || manifest.sessions.is_empty() {
            return Err(Error::new(ErrorKind::Config, path.display().to_string(), "a run without fingerprints")
                .expected("one that was recorded with `fingerprints` other than off")
                .hint("train it again: the default records every step"));
        }
        Ok(Recorded { dir, spec, config, manifest, fingerprints })
    }

    /// The run directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its fingerprints, in the order of the steps.
    pub fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    /// The fingerprint of `step`.
    pub fn fingerprint(&self, step: u64) -> Option<&Fingerprint> {
        self.fingerprints.iter().find(|line| line.step == step)
    }

    pub(super) fn spec(&self) -> &'static MethodSpec {
        self.spec
    }

    /// First and last step to compare: those asked for, or all that are recorded.
    ///
    /// # Errors
    /// `Config` when the run has not recorded them.
    pub fn steps(&self, asked: Option<(u64, u64)>) -> Result<(u64, u64)> {
        let [recorded_first, .., recorded_last] = &self.fingerprints[..] else {
            return Err(self.no_steps("none", asked));
        };
        let (low, high) = (recorded_first.step + 1, recorded_last.step);
        let (first, last) = asked.unwrap_or((low, high));
        if first < low || last > high || first > last {
            return Err(self.no_steps(&format!("{low} to {high}"), asked));
        }
        Ok((first, last))
    }

    fn no_steps(&self, recorded: &str, asked: Option<(u64, u64)>) -> Error {
        let got = asked.map_or("all".into(), |(first, last)| format!("{first} to {last}"));
        Error::new(ErrorKind::Config, "steps", got).expected(format!("within what is recorded: {recorded}"))
    }

    /// The last state at or before `step` that a run can begin from: a checkpoint, or the beginning.
    ///
    /// # Errors
    /// `Io` for a checkpoint that cannot be read, `Config` for one of another format.
    pub(super) fn nearest(&self, step: u64) -> Result<Start> {
        let store = CheckpointStore::at(self.dir.checkpoints_path());
        let mut earlier = store.list()?;
        earlier.retain(|saved| (1..=step).contains(saved));
        // One that is damaged is passed over: an older one gives the same bits.
        Ok(store.newest_of(&earlier)?.map_or(Start::Beginning, Start::Checkpoint))
    }

    /// The session that ran `step`.
    fn session(&self, step: u64) -> Option<&Session> {
        self.manifest.sessions.iter().rev().find(|session| session.from_step < step).or(self.manifest.sessions.first())
    }

    /// How `step` was run: device, threads, instruction set and cut, as far as this machine has them.
    ///
    /// # Errors
    /// `Device` when it has not; `Config` when the manifest is not understood.
    pub fn execution(&self, step: u64) -> Result<Execution> {
        let session = self.session(step).ok_or_else(|| self.no_steps("none", Some((step, step))))?;
        let isa = Isa::parse(&session.isa).ok_or_else(|| {
            Error::new(ErrorKind::Device, "instruction set", format!("this machine has no {}", session.isa))
                .expected("that of the recorded run")
        })?;
        let cpu = CpuDevice::with_isa(session.threads, isa)?;
        let device = Device::open_with(&session.device, cpu, Numerics::parse(&self.manifest.numerics)?)?;
        let micro = session.micro_batches.iter().find(|rank| rank.len() > 1).map_or(0, |rank| rank[0]);
        Ok(Execution { ranks: session.ranks, micro_batch: micro, ..Execution::on(device) })
    }

    /// What differs between the recorded run and one of the same directory by this program on `device`: build, GPU, data,
    /// configuration, numerics. One sentence each, with its steps where only some were recorded otherwise; empty when
    /// nothing does.
    pub fn differences(&self, device: &Device) -> Vec<String> {
        let (build, gpu) = (Build::this(), Gpu::of(device));
        let mut found: Vec<String> =
            facts(&build, gpu.as_ref()).flat_map(|(what, now)| self.recorded_otherwise(what, now)).collect();
        found.extend(self.changed_settings());
        match self.data_checksum() {
            Ok(now) if Some(&now) != self.manifest.data_checksum.as_ref() => {
                let then = self.manifest.data_checksum.as_deref().unwrap_or("unknown");
                found
                    .push(format!("data {}: checksum {then} when the run was recorded, {now} now", self.manifest.data));
            }
            Ok(_) => {}
            Err(error) => found.push(format!("data {}: {}", self.manifest.data, error.sentence())),
        }
        let numerics = device.numerics().name();
        if numerics != self.manifest.numerics {
            found.push(format!("numerics: {} when the run was recorded, {numerics} now", self.manifest.numerics));
        }
        found
    }

    /// A sentence for each value of the fact `what` that is not `now`, and the steps that were recorded with it.
    fn recorded_otherwise(&self, what: &str, now: &str) -> Vec<String> {
        let mut parts: Vec<(Option<&str>, RangeInclusive<u64>)> = Vec::new();
        for (steps, session) in self.shares() {
            let then = facts(&session.build, session.gpu.as_ref()).find(|(name, _)| *name == what);
            let then = then.map(|(_, value)| value);
            match parts.last_mut() {
                Some((same, before)) if *same == then => *before = *before.start()..=*steps.end(),
                _ => parts.push((then, steps)),
            }
        }
        let whole = parts.len() == 1;
        let sentence = |(then, steps): (Option<&str>, RangeInclusive<u64>)| {
            let then = then.filter(|then| *then != now)?;
            let when = match (whole, steps.start(), steps.end()) {
                (true, ..) => "the run was".to_string(),
                (false, first, last) if first == last => format!("step {first} was"),
                (false, first, last) => format!("steps {first} to {last} were"),
            };
            Some(format!("{what}: {then} when {when} recorded, {now} now"))
        };
        parts.into_iter().filter_map(sentence).collect()
    }

    /// The recorded steps of each session, but for those that a later one did again.
    fn shares(&self) -> Vec<(RangeInclusive<u64>, &Session)> {
        let [first, .., last] = &self.fingerprints[..] else { return Vec::new() };
        let (mut shares, mut end) = (Vec::new(), last.step);
        for session in self.manifest.sessions.iter().rev() {
            let before = session.from_step.max(first.step);
            if before < end {
                shares.push((before + 1..=end, session));
                end = before;
            }
        }
        shares.reverse();
        shares
    }

    /// Keys of `config.toml` that are not what the manifest says the run began with.
    fn changed_settings(&self) -> Vec<String> {
        let now = |key: &str| self.config.entry(key).map(|entry| entry.value.to_string());
        let recorded = self.manifest.configuration.iter();
        recorded
            .filter(|entry| !settings::RECORDING.contains(&entry.key.as_str()))
            .filter_map(|entry| match now(&entry.key) {
                Ok(value) if value == entry.value => None,
                Ok(value) => Some(format!(
                    "configuration key '{}': {} when the run was recorded, {value} now",
                    entry.key, entry.value
                )),
                Err(_) => Some(format!("configuration key '{}': {} then, unknown now", entry.key, entry.value)),
            })
            .collect()
    }

    /// Checksum of the training images as they are now.
    pub(super) fn data_checksum(&self) -> Result<String> {
        Ok(format!("{:016x}", open(self.config.str("data")?, Split::Unlabelled)?.describe().checksum))
    }

    /// Steps between its fingerprints.
    pub(super) fn every(&self) -> u64 {
        self.fingerprints.windows(2).map(|pair| pair[1].step - pair[0].step).min().unwrap_or(1)
    }

    /// The configuration of a replay: that of the run, as `execution` cuts it, with a fingerprint every `every` steps.
    ///
    /// # Errors
    /// `Numerics` for a cut that gives other bits than the run's by definition.
    pub(super) fn replayed_config(&self, execution: &Execution, every: u64) -> Result<Config> {
        let mut config = self.config.clone();
        // Operations are logged where they are looked at, step by step.
        let detail = Detail::NAMES[Detail::Gradients as usize];
        settings::set_argument(&mut config, "fingerprints", detail)?;
        for (key, value) in [
            ("fingerprint_every", every as i64),
            ("micro_batch", execution.micro_batch as i64),
            ("checkpoint_every", i64::from(u32::MAX)),
            ("keep_checkpoints", 1),
        ] {
            settings::set_argument(&mut config, key, value)?;
        }
        for (key, value) in [("grad_cache", execution.grad_cache), ("recompute", execution.recompute)] {
            value.map_or(Ok(()), |value| settings::set_argument(&mut config, key, value))?;
        }
        if let Some(began) = self.manifest.sessions.first() {
            Cut::of(&config, execution.ranks)?.expect_groups_of(&began.micro_batches)?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::checkpoint_store::tests::make_newer;
    use crate::run::fingerprints::Digest;
    use crate::run::{Configured, CreateMode};
    use crate::zoo::simclr;

    /// A run of two ranks in `path` with a line for each of `steps` steps: nothing is trained.
    fn recorded(path: &Path, steps: u64, settings: &[&str]) -> Recorded {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        for setting in ["data=scenes:train=16,test=16", "batch=80", "micro_batch=32"].iter().chain(settings) {
            config.apply_setting(setting).unwrap();
        }
        let cut = Cut::of(&config, 2).unwrap().micro_batches();
        let manifest = Manifest {
            version: String::new(),
            method: "simclr".into(),
            configuration: Configured::all(&config),
            seed: 0,
            numerics: Numerics::Strict.name().into(),
            data: config.str("data").unwrap().into(),
            data_checksum: None,
            weights_hash: None,
            sessions: vec![Session::begin(0, "cpu", "portable", 2, cut)],
        };
        let mut recorded = Recorded {
            dir: RunDir::create(path, CreateMode::New).unwrap(),
            spec: &simclr::SPEC,
            config,
            manifest,
            fingerprints: (0..=steps).map(|step| Fingerprint::first(step, Digest(step))).collect(),
        };
        recorded.manifest.data_checksum = Some(recorded.data_checksum().unwrap());
        recorded
    }

    fn on_cpu() -> Execution {
        Execution::on(Device::cpu_with(1).unwrap())
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_one_of_a_newer_format_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let recorded = recorded(folder.path(), 9, &[]);
        let mut store = recorded.dir.checkpoints(9).unwrap();
        for step in [0, 3, 6, 9] {
            store.save(step, b"state").unwrap();
        }
        let nearest = |step| recorded.nearest(step).map(|start| start.step());
        assert_eq!((nearest(2).unwrap(), nearest(8).unwrap(), nearest(9).unwrap()), (0, 6, 9));
        std::fs::write(store.path_of(6), b"cut off").unwrap();
        assert_eq!(nearest(8).unwrap(), 3);
        make_newer(&store.path_of(3));
        let error = nearest(8).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let sentence = error.sentence();
        assert!(sentence.contains("step-000000000003") && sentence.contains("format 2"), "{sentence}");
        // Before it and after it there are others.
        assert_eq!((nearest(2).unwrap(), nearest(9).unwrap()), (0, 9));
    }

    #[cfg(unix)]
    #[test]
    fn a_checkpoint_that_cannot_be_read_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let recorded = recorded(folder.path(), 9, &[]);
        let path = recorded.dir.checkpoints(9).unwrap().path_of(6);
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = recorded.nearest(8).map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Io && error.sentence().contains("step-000000000006"), "{error}");
    }

    #[test]
    fn each_sessions_build_is_compared_and_its_steps_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorded = recorded(folder.path(), 9, &[]);
        let device = Device::cpu_with(1).unwrap();
        let began = |from_step, change: &dyn Fn(&mut Build)| {
            let mut session = Session::begin(from_step, "cpu", "portable", 2, vec![]);
            change(&mut session.build);
            session
        };
        let this = |_: &mut Build| {};
        let old = |build: &mut Build| build.compiler = "rustc 1.0.0".into();
        let mut found = |sessions: Vec<Session>| {
            recorded.manifest.sessions = sessions;
            recorded.differences(&device)
        };
        assert_eq!(found(vec![began(0, &this), began(4, &this)]), [] as [String; 0]);
        // The last session is this program's; the first is not.
        let compiler = Build::this().compiler;
        let when = |steps: &str| [format!("compiler: rustc 1.0.0 when {steps} recorded, {compiler} now")];
        assert_eq!(found(vec![began(0, &old), began(4, &this)]), when("steps 1 to 4 were"));
        assert_eq!(found(vec![began(0, &this), began(8, &old)]), when("step 9 was"));
        assert_eq!(found(vec![began(0, &old), began(4, &old)]), when("the run was"));
        // One whose steps were all done again, and one that found the run at its end.
        assert_eq!(found(vec![began(0, &this), began(6, &old), began(3, &this), began(9, &old)]), [] as [String; 0]);
        // Three builds, the second of free order and other crates; of the third nothing is known.
        let free = |build: &mut Build| {
            build.order = "free".into();
            build.dependencies = "0123456789abcdef".into();
        };
        let unknown = |build: &mut Build| *build = Build::default();
        let sentences = found(vec![began(0, &this), began(2, &free), began(6, &unknown)]);
        for (sentence, start) in sentences.iter().zip([
            "external crates (Cargo.lock): 0123456789abcdef when steps 3 to 6 were recorded, ",
            "order of sums: free when steps 3 to 6 were recorded, canonical now",
        ]) {
            assert!(sentence.starts_with(start), "{sentences:?}");
        }
        assert_eq!(sentences.len(), 2, "{sentences:?}");
    }

    #[test]
    fn another_driver_is_named_with_its_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut recorded = recorded(folder.path(), 9, &[]);
        let on = |from_step, driver: &str| {
            let gpu = Gpu { model: "NVIDIA H100".into(), driver: driver.into(), library: None };
            Session { gpu: Some(gpu), ..Session::begin(from_step, "cuda:0", "avx2", 2, vec![]) }
        };
        recorded.manifest.sessions = vec![on(0, "570.86"), on(4, "580.65")];
        let found = |what, now| recorded.recorded_otherwise(what, now);
        assert_eq!(found("GPU driver", "580.65"), ["GPU driver: 570.86 when steps 1 to 4 were recorded, 580.65 now"]);
        assert_eq!(
            found("GPU library", "cuBLAS 12.8.4"),
            ["GPU library: none when the run was recorded, cuBLAS 12.8.4 now"]
        );
        assert_eq!(found("GPU", "NVIDIA H100"), [] as [String; 0]);
        // On a device that is no GPU the fact is not asked for.
        assert_eq!(recorded.differences(&Device::cpu_with(1).unwrap()), [] as [String; 0]);
    }

    #[test]
    fn a_recorded_cut_is_made_again_and_another_one_of_local_batch_norm_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for batch_norm in ["local", "lockstep"] {
            let setting = format!("batch_norm={batch_norm}");
            let recorded = recorded(&folder.path().join(batch_norm), 9, &[&setting]);
            // Five leaves: a share of 32 images, which is one micro-batch, and one of 48, which is two.
            assert_eq!(recorded.manifest.sessions[0].micro_batches, [vec![32], vec![32, 16]]);
            let own = recorded.execution(5).unwrap();
            assert_eq!((own.ranks, own.micro_batch), (2, 32));
            recorded.replayed_config(&own, 1).unwrap();
            // The same groups on one rank.
            recorded.replayed_config(&Execution { micro_batch: 32, ..on_cpu() }, 1).unwrap();
            let whole = recorded.replayed_config(&on_cpu(), 1).map(drop);
            match batch_norm {
                "local" => {
                    let error = whole.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Numerics);
                    assert!(error.sentence().contains("over 2 ranks: 32, 32+16 images"), "{}", error.sentence());
                }
                _ => whole.unwrap(),
            }
        }
    }
}
