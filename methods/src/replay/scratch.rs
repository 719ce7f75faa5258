//! Runs in a directory of their own, from the beginning or from a checkpoint of another run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use selfsame_engine::{Error, Result};

use super::{Execution, Recorded};
use crate::observer::Observer;
use crate::run::{Checkpoint, CreateMode, Manifest, RunDir};
use crate::session::{Pretrain, pretrain};

/// What a run begins from.
pub(super) enum Start {
    /// The seed.
    Beginning,
    /// A saved state.
    Checkpoint(Checkpoint),
}

impl Start {
    /// Steps done.
    pub(super) fn step(&self) -> u64 {
        match self {
            Start::Beginning => 0,
            Start::Checkpoint(checkpoint) => checkpoint.step,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// After its last step.
    Finished,
    /// Before; its state is saved.
    Stopped,
}

/// A directory for one run, removed with this value unless it is to be kept.
pub(crate) struct Scratch {
    path: PathBuf,
    temporary: bool,
}

impl Scratch {
    /// A directory at `keep`, or a temporary one.
    pub(crate) fn create(keep: Option<PathBuf>) -> Result<Scratch> {
        if let Some(path) = keep {
            return Ok(Scratch { path, temporary: false });
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("selfsame-replay-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch { path, temporary: true }),
                // Left by an earlier process of this number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(&path, &error)),
            }
        }
    }

    /// Trains as `recorded` did, from `start` on, until `stop`, with a fingerprint every `every` steps.
    pub(super) fn run(
        &self,
        recorded: &Recorded,
        execution: &Execution,
        start: &Start,
        every: u64,
        stop: Arc<AtomicBool>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let config = recorded.replayed_config(execution, every)?;
        let mode = match start {
            Start::Beginning => CreateMode::New,
            Start::Checkpoint(checkpoint) => {
                let dir = RunDir::create(&self.path, CreateMode::New)?;
                dir.write_config(&config.table())?;
                let manifest = Manifest {
                    data_checksum: Some(recorded.data_checksum()?),
                    numerics: execution.device.numerics().name().into(),
                    ..recorded.manifest().clone()
                };
                dir.write_manifest(&manifest)?;
                dir.checkpoints(1)?.save(checkpoint.step, &checkpoint.payload)?;
                CreateMode::Resume
            }
        };
        let run = pretrain(
            Pretrain {
                spec: recorded.spec(),
                config,
                device: execution.device.clone(),
                ranks: execution.ranks,
                workers: execution.workers,
                out: self.path.clone(),
                mode,
                stop,
            },
            observer,
        )?;
        Ok(if run.interrupted { Outcome::Stopped } else { Outcome::Finished })
    }

    /// The state that its run saved last.
    pub(super) fn saved(&self) -> Result<Option<Checkpoint>> {
        RunDir::open(&self.path)?.checkpoints(1)?.latest()
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is left to the system, which clears its temporary folder.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
