//! What can be wrong with PTX text.

use std::fmt;

/// PTX that cannot be run: malformed, or beyond the instructions that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// The line, from 1.
    pub line: u32,
    /// What stands there.
    pub got: String,
    /// What to do about it, or what was expected.
    pub hint: String,
}

impl PtxError {
    pub(crate) fn new(line: u32, got: impl Into<String>, hint: impl Into<String>) -> PtxError {
        PtxError { line, got: got.into(), hint: hint.into() }
    }
}

impl fmt::Display for PtxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: got {}; hint: {}", self.line, self.got, self.hint)
    }
}

impl std::error::Error for PtxError {}
