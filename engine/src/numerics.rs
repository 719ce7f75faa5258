//! The kinds of numerics.

use crate::{Error, ErrorKind, Result};

/// What a device may do to the order and precision of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerics {
    /// The canonical order of `kernels/NUMERICS.md`: the same bits on every device.
    Strict,
    /// On a GPU tensor cores and the device's own libraries for contractions of f32, whose operands are rounded to tf32:
    /// the same bits on the same device, run after run, and no further. On the CPU Winograd's method for convolutions of
    /// 3 x 3 taps, in f32: other bits than strict ones, and less exact, but the same on every CPU, for every number of
    /// threads and every cut of the batch.
    Fast,
    /// On the CPU: operands of convolutions and linear layers in f32, and of their gradients, are rounded to bf16, and
    /// their products summed in f32 in the order of `kernels/NUMERICS.md`. Everything else is as in strict numerics, and
    /// so is what the bits may depend on: nothing but the numbers.
    Bf16,
}

impl Numerics {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Strict => "strict",
            Numerics::Fast => "fast",
            Numerics::Bf16 => "bf16",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// `Config` when there is none.
    pub fn parse(name: &str) -> Result<Numerics> {
        [Numerics::Strict, Numerics::Fast, Numerics::Bf16]
            .into_iter()
            .find(|numerics| numerics.name() == name)
            .ok_or_else(|| {
                Error::new(ErrorKind::Config, "numerics", format!("'{name}'")).expected("strict, fast or bf16")
            })
    }

    /// What a device of that name computes with unless told otherwise: a GPU fast, everything else strict.
    pub fn default_of(device: &str) -> Numerics {
        if device.starts_with("cuda") { Numerics::Fast } else { Numerics::Strict }
    }
}
