//! The fingerprints of a run, as it runs: see [`crate::run::fingerprints`].

use selfsame_engine::hash::hash_arrays;
use selfsame_engine::{Array, Device, Result};
use xxhash_rust::xxh3::Xxh3;

use crate::config::Config;
use crate::method::Views;
use crate::observer::Observer;
use crate::run::fingerprints::{Detail, Digest, Work};
use crate::run::{Fingerprint, FingerprintWriter, RunDir};
use crate::trainer::{Clock, StepRecord, Trainer};

/// Steps between fingerprints on a GPU, unless the configuration says otherwise: parameters and gradients must come to
/// the host to be hashed.
const EVERY_ON_GPU: u64 = 100;

/// Writes the fingerprints of a run.
pub(crate) struct Recorder {
    /// `None` when nothing is recorded.
    writer: Option<FingerprintWriter>,
    detail: Detail,
    every: u64,
}

impl Recorder {
    /// The recorder of the run in `dir`, whose state is that of `trainer`.
    ///
    /// # Errors
    /// `Config` for values out of range; `Io`; `Corrupt` when the file to continue is.
    pub(crate) fn open(
        dir: &RunDir,
        config: &Config,
        trainer: &Trainer,
        resumed: bool,
        observer: &mut dyn Observer,
    ) -> Result<Recorder> {
        let detail = Detail::parse(config.choice("fingerprints", &Detail::NAMES)?).unwrap_or_default();
        let every = match config.usize("fingerprint_every")? as u64 {
            0 if trainer.device().name().starts_with("cuda") => EVERY_ON_GPU,
            every => every.max(1),
        };
        if detail == Detail::Off {
            return Ok(Recorder { writer: None, detail, every });
        }
        let done = trainer.steps_done();
        let mut writer = if resumed { dir.resume_fingerprints(done)? } else { dir.fingerprints()? };
        if writer.last().is_none() {
            observer.fingerprint(writer.write(Fingerprint::first(done, trainer.state_digest()?))?);
        }
        Ok(Recorder { writer: Some(writer), detail, every })
    }

    /// Has `trainer` hash its next step, if that is to be recorded.
    pub(crate) fn before(&self, trainer: &mut Trainer) {
        let due = self.writer.is_some() && (trainer.steps_done() + 1).is_multiple_of(self.every);
        trainer.set_fingerprints(if due { self.detail } else { Detail::Off });
    }

    /// Records a step, if it was hashed, on the images `indices` as `views`.
    ///
    /// # Errors
    /// `Io`, `OutOfMemory`.
    pub(crate) fn after(
        &mut self,
        (indices, views): (&[usize], &Views),
        record: &mut StepRecord,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (Some(writer), Some(bits)) = (&mut self.writer, record.bits.take()) else { return Ok(()) };
        let mut clock = Clock::start();
        let work = Work {
            indices: combined(indices.iter().map(|&index| index as u64)),
            pixels: pixels(views, device)?,
            loss: Digest(record.loss.to_bits()),
            gradients: bits.gradients,
            gradient: bits.gradient,
            operations: bits.operations,
        };
        let line = Fingerprint { step: record.step, state: bits.state, work: Some(work), ..Fingerprint::default() };
        observer.fingerprint(writer.write(line)?);
        record.times.fingerprint += clock.lap();
        Ok(())
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), FingerprintWriter::sync)
    }
}

fn pixels(views: &Views, device: &Device) -> Result<Digest> {
    let arrays: Vec<&Array> = views.iter().map(|view| view.array()).collect();
    Ok(combined(hash_arrays(&arrays, device.host().workers())?.into_iter()))
}

fn combined(numbers: impl Iterator<Item = u64>) -> Digest {
    let mut hash = Xxh3::new();
    numbers.for_each(|number| hash.update(&number.to_le_bytes()));
    Digest(hash.digest())
}
