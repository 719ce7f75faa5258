//! The hash of all sources that decide the bits of a run. The build script takes it too, for [`Build`](super::Build).

use std::path::{Path, PathBuf};
use std::{fs, io};

use xxhash_rust::xxh3::Xxh3;

/// The crates' folders in the workspace.
const CRATES: [&str; 7] = ["kernels", "engine", "autograd", "models", "losses", "data", "methods"];

/// The folders of sources below `workspace`.
///
/// Outside a workspace, as in a published crate, there are none: the version says which sources these are.
pub fn source_folders(workspace: &Path) -> Vec<PathBuf> {
    CRATES.iter().map(|name| workspace.join(name).join("src")).filter(|path| path.is_dir()).collect()
}

/// XXH3 of all files below [`source_folders`], each with its path, in hexadecimal.
///
/// # Errors
/// What the file system says.
pub fn source_hash(workspace: &Path) -> io::Result<String> {
    let mut hash = Xxh3::new();
    for folder in source_folders(workspace) {
        take(&folder, workspace, &mut hash)?;
    }
    Ok(format!("{:016x}", hash.digest()))
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
