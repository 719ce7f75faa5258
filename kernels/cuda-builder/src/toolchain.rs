//! Finds a compiler that can build device code: rustc with the NVPTX back end and the sources of `core` beside it.

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the compiler to use instead of searching for one.
pub const VARIABLE: &str = "SELFSAME_DEVICE_RUSTC";

/// What to install where there is no device compiler: one sentence.
pub const HINT: &str = "to build device code, install the Debian packages rustc-web and rust-web-src, or run `rustup \
                        toolchain install nightly --component rust-src`, or name a rustc of at least 1.96 that has its \
                        library sources in SELFSAME_DEVICE_RUSTC";

/// From this release on every function of the NVPTX target is convergent, so that no pass may duplicate or move a
/// barrier.
const OLDEST: (u32, u32) = (1, 96);

/// A compiler that can build device code.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// `core`'s root file.
    pub core: PathBuf,
    /// Release, commit and LLVM: what decides the bytes of the PTX.
    pub version: String,
}

impl Toolchain {
    /// The compiler `rustc`, if it can build device code.
    ///
    /// # Errors
    /// When it does not run, is too old, or lacks its library sources or the target.
    pub fn at(rustc: &Path) -> Result<Toolchain> {
        let about = ask(rustc, &["-vV"])?;
        let field = |name: &str| {
            about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or("unknown").to_owned()
        };
        let release = field("release");
        let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
        let found: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            let (major, minor) = OLDEST;
            return Err(Error::new(format!(
                "{} is rustc {release}, device code needs at least {major}.{minor}",
                rustc.display()
            )));
        }
        let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?.trim());
        let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() {
            return Err(Error::new(format!("{} has no library sources at {}", rustc.display(), core.display())));
        }
        let target = ask(rustc, &["--print", "target-cpus", "--target", crate::build::TARGET])?;
        if !target.contains(crate::build::CPU) {
            return Err(Error::new(format!("{} was built without the NVPTX back end", rustc.display())));
        }
        Ok(Toolchain {
            rustc: rustc.to_owned(),
            core,
            version: format!("rustc {release} ({}), LLVM {}", field("commit-hash"), field("LLVM version")),
        })
    }

    /// The compiler named by [`VARIABLE`]; else, of those found, the one with version `recorded`, else the first.
    ///
    /// # Errors
    /// When there is none, with what to install; when the named one cannot build device code.
    pub fn find(recorded: Option<&str>) -> Result<Toolchain> {
        if let Some(named) = std::env::var_os(VARIABLE) {
            return Toolchain::at(Path::new(&named)).map_err(|e| Error::new(format!("{VARIABLE}: {e}")));
        }
        let found: Vec<Toolchain> = candidates().iter().filter_map(|rustc| Toolchain::at(rustc).ok()).collect();
        let at = found.iter().position(|t| Some(t.version.as_str()) == recorded).unwrap_or(0);
        found.into_iter().nth(at).ok_or_else(|| Error::new(HINT))
    }
}

/// Where compilers lie: the system's, then rustup's by name.
fn candidates() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/local/bin/rustc")];
    let rustup = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    if let Some(toolchains) = rustup.and_then(|folder| std::fs::read_dir(folder.join("toolchains")).ok()) {
        let mut folders: Vec<PathBuf> = toolchains.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        let name = format!("rustc{}", std::env::consts::EXE_SUFFIX);
        all.extend(folders.iter().map(|folder| folder.join("bin").join(&name)));
    }
    all.retain(|rustc| rustc.is_file());
    all
}

fn ask(rustc: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(rustc).args(arguments).output().map_err(|e| Error::io(rustc, &e))?;
    if !output.status.success() {
        return Err(Error::new(format!("{} {}: {}", rustc.display(), arguments.join(" "), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_none_says_so() {
        let error = Toolchain::at(Path::new("/nowhere/rustc")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/rustc"), "{error}");
    }
}
