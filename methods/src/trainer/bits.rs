//! What a step computed, as hashes: see [`crate::run::fingerprints`].
//!
//! Gradients are hashed parameter by parameter, so that no second copy of all of them is made. Hashing runs on the
//! device's threads; its bits do not know them.

use std::collections::BTreeMap;
use std::time::Duration;

use selfsame_autograd::Grads;
use selfsame_engine::hash::{ContentHasher, hash_arrays};
use selfsame_engine::op_log::{LogOptions, OpTrace};
use selfsame_engine::{Array, Result};

use super::{Clock, Trainer};
use crate::run::fingerprints::{Detail, Digest};

/// Hashes of a step.
#[derive(Clone, Debug, Default)]
pub struct StepBits {
    /// Of the gradients of all parameters.
    pub gradients: Digest,
    /// Of each of them, by path; only from [`Detail::Gradients`] on.
    pub gradient: BTreeMap<String, Digest>,
    /// What every operation made; only from [`Detail::Operations`] on.
    pub operations: Vec<String>,
    /// Of parameters, buffers and optimiser after the step.
    pub state: Digest,
    /// How long the hashing took.
    pub time: Duration,
}

impl Trainer {
    /// Hashes steps from now on, each as densely as `detail` says.
    pub fn set_fingerprints(&mut self, detail: Detail) {
        self.detail = detail;
    }

    /// A hash of everything that a step changes: parameters, buffers, optimiser.
    ///
    /// # Errors
    /// `OutOfMemory`; `Device` when an array cannot be brought to the host.
    pub fn state_digest(&self) -> Result<Digest> {
        let (names, arrays): (Vec<String>, Vec<Array>) =
            self.state().map(|(name, param)| (name, param.array())).unzip();
        let hashes = hash_arrays(&arrays.iter().collect::<Vec<_>>(), self.device.host().workers())?;
        let mut all = ContentHasher::new();
        for (name, hash) in names.iter().zip(hashes) {
            all.text(name);
            all.text(&Digest(hash).to_string());
        }
        Ok(Digest(all.finish()))
    }

    /// Runs `compute`, with the log of operations if it is wanted.
    pub(super) fn logged<T>(&self, compute: impl FnOnce() -> Result<T>) -> (Result<T>, Vec<String>) {
        if self.detail < Detail::Operations {
            return (compute(), Vec::new());
        }
        let log = self.device.host().op_log();
        log.begin(LogOptions::default());
        let result = compute();
        (result, entries(&log.end()))
    }

    /// The hashes of the gradients; `None` when none are wanted.
    pub(super) fn gradient_bits(&self, grads: &Grads) -> Result<Option<StepBits>> {
        if self.detail == Detail::Off {
            return Ok(None);
        }
        let mut clock = Clock::start();
        let (mut bits, mut all) = (StepBits::default(), ContentHasher::new());
        for (path, param) in self.params.iter() {
            let Some(gradient) = grads.param(param)? else { continue };
            let hash = Digest(hash_arrays(&[&gradient], self.device.host().workers())?[0]);
            all.text(path);
            all.text(&hash.to_string());
            if self.detail >= Detail::Gradients {
                bits.gradient.insert(path.to_string(), hash);
            }
        }
        bits.gradients = Digest(all.finish());
        bits.time = clock.lap();
        Ok(Some(bits))
    }

    /// Adds the hash of the state after the step.
    pub(super) fn with_state(&self, mut bits: StepBits, operations: Vec<String>) -> Result<StepBits> {
        let mut clock = Clock::start();
        bits.operations = operations;
        bits.state = self.state_digest()?;
        bits.time += clock.lap();
        Ok(bits)
    }
}

/// Entries as a fingerprint holds them: `lane:operation/direction/part hash`.
pub(crate) fn entries(trace: &OpTrace) -> Vec<String> {
    let lanes = trace.lanes.iter().flat_map(|(lane, records)| records.iter().map(move |record| (lane, record)));
    lanes
        .map(|(lane, record)| {
            format!("{lane}:{}/{}/{} {}", record.op, record.direction.name(), record.part, Digest(record.hash))
        })
        .collect()
}
