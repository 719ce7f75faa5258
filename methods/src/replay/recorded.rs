//! [`Recorded`]: a run directory as something to run again.

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
use crate::run::manifest::Build;
use crate::run::{CheckpointStore, Fingerprint, Manifest, RunDir, Session};
use crate::settings;

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
    pub(super) fn nearest(&self, step: u64) -> Result<Start> {
        let store = CheckpointStore::at(self.dir.checkpoints_path());
        let earlier = store.list()?.into_iter().rev().filter(|&saved| 0 < saved && saved <= step);
        // One that is damaged is passed over: an older one gives the same bits.
        Ok(earlier.into_iter().find_map(|saved| store.load(saved).ok()).map_or(Start::Beginning, Start::Checkpoint))
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
        let micro = session.micro_batches.first().filter(|rank| rank.len() > 1).map_or(0, |rank| rank[0]);
        Ok(Execution { ranks: session.ranks, micro_batch: micro, ..Execution::on(device) })
    }

    /// What differs between the recorded run and one of the same directory by this program on `device`: build, data,
    /// configuration, numerics. One sentence each; empty when nothing does.
    pub fn differences(&self, device: &Device) -> Vec<String> {
        let mut found = Vec::new();
        let this = Build::this();
        let recorded = self.manifest.sessions.last().map(|session| &session.build);
        for build in recorded.into_iter().filter(|build| **build != Build::default()) {
            for (what, then, now) in [
                ("version", &build.version, &this.version),
                ("sources", &build.source, &this.source),
                ("kernels' PTX", &build.ptx, &this.ptx),
                ("compiler", &build.compiler, &this.compiler),
            ] {
                if then != now {
                    found.push(format!("{what}: {then} when the run was recorded, {now} now"));
                }
            }
        }
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
        Ok(config)
    }
}
