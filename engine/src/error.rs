//! The one error type of the house: got / expected / hint / at.

use std::fmt;
use std::panic::Location;

/// Result of every fallible function of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for code that reacts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Shapes, ranks or axes do not fit the operation.
    Shape,
    /// An operation does not take this element type.
    DType,
    /// A device is unknown, missing, or differs between operands.
    Device,
    /// A differentiable operation has no backward for a tracked input.
    NoVjp,
    /// Memory could not be allocated.
    OutOfMemory,
    /// A value became NaN or infinite.
    NonFinite,
    /// A configuration key, value or command-line argument is wrong.
    Config,
    /// A file could not be read or written.
    Io,
    /// A file was read but its content is wrong.
    Corrupt,
    /// A split of the batch cannot keep the bits in strict numerics.
    Numerics,
    /// A value was written between a forward and the backward that needs it.
    Stale,
    /// The user asked to stop.
    Interrupted,
}

/// An error that says what was found, what was expected, what may help, and where it was asked for.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: String,
    got: String,
    expected: Option<String>,
    hint: Option<String>,
    at: &'static Location<'static>,
}

impl Error {
    /// An error of operation or subject `what`, having found `got`.
    #[track_caller]
    pub fn new(kind: ErrorKind, what: impl Into<String>, got: impl Into<String>) -> Error {
        let at = Location::caller();
        Error(Box::new(Inner { kind, what: what.into(), got: got.into(), expected: None, hint: None, at }))
    }

    /// Says what would have been right.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Error {
        self.0.expected = Some(expected.into());
        self
    }

    /// Says what the user may do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Replaces where it was asked for: a layer above names the caller's line instead of its own.
    #[must_use]
    pub fn located(mut self, at: &'static Location<'static>) -> Error {
        self.0.at = at;
        self
    }

    /// An input or output failure on `path`.
    #[track_caller]
    pub fn io(path: impl AsRef<std::path::Path>, error: &std::io::Error) -> Error {
        Error::new(ErrorKind::Io, path.as_ref().display().to_string(), error.to_string())
    }

    /// The kind, for matching.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// One line: what, got, expected, hint.
    pub fn sentence(&self) -> String {
        let mut line = format!("{}: {}", self.0.what, self.0.got);
        if let Some(expected) = &self.0.expected {
            line.push_str(&format!("; expected {expected}"));
        }
        if let Some(hint) = &self.0.hint {
            line.push_str(&format!(" ({hint})"));
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  got       {}", self.0.what, self.0.got)?;
        if let Some(expected) = &self.0.expected {
            write!(f, "\n  expected  {expected}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\n  hint      {hint}")?;
        }
        write!(f, "\n  at        {}:{}", self.0.at.file(), self.0.at.line())
    }
}

impl std::error::Error for Error {}
