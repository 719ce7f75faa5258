//! What the build script of `selfsame-kernels` does: the checked-in PTX is used where its sources are unchanged, else
//! it is rebuilt where a device compiler is found. Where nothing changed this hashes the sources and does nothing else.

use crate::build::{Device, PTX_FILE, flags};
use crate::header::Header;
use crate::toolchain::Toolchain;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The PTX that a build uses.
#[derive(Debug)]
pub struct Prepared {
    /// Where it lies.
    pub ptx: PathBuf,
    /// Whether it was built from the sources as they are.
    pub fresh: bool,
    /// What the person who builds should know: one sentence, more lines where the compiler had something to say.
    pub warning: Option<String>,
    /// The files that decide all this.
    pub watch: Vec<PathBuf>,
}

/// Chooses the PTX for the crate in the folder `kernels`; what must be built goes below `out`.
///
/// # Errors
/// When a file cannot be written. A missing or failing device compiler is no error: see [`Prepared::warning`].
pub fn prepare(kernels: &Path, out: &Path) -> Result<Prepared> {
    prepare_with(kernels, out, Toolchain::find)
}

fn prepare_with(kernels: &Path, out: &Path, find: impl FnOnce(Option<&str>) -> Result<Toolchain>) -> Result<Prepared> {
    let checked_in = kernels.join(PTX_FILE);
    let text = std::fs::read_to_string(&checked_in).unwrap_or_default();
    let header = Header::parse(&text);
    let mut watch = vec![checked_in.clone()];
    let listed =
        |header: &Header| -> Vec<PathBuf> { header.sources.iter().map(|(path, _)| kernels.join(path)).collect() };
    watch.extend(header.as_ref().map(listed).unwrap_or_default());

    let reason = match &header {
        None => format!("there is no {PTX_FILE}"),
        Some(header) if header.flags != flags() => "the flags of the device build have changed".to_owned(),
        Some(header) => match header.changed_sources(kernels).as_slice() {
            [] => return Ok(Prepared { ptx: checked_in, fresh: true, warning: None, watch }),
            [one] => format!("{one} has changed"),
            [first, rest @ ..] => format!("{first} and {} more have changed", rest.len()),
        },
    };

    std::fs::create_dir_all(out).map_err(|e| Error::io(out, &e))?;
    let ptx = out.join("sm_80.ptx");
    let stale = |warning: String| -> Result<Prepared> {
        // The stale PTX is still a set of kernels that run; where there is none at all, an empty file lets the crate
        // build, and the flag says that it is of no use.
        std::fs::write(&ptx, &text).map_err(|e| Error::io(&ptx, &e))?;
        Ok(Prepared { ptx: ptx.clone(), fresh: false, warning: Some(warning), watch: watch.clone() })
    };
    let toolchain = match find(header.as_ref().map(|header| header.compiler.as_str())) {
        Ok(toolchain) => toolchain,
        Err(error) => return stale(format!("{reason}, so the GPU kernels are out of date: {error}.")),
    };
    match Device::new(toolchain, out).and_then(|device| device.build(kernels)) {
        Ok(built) => {
            std::fs::write(&ptx, &built).map_err(|e| Error::io(&ptx, &e))?;
            watch.extend(Header::parse(&built).as_ref().map(listed).unwrap_or_default());
            watch.sort();
            watch.dedup();
            Ok(Prepared { ptx, fresh: true, warning: None, watch })
        }
        Err(error) => stale(format!("{reason}, and the GPU kernels do not build: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::hash_source;
    use crate::toolchain::HINT;

    /// A kernels folder of one source file and the PTX that belongs to it.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("selfsame-prepare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::create_dir_all(folder.join("ptx")).unwrap();
        std::fs::write(folder.join("src/lib.rs"), "pub mod device;\n").unwrap();
        let header = Header {
            compiler: "rustc 1.96.0".into(),
            flags: flags(),
            sources: vec![("src/lib.rs".into(), hash_source(&folder.join("src/lib.rs")).unwrap())],
        };
        std::fs::write(folder.join(PTX_FILE), header.render() + "\n.version 7.8\n").unwrap();
        folder
    }

    fn nothing_installed(_: Option<&str>) -> Result<Toolchain> {
        Err(Error::new(HINT))
    }

    #[test]
    fn unchanged_sources_use_the_checked_in_text_and_look_for_no_compiler() {
        let kernels = folder("same");
        let prepared = prepare_with(&kernels, &kernels.join("out"), |_| panic!("no compiler is needed")).unwrap();
        assert!(prepared.fresh && prepared.warning.is_none());
        assert_eq!(prepared.ptx, kernels.join(PTX_FILE));
        assert!(prepared.watch.contains(&kernels.join("src/lib.rs")));
        std::fs::remove_dir_all(kernels).unwrap();
    }

    #[test]
    fn changed_sources_without_a_compiler_say_what_to_install() {
        let kernels = folder("changed");
        std::fs::write(kernels.join("src/lib.rs"), "pub mod device; // changed\n").unwrap();
        let prepared = prepare_with(&kernels, &kernels.join("out"), nothing_installed).unwrap();
        let warning = prepared.warning.unwrap();
        assert!(!prepared.fresh && warning.contains("src/lib.rs has changed") && warning.contains("rust-web-src"));
        assert_eq!(warning.lines().count(), 1);
        assert!(std::fs::read_to_string(prepared.ptx).unwrap().contains(".version"));
        std::fs::remove_dir_all(kernels).unwrap();
    }

    #[test]
    fn no_text_at_all_still_builds_the_crate() {
        let kernels = folder("missing");
        std::fs::remove_file(kernels.join(PTX_FILE)).unwrap();
        let prepared = prepare_with(&kernels, &kernels.join("out"), nothing_installed).unwrap();
        assert!(!prepared.fresh && prepared.ptx.is_file());
        std::fs::remove_dir_all(kernels).unwrap();
    }
}
