//! Tells the crate what it is built from, for the manifest of a run: a hash of all sources of the workspace's crates
//! below and with this one, one of the versions of external crates, and the compiler.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use xxhash_rust::xxh3::xxh3_64;

#[path = "src/run/source.rs"]
#[expect(unreachable_pub, reason = "public as a part of the crate")]
mod source;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RUSTC");
    let own = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is set by cargo")?);
    let workspace = own.parent().ok_or("this crate lies in a workspace")?;
    for folder in source::source_folders(workspace) {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    println!("cargo:rustc-env=SELFSAME_SOURCE_HASH={}", source::source_hash(workspace)?);
    let lock = workspace.join("Cargo.lock");
    // A published crate has none beside it. Watched only where it is: cargo takes a missing file for a changed one.
    let dependencies = match lock.is_file() {
        true => {
            println!("cargo:rerun-if-changed={}", lock.display());
            format!("{:016x}", xxh3_64(&fs::read(&lock)?))
        }
        false => String::new(),
    };
    println!("cargo:rustc-env=SELFSAME_DEPENDENCIES={dependencies}");
    let compiler = Command::new(env::var_os("RUSTC").ok_or("RUSTC is set by cargo")?).arg("--version").output()?;
    println!("cargo:rustc-env=SELFSAME_COMPILER={}", String::from_utf8_lossy(&compiler.stdout).trim());
    Ok(())
}
