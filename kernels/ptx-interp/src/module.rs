//! [`Module`]: PTX text, parsed and resolved.

use crate::error::PtxError;
use crate::instruction::Entry;
use crate::memory::Memory;
use crate::parse;
use crate::resolve;
use crate::syntax::{Source, Space};
use std::collections::BTreeSet;

/// A PTX module whose entries can be run.
#[derive(Debug)]
pub struct Module {
    pub(crate) entries: Vec<Entry>,
    /// The text by lines, for messages.
    pub(crate) lines: Vec<String>,
    opcodes: BTreeSet<String>,
    /// The size and first bytes of each variable in global and constant memory, in the order of their addresses.
    data: Vec<(usize, Vec<u8>)>,
}

impl Module {
    /// Parses PTX and resolves every entry. Functions (`.func`) are left out: kernels are compiled without calls.
    ///
    /// # Errors
    /// [`PtxError`] for malformed text and for instructions that are not known.
    pub fn parse(text: &str) -> Result<Module, PtxError> {
        let Source { entries, variables } = parse::parse(text)?;
        // Every memory gives the same addresses to the same allocations: those of a launch's memory are known here.
        let mut memory = Memory::new();
        let mut data = Vec::new();
        let mut globals = Vec::new();
        for variable in &variables {
            if variable.space == Space::Shared {
                globals.push((variable, None));
                continue;
            }
            let Some(bytes) = variable.bytes.and_then(|bytes| usize::try_from(bytes).ok()) else {
                let got = format!("the variable {:?} without a size", variable.name);
                return Err(PtxError::new(variable.line, got, "only shared memory is sized by the launch"));
            };
            globals.push((variable, Some(memory.allocate(bytes))));
            data.push((bytes, variable.initial.clone()));
        }
        let opcodes =
            entries.iter().flat_map(|entry| &entry.statements).map(|statement| statement.opcode.clone()).collect();
        let entries = entries.iter().map(|entry| resolve::entry(entry, &globals)).collect::<Result<_, _>>()?;
        Ok(Module { entries, lines: text.lines().map(str::to_string).collect(), opcodes, data })
    }

    /// The names of the entries, in the text's order.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The opcodes of all entries, in alphabetical order.
    pub fn opcodes(&self) -> impl Iterator<Item = &str> {
        self.opcodes.iter().map(String::as_str)
    }

    /// Memory that holds the module's variables.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::new();
        for (bytes, initial) in &self.data {
            let address = memory.allocate(*bytes);
            if let Some(data) = memory.bytes(address, *bytes) {
                data.fill(0);
                data[..initial.len()].copy_from_slice(initial);
            }
        }
        memory
    }
}
