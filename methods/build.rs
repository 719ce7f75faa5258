//! Tells the crate what it is built from, for the manifest of a run: a hash of all sources of the workspace's crates
//! below and with this one, and the compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use xxhash_rust::xxh3::Xxh3;

/// The crates whose sources decide the bits of a run.
const CRATES: [&str; 7] = ["kernels", "engine", "autograd", "models", "losses", "data", "methods"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is set by cargo")?);
    let workspace = own.parent().ok_or("this crate lies in a workspace")?;
    let mut hash = Xxh3::new();
    // Outside the workspace, as a published crate, the version says which sources these are.
    for sources in CRATES.iter().map(|name| workspace.join(name).join("src")).filter(|path| path.is_dir()) {
        println!("cargo:rerun-if-changed={}", sources.display());
        take(&sources, workspace, &mut hash)?;
    }
    println!("cargo:rustc-env=SELFSAME_SOURCE_HASH={:016x}", hash.digest());
    let compiler = Command::new(env::var_os("RUSTC").ok_or("RUSTC is set by cargo")?).arg("--version").output()?;
    println!("cargo:rustc-env=SELFSAME_COMPILER={}", String::from_utf8_lossy(&compiler.stdout).trim());
    Ok(())
}

/// Hashes the files below `folder` in the order of their names, each with its path below `root`.
fn take(folder: &Path, root: &Path, hash: &mut Xxh3) -> io::Result<()> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            take(&path, root, hash)?;
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        let content = fs::read(&path)?;
        for part in [name.as_bytes(), &content] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(())
}
