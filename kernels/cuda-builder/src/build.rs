//! Sources to PTX: `core` and then the kernels, by calling rustc itself.
//!
//! Cargo is left out on purpose. The kernels depend on nothing but `core`, so there is nothing to resolve; the
//! caller's workspace, lock file, configuration and flags cannot reach the result; and a build script may do it while
//! cargo runs. Of `core` only the metadata is made, MIR included, which is all that inlining needs, and it is kept:
//! a rebuild after a change compiles the kernels alone.

use crate::header::{Header, hash_source};
use crate::toolchain::Toolchain;
use crate::{Error, Result, canonical, sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target.
pub const TARGET: &str = "nvptx64-nvidia-cuda";

/// The oldest GPU that the PTX runs on. One target is enough: the driver compiles this PTX for whatever newer GPU it
/// finds, with that GPU's own scheduling. What a newer target would add to kernels such as these is `wgmma` on sm_90
/// and `tcgen05` on sm_100, for tensor-core products; both are tied to the exact GPU (`sm_90a`), so each would be a
/// second set of kernels rather than a second build of this one.
pub const CPU: &str = "sm_80";

/// The PTX file, below the kernels' folder.
pub const PTX_FILE: &str = "ptx/sm_80.ptx";

/// The flags of every compilation. `metadata` is fixed so that no symbol depends on where the build ran. A panic is a
/// trap without formatting code. `linker-plugin-lto` ends optimisation before the passes that drop assumptions (LLVM 22):
/// without it, what `simt` says about address spaces is gone when the back end looks for it, and every access to shared
/// memory becomes a slow generic one.
const FLAGS: &[&str] = &[
    "--edition=2024",
    "--target=nvptx64-nvidia-cuda",
    "-Ctarget-cpu=sm_80",
    "-Ctarget-feature=+ptx78",
    "-Copt-level=3",
    "-Ccodegen-units=1",
    "-Cmetadata=selfsame",
    "-Clinker-plugin-lto",
    "-Cpanic=immediate-abort",
    "-Zunstable-options",
];

/// Added where a crate of the standard library is compiled.
const LIBRARY_FLAGS: &[&str] = &[
    "--crate-type=rlib",
    "--emit=metadata",
    "--cap-lints=allow",
    "-Zalways-encode-mir",
    "-Zforce-unstable-if-unmarked",
];

/// Nothing in device code calls into compiler-builtins, yet rustc asks for the crate: an empty one answers.
const EMPTY_BUILTINS: &str = "#![feature(compiler_builtins)]#![compiler_builtins]#![no_std]";

/// The flags as the header states them.
pub fn flags() -> String {
    FLAGS.join(" ")
}

/// A device compiler with a compiled `core`.
#[derive(Clone, Debug)]
pub struct Device {
    toolchain: Toolchain,
    libraries: PathBuf,
}

impl Device {
    /// Prepares `toolchain`: compiles `core` into a folder below `cache`, or finds it there.
    ///
    /// # Errors
    /// When the folder cannot be written or the compiler fails.
    pub fn new(toolchain: Toolchain, cache: &Path) -> Result<Device> {
        let key = format!("{} {} {}", toolchain.version, toolchain.core.display(), flags());
        let libraries = absolute(cache)?.join(format!("core-{}", &sha256::hex(key.as_bytes())[..16]));
        let device = Device { toolchain, libraries };
        if !device.libraries.is_dir() {
            device.compile_libraries()?;
        }
        Ok(device)
    }

    /// The compiler.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    fn compile_libraries(&self) -> Result<()> {
        // Made beside its place and moved there when complete: an interrupted build leaves nothing that looks whole.
        let unfinished = self.libraries.with_extension(std::process::id().to_string());
        std::fs::create_dir_all(&unfinished).map_err(|e| Error::io(&unfinished, &e))?;
        let library = |name: &str| {
            let mut rustc = self.rustc();
            rustc.args(LIBRARY_FLAGS).arg("--out-dir").arg(&unfinished).args(["--crate-name", name]);
            rustc
        };
        run(library("core").arg(&self.toolchain.core), "")?;
        run(library("compiler_builtins").arg("-L").arg(&unfinished).arg("-"), EMPTY_BUILTINS)?;
        match std::fs::rename(&unfinished, &self.libraries) {
            // Another build finished first; its result is the same.
            Err(_) if self.libraries.is_dir() => {
                std::fs::remove_dir_all(&unfinished).map_err(|e| Error::io(&unfinished, &e))
            }
            moved => moved.map_err(|e| Error::io(&self.libraries, &e)),
        }
    }

    fn rustc(&self) -> Command {
        let mut rustc = Command::new(&self.toolchain.rustc);
        rustc.args(FLAGS).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
        rustc
    }

    /// Compiles the crate in the folder `kernels` with `extra` flags. Gives what each kind of `--emit` wrote, and the
    /// files that the compiler read, below `kernels`.
    pub(crate) fn compile<const N: usize>(
        &self,
        kernels: &Path,
        emit: [&str; N],
        extra: &[&str],
    ) -> Result<([String; N], Vec<String>)> {
        // Two compilations may run at a time, of this process and of others.
        let key = format!("{}.{}", std::process::id(), &sha256::hex(extra.join(" ").as_bytes())[..8]);
        let output = |kind: &str| self.libraries.join(format!("kernels.{key}.{kind}"));
        let mut rustc = self.rustc();
        rustc
            .current_dir(kernels)
            .args(["--crate-name=selfsame_kernels", "--crate-type=rlib", "src/lib.rs", "-Awarnings"])
            .args(extra)
            .arg("-L")
            .arg(&self.libraries);
        for kind in emit.into_iter().chain(["dep-info"]) {
            rustc.arg(format!("--emit={kind}={}", output(kind).display()));
        }
        run(&mut rustc, "")?;
        let take = |kind: &str| {
            let path = output(kind);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))?;
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, &e))?;
            Ok(text)
        };
        let mut texts = [const { String::new() }; N];
        for (text, kind) in texts.iter_mut().zip(emit) {
            *text = take(kind)?;
        }
        Ok((texts, files_read(&take("dep-info")?)))
    }

    /// The PTX of the crate in the folder `kernels`, header included.
    ///
    /// # Errors
    /// When the kernels do not compile for the device, or what came out is not a set of self-contained kernels.
    pub fn build(&self, kernels: &Path) -> Result<String> {
        let ([assembly], files) = self.compile(kernels, ["asm"], &[])?;
        let sources = files
            .into_iter()
            .map(|file| {
                let path = kernels.join(&file);
                Ok((file, hash_source(&path).map_err(|e| Error::io(&path, &e))?))
            })
            .collect::<Result<_>>()?;
        let header = Header { compiler: self.toolchain.version.clone(), flags: flags(), sources };
        Ok(format!("{}\n{}", header.render(), canonical::canonicalise(&assembly)?))
    }
}

/// The files in dependency information: lines `path:` with nothing behind.
fn files_read(listing: &str) -> Vec<String> {
    let mut files: Vec<String> =
        listing.lines().filter_map(|line| line.strip_suffix(':')).map(|file| file.replace('\\', "/")).collect();
    files.sort();
    files
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, &e))
}

fn run(rustc: &mut Command, input: &str) -> Result<()> {
    let program = PathBuf::from(rustc.get_program());
    let start = || {
        let mut child = rustc.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            std::io::Write::write_all(&mut pipe, input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = { start }().map_err(|e| Error::io(&program, &e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!("{} failed:\n{}", program.display(), String::from_utf8_lossy(&output.stderr).trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_information_lists_the_sources() {
        let listing = "out/k.s: src/lib.rs src/simt/mod.rs\n\nsrc/simt/mod.rs:\nsrc\\lib.rs:\n";
        assert_eq!(files_read(listing), ["src/lib.rs", "src/simt/mod.rs"]);
    }

    #[test]
    fn the_flags_name_the_target() {
        assert!(flags().contains(TARGET) && flags().contains(CPU) && PTX_FILE.contains(CPU));
    }
}
