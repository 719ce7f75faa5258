//! The whole state of a trainer as bytes, and back: parameters, buffers, optimiser, step. Schedules, the loader's order
//! and every random draw are functions of the step, so a trainer restored from here continues to the same bits.

use selfsame_autograd::Param;
use selfsame_engine::{Error, ErrorKind, Result, TensorFile};

use super::Trainer;

/// The key of a snapshot's metadata that holds the number of steps taken.
const STEP: &str = "step";

impl Trainer {
    /// The state as the bytes of a safetensors file.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        let tensors = self.state().map(|(name, param)| (name, param.array())).collect();
        let metadata = [(STEP.to_string(), self.step.to_string())].into();
        TensorFile { tensors, metadata }.to_bytes()
    }

    /// How often any part of the state was written: the same number twice says that nothing was in between.
    pub(crate) fn writes(&self) -> u64 {
        self.params.iter().chain(self.optimizer_state.iter()).map(|(_, param)| param.version()).sum()
    }

    /// Takes over the state of a [`snapshot`](Self::snapshot). `name` is for errors. Nothing changes unless all fits.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are no snapshot, or one of another model.
    pub fn restore(&mut self, bytes: &[u8], name: &str) -> Result<()> {
        let corrupt = |got: String| {
            Error::new(ErrorKind::Corrupt, name, got)
                .expected("a checkpoint of this configuration")
                .hint("was config.toml changed, or the checkpoint taken from another run?")
        };
        let TensorFile { mut tensors, metadata } = TensorFile::from_bytes(bytes, name, &self.device)?;
        let step = metadata.get(STEP).and_then(|step| step.parse().ok()).ok_or_else(|| corrupt("no step".into()))?;
        let mut writes = Vec::new();
        for (name, param) in self.state() {
            let own = param.array();
            let value = tensors.remove(&name).ok_or_else(|| corrupt(format!("'{name}' is missing")))?;
            if value.shape() != own.shape() || value.dtype() != own.dtype() {
                return Err(corrupt(format!("'{name}' of shape {:?}, not {:?}", value.shape(), own.shape())));
            }
            writes.push((param.clone(), value));
        }
        if let Some(name) = tensors.keys().next() {
            return Err(corrupt(format!("'{name}', which the model does not have")));
        }
        writes.into_iter().try_for_each(|(param, value)| param.set(value))?;
        self.step = step;
        Ok(())
    }

    /// Everything that a step changes, under names that keep model and optimiser apart.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, &Param)> {
        let model = self.params.iter().map(|(path, param)| (format!("model/{path}"), param));
        model.chain(self.optimizer_state.iter().map(|(path, param)| (format!("optimizer/{path}"), param)))
    }
}
