//! Mutations that change nothing, each with the reason.

use super::mutation::{Mutant, Mutated};
use super::site::Operation;
use std::fmt;

/// A mutation that changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Equivalent {
    /// The kernels that have it.
    pub kernels: &'static [&'static str],
    /// The word that is weakened.
    pub operation: Operation,
    /// The number of the site among the kernel's sites of that operation, in order of place.
    pub ordinal: usize,
    /// How it is weakened.
    pub mutant: Mutant,
    /// Why that changes nothing.
    pub reason: &'static str,
}

impl Equivalent {
    /// Whether this entry means `mutated`.
    pub fn matches(&self, mutated: &Mutated) -> bool {
        self.kernels.contains(&mutated.kernel)
            && (self.operation, self.ordinal, self.mutant)
                == (mutated.mutation.site.operation, mutated.ordinal, mutated.mutation.mutant)
    }
}

impl fmt::Display for Equivalent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {:?}", self.operation, self.ordinal, self.mutant)
    }
}

/// The equivalent mutations of the kernels of [`crate::device`]. An entry that no surviving mutation matches is stale,
/// and an error.
pub static EQUIVALENT: &[Equivalent] = &[];
