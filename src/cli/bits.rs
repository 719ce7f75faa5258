//! Golden bits: the checked-in table of hashes, and this machine's.
//!
//! A line of the table is `kind name hash`. It is written by `selfsame doctor --bits --write FILE`; a change of it in a
//! review is a change of what the library computes.

use std::fmt::Write;
use std::path::Path;

use selfsame_engine::{Device, Error, Result};
use selfsame_methods::golden;
use selfsame_methods::run::fingerprints::Digest;

use super::{Registry, primitives};

const TABLE: &str = include_str!("bits.txt");

const HEADER: &str = "\
# Golden bits: what forward and backward of every operation and loss make, what no operation's gradient check reaches,
# and a short training with every method.
# Written by `selfsame doctor --bits --write FILE`; compared by `selfsame doctor --bits`, on any machine.
";

/// One line of the table, as found here.
pub(super) struct Entry {
    /// `operation`, `loss`, `primitive`, `lars` or `training`.
    pub(super) kind: &'static str,
    /// Name in its registry.
    pub(super) name: &'static str,
    /// What this machine computes.
    pub(super) found: Digest,
    /// What the table says, if it has the entry.
    pub(super) expected: Option<Digest>,
}

impl Entry {
    /// Whether the table says something else. What the table does not know, such as a user's own method, differs from
    /// nothing.
    pub(super) fn differs(&self) -> bool {
        self.expected.is_some_and(|expected| expected != self.found)
    }
}

/// Everything in `registry`, computed on `device`.
pub(super) fn entries(registry: &Registry, device: &Device) -> Result<Vec<Entry>> {
    let entry = |kind, name, found| Entry { kind, name, found, expected: expected(kind, name) };
    let mut entries = Vec::new();
    for spec in registry.ops {
        entries.push(entry("operation", spec.name, golden::operation(spec, device)?));
    }
    for &spec in registry.losses {
        entries.push(entry("loss", spec.name, golden::loss(spec, device)?));
    }
    for (kind, name, found) in primitives::digests(device)? {
        entries.push(entry(kind, name, found));
    }
    for &spec in registry.methods {
        entries.push(entry("training", spec.name, golden::training(spec, device)?));
    }
    Ok(entries)
}

/// Writes `entries` as a table.
pub(super) fn write(path: &Path, entries: &[Entry]) -> Result<()> {
    let mut text = HEADER.to_string();
    for Entry { kind, name, found, .. } in entries {
        let _ = writeln!(text, "{kind} {name} {found}");
    }
    std::fs::write(path, text).map_err(|error| Error::io(path, &error))
}

fn expected(kind: &str, name: &str) -> Option<Digest> {
    let start = format!("{kind} {name} ");
    Digest::try_from(TABLE.lines().find_map(|line| line.strip_prefix(&start))?.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::cpu::CpuDevice;
    use selfsame_kernels::isa::Isa;

    /// The table is complete, has nothing else in it, and is what this machine computes on each of its instruction sets.
    #[test]
    fn the_table_holds_here() {
        let registry = Registry::built_in();
        for isa in Isa::available() {
            let device = Device::Cpu(CpuDevice::with_isa(2, isa).unwrap());
            let entries = entries(&registry, &device).unwrap();
            let wrong: Vec<String> = entries
                .iter()
                .filter(|entry| entry.expected != Some(entry.found))
                .map(|entry| format!("{} {}", entry.kind, entry.name))
                .collect();
            let hint = "selfsame doctor --bits --write src/cli/bits.txt writes the table anew";
            assert_eq!(wrong, [] as [String; 0], "on {isa}; {hint}");
            assert_eq!(TABLE.lines().filter(|line| !line.starts_with('#')).count(), entries.len());
        }
    }
}
