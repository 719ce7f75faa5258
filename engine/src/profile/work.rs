//! What a span did: arithmetic and traffic.

use std::ops::AddAssign;

/// The nominal work of a primitive or kernel, from its shapes: what the algorithm needs, not what a run counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations; a fused multiply-add is two, padding taps count.
    pub flop: u64,
    /// Evaluations of exponentials, logarithms, divisions, square roots and their like.
    pub special: u64,
    /// Bytes moved: each operand read once, each result written once.
    pub bytes: u64,
}

impl Work {
    /// Nothing but traffic.
    pub fn moving(bytes: usize) -> Work {
        Work { bytes: bytes as u64, ..Work::default() }
    }

    /// With so many floating-point operations.
    #[must_use]
    pub fn flop(self, flop: usize) -> Work {
        Work { flop: flop as u64, ..self }
    }

    /// With so many evaluations of exponentials and their like.
    #[must_use]
    pub fn special(self, special: usize) -> Work {
        Work { special: special as u64, ..self }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.flop += other.flop;
        self.special += other.special;
        self.bytes += other.bytes;
    }
}
