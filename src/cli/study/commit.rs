//! The commit of the sources that results were computed by.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use selfsame_methods::run::{source_folders, source_hash};

/// The commit that last changed the sources with that hash: known in a clone that holds exactly these, all committed.
pub(super) fn of_source(hash: &str) -> Option<String> {
    let here = Path::new(".");
    let top = git(here, ["rev-parse", "--show-toplevel"])?;
    let top = Path::new(&top);
    if source_hash(top).ok()? != hash {
        return None;
    }
    let folders = source_folders(top);
    let within = |arguments: &[&'static str]| {
        git(
            top,
            arguments.iter().map(OsStr::new).chain([OsStr::new("--")]).chain(folders.iter().map(|f| f.as_os_str())),
        )
    };
    let is_committed = within(&["status", "--porcelain"])?.is_empty();
    is_committed.then(|| within(&["log", "-1", "--format=%h", "--abbrev=12"])).flatten()
}

/// What git prints; nothing where there is no git or no clone.
fn git<A: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = A>) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sources_have_no_commit_here() {
        assert_eq!(of_source("0000000000000000"), None);
    }
}
