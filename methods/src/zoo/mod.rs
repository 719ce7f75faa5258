//! The methods: one file each, one line each in [`METHODS`].

pub mod simclr;

use crate::method::MethodSpec;

/// Every method, in the order of the table that `selfsame methods` prints.
pub const METHODS: &[&MethodSpec] = &[&simclr::SPEC];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/zoo");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".rs").map(str::to_string))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut listed: Vec<&str> = METHODS.iter().map(|spec| spec.name).collect();
        listed.sort_unstable();
        assert_eq!(files, listed, "files of methods/src/zoo against METHODS");
    }
}
