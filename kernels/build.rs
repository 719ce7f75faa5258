//! Chooses the PTX that the crate carries: the checked-in text where its sources are unchanged, else a fresh build.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={}", selfsame_cuda_builder::toolchain::VARIABLE);
    println!("cargo:rustc-check-cfg=cfg(ptx_fresh)");
    // Device code carries no PTX: it becomes it.
    if std::env::var("CARGO_CFG_TARGET_ARCH")? == "nvptx64" {
        return Ok(());
    }
    let folder = |name| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is set by cargo"));
    let prepared =
        selfsame_cuda_builder::prepare::prepare(&folder("CARGO_MANIFEST_DIR")?, &folder("OUT_DIR")?.join("device"))?;
    for file in &prepared.watch {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    println!("cargo:rustc-env=SELFSAME_PTX_SM_80={}", prepared.ptx.display());
    if prepared.fresh {
        println!("cargo:rustc-cfg=ptx_fresh");
    }
    for line in prepared.warning.iter().flat_map(|warning| warning.lines()) {
        println!("cargo:warning={line}");
    }
    Ok(())
}
