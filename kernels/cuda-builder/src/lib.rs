//! Builds `selfsame-kernels` to PTX with rustc's own NVPTX target, and checks what came out.
//!
//! - [`header`]: what the checked-in PTX says about itself: sources, flags, compiler;
//! - [`toolchain`]: finds a compiler that can build device code;
//! - [`build`]: sources to PTX, the same bytes wherever it runs;
//! - [`canonical`]: the compiler's text without what depends on anything but the kernels;
//! - [`prepare`]: what the build script of `selfsame-kernels` does;
//! - [`ptx`], [`lint`]: a reader of PTX, and the static checks over it;
//! - [`sites`]: the barriers, shuffles and votes of the source against those of the PTX;
//! - [`ptxas`]: registers, shared memory and spills per kernel, from NVIDIA's assembler.
//!
//! It depends on the standard library alone, because every build of the kernels builds it first.

pub mod build;
pub mod canonical;
pub mod header;
pub mod lint;
pub mod prepare;
pub mod ptx;
pub mod ptxas;
mod sha256;
pub mod sites;
pub mod toolchain;

/// What went wrong, in words for a person.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Error {
        Error(message.into())
    }

    /// An input or output error at `path`.
    pub fn io(path: &std::path::Path, error: &std::io::Error) -> Error {
        Error(format!("{}: {error}", path.display()))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The result of what can fail here.
pub type Result<T> = std::result::Result<T, Error>;
