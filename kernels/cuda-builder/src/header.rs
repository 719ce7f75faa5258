//! What the built PTX says about itself: the compiler, the flags and every source file with its SHA-256.
//!
//! The files are those that the compiler says it read (its dependency information), so the list is exact: files that
//! exist on the host alone are not in it. A new file can only be read by the device build once a listed file names it
//! in a `mod` line, so comparing the listed files is enough to know whether the PTX is still what the sources give.
//! Test cases and host code inside a listed file count as well: a false alarm costs a rebuild that changes nothing but
//! the header, and a rule that tells device code from host code inside a file would cost trust.
//!
//! `sed -n 's,^// source: ,,p' ptx/sm_80.ptx | sha256sum --check` in `kernels/` does the same check by hand.

use crate::sha256;
use std::path::Path;

/// The header of a built PTX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The compiler: release, commit, LLVM.
    pub compiler: String,
    /// The flags of the device build.
    pub flags: String,
    /// Source files below the kernels' folder with their SHA-256, sorted by path.
    pub sources: Vec<(String, String)>,
}

impl Header {
    /// The header as the comment lines at the top of the PTX.
    pub fn render(&self) -> String {
        let mut text = format!(
            "// The device code of selfsame-kernels. Built by selfsame-cuda-builder from the sources named here: do not \
             edit.\n// compiler: {}\n// flags: {}\n",
            self.compiler, self.flags
        );
        for (path, hash) in &self.sources {
            text += &format!("// source: {hash}  {path}\n");
        }
        text
    }

    /// Reads the header of a PTX text; nothing when there is none.
    pub fn parse(ptx: &str) -> Option<Header> {
        let mut header = Header { compiler: String::new(), flags: String::new(), sources: Vec::new() };
        for line in ptx.lines().map_while(|line| line.strip_prefix("// ")) {
            if let Some(compiler) = line.strip_prefix("compiler: ") {
                header.compiler = compiler.into();
            } else if let Some(flags) = line.strip_prefix("flags: ") {
                header.flags = flags.into();
            } else if let Some((hash, path)) = line.strip_prefix("source: ").and_then(|s| s.split_once("  ")) {
                header.sources.push((path.into(), hash.into()));
            }
        }
        (!header.sources.is_empty()).then_some(header)
    }

    /// The sources, below the folder `kernels`, that are not what they were when the PTX was built.
    pub fn changed_sources(&self, kernels: &Path) -> Vec<&str> {
        let same = |path: &str, hash: &str| hash_source(&kernels.join(path)).is_ok_and(|now| now == hash);
        self.sources.iter().filter(|(path, hash)| !same(path, hash)).map(|(path, _)| path.as_str()).collect()
    }
}

/// The SHA-256 of a source file. Line ends count as one line feed, as in the repository: a checkout that turns them
/// into two characters has the same sources.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_source(path: &Path) -> std::io::Result<String> {
    Ok(sha256::hex(std::fs::read_to_string(path)?.replace("\r\n", "\n").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_sees_every_change() {
        let folder = std::env::temp_dir().join(format!("selfsame-header-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |text: &str| std::fs::write(folder.join("a.rs"), text).unwrap();
        write("one\ntwo\n");
        let header = Header {
            compiler: "rustc 1".into(),
            flags: "-C opt-level=3".into(),
            sources: vec![("a.rs".into(), hash_source(&folder.join("a.rs")).unwrap())],
        };
        assert_eq!(Header::parse(&format!("{}\n.version 7.8\n", header.render())), Some(header.clone()));
        assert_eq!(Header::parse(".version 7.8\n"), None);
        assert!(header.changed_sources(&folder).is_empty());
        write("one\r\ntwo\r\n");
        assert!(header.changed_sources(&folder).is_empty());
        write("one\ntwo");
        assert_eq!(header.changed_sources(&folder), ["a.rs"]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(header.changed_sources(&folder), ["a.rs"]);
    }
}
