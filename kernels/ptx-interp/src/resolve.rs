//! An entry as written to an entry as run: names to slots and addresses, opcodes to what they do.

use crate::counts::Class;
use crate::error::PtxError;
use crate::flow;
use crate::instruction::{Access, CARRY, Entry, Instruction, Op, Param, SINK, Slot, Special};
use crate::op::{self, Map};
use crate::opcode;
use crate::parse::type_bytes;
use crate::syntax::{EntrySource, Operand, Space, Statement, Variable};
use std::collections::HashMap;

/// A module-wide variable and, for those in global and constant memory, its address.
pub(crate) type Globals<'a> = [(&'a Variable, Option<u64>)];

/// Resolves an entry.
pub(crate) fn entry(source: &EntrySource, globals: &Globals<'_>) -> Result<Entry, PtxError> {
    let mut resolver = Resolver {
        source,
        registers: HashMap::new(),
        symbols: HashMap::new(),
        labels: HashMap::new(),
        entry: Entry {
            name: source.name.clone(),
            params: Vec::new(),
            param_bytes: 0,
            slots: 2,
            constants: Vec::new(),
            specials: Vec::new(),
            static_shared: 0,
            local: 0,
            code: Vec::new(),
            blocks: Vec::new(),
        },
        known_constants: HashMap::new(),
    };
    resolver.registers()?;
    resolver.params()?;
    resolver.variables(globals)?;
    resolver.labels.extend(source.labels.iter().map(|(name, at)| (name.as_str(), *at)));
    for statement in &source.statements {
        let instruction = resolver.instruction(statement)?;
        resolver.entry.code.push(instruction);
    }
    let mut entry = resolver.entry;
    let falls_through = match entry.code.last() {
        Some(last) => {
            last.guard.is_some() || !matches!(last.op, Op::Exit | Op::Trap | Op::Branch { .. } | Op::Switch { .. })
        }
        None => true,
    };
    if falls_through {
        let line = source.statements.last().map_or(0, |statement| statement.line);
        return Err(PtxError::new(line, format!("the end of {:?} without `ret`", source.name), "is the file cut off?"));
    }
    entry.blocks = flow::blocks(&mut entry.code);
    Ok(entry)
}

/// What a symbol stands for.
#[derive(Clone, Copy)]
struct Symbol {
    space: Space,
    address: u64,
}

pub(crate) struct Resolver<'a> {
    source: &'a EntrySource,
    registers: HashMap<String, Slot>,
    symbols: HashMap<&'a str, Symbol>,
    labels: HashMap<&'a str, usize>,
    entry: Entry,
    known_constants: HashMap<u64, Slot>,
}

impl<'a> Resolver<'a> {
    fn slot(&mut self) -> Slot {
        self.entry.slots += 1;
        (self.entry.slots - 1) as Slot
    }

    fn registers(&mut self) -> Result<(), PtxError> {
        /// More than any kernel needs: each is 256 bytes per warp.
        const MOST: u32 = 100_000;
        for group in &self.source.registers {
            let names: Vec<String> = match group.count {
                Some(count) if count <= MOST => (0..count).map(|i| format!("{}{i}", group.prefix)).collect(),
                Some(count) => {
                    let got = format!("{count} registers in {:?}", self.source.name);
                    return Err(PtxError::new(0, got, format!("at most {MOST} are possible")));
                }
                None => vec![group.prefix.clone()],
            };
            for name in names {
                let slot = self.slot();
                self.registers.insert(name, slot);
            }
        }
        Ok(())
    }

    fn params(&mut self) -> Result<(), PtxError> {
        for param in &self.source.params {
            let Some(bytes) = param.bytes else {
                return Err(PtxError::new(
                    param.line,
                    format!("the parameter {:?} without a size", param.name),
                    "add it",
                ));
            };
            let offset = (self.entry.param_bytes as u64).next_multiple_of(param.align);
            self.entry.param_bytes = (offset + bytes) as usize;
            self.entry.params.push(Param { offset: offset as usize, bytes: bytes as usize });
            self.symbols.insert(&param.name, Symbol { space: Space::Param, address: offset });
        }
        Ok(())
    }

    /// Lays out the entry's variables: its own, and the module's shared ones that it uses.
    fn variables(&mut self, globals: &Globals<'a>) -> Result<(), PtxError> {
        let mut used = Vec::new();
        self.source.statements.iter().flat_map(|statement| &statement.operands).for_each(|o| symbols_of(o, &mut used));
        let mut shared: Vec<&'a Variable> = Vec::new();
        for (variable, address) in globals {
            match address {
                Some(address) => {
                    self.symbols.insert(&variable.name, Symbol { space: variable.space, address: *address });
                }
                None if used.contains(&variable.name.as_str()) => shared.push(variable),
                None => {}
            }
        }
        shared.extend(self.source.variables.iter());
        // Dynamic shared memory has no size and comes last.
        shared.sort_by_key(|variable| variable.bytes.is_none());
        for variable in shared {
            let total = match variable.space {
                Space::Shared => &mut self.entry.static_shared,
                Space::Local => &mut self.entry.local,
                _ => {
                    let got = format!("the variable {:?} inside an entry", variable.name);
                    return Err(PtxError::new(variable.line, got, "only .shared and .local may stand there"));
                }
            };
            let address = (*total as u64).next_multiple_of(variable.align);
            let end = address.checked_add(variable.bytes.unwrap_or(0)).and_then(|end| usize::try_from(end).ok());
            *total =
                end.ok_or_else(|| PtxError::new(variable.line, "more memory than exists", "is the size right?"))?;
            let symbol = Symbol { space: variable.space, address };
            if self.symbols.insert(&variable.name, symbol).is_some() {
                let got = format!("a second {:?}", variable.name);
                return Err(PtxError::new(variable.line, got, "was inline assembly that declares a tile duplicated?"));
            }
        }
        Ok(())
    }

    /// The slot that holds a number.
    pub(crate) fn constant(&mut self, bits: u64) -> Slot {
        if let Some(slot) = self.known_constants.get(&bits) {
            return *slot;
        }
        let slot = self.slot();
        self.known_constants.insert(bits, slot);
        self.entry.constants.push((slot, bits));
        slot
    }

    fn register(&mut self, name: &str, line: u32) -> Result<Slot, PtxError> {
        if let Some(slot) = self.registers.get(name) {
            return Ok(*slot);
        }
        let Some(special) = special(name) else {
            return Err(PtxError::new(line, format!("the register {name:?}"), "declare it with `.reg`"));
        };
        let slot = self.slot();
        self.registers.insert(name.into(), slot);
        self.entry.specials.push((slot, special));
        Ok(slot)
    }

    /// The slot of an operand that is read.
    pub(crate) fn value(&mut self, operand: &Operand, line: u32) -> Result<Slot, PtxError> {
        match operand {
            Operand::Register(name) => self.register(name, line),
            Operand::Immediate(bits) => Ok(self.constant(*bits)),
            Operand::Symbol(name, offset) => match self.symbols.get(name.as_str()) {
                Some(symbol) => Ok(self.constant(symbol.address.wrapping_add_signed(*offset))),
                None => Err(PtxError::new(line, format!("the symbol {name:?}"), "it is declared nowhere")),
            },
            other => Err(PtxError::new(line, format!("{other:?}"), "expected a register, a number or a symbol")),
        }
    }

    /// The slot of an operand that is written.
    pub(crate) fn dest(&mut self, operand: &Operand, line: u32) -> Result<Slot, PtxError> {
        match operand {
            Operand::Register(name) if name == "_" => Ok(SINK),
            Operand::Register(name) => match self.registers.get(name) {
                Some(slot) if special(name).is_none() => Ok(*slot),
                _ => Err(PtxError::new(line, format!("a write to {name:?}"), "declare it with `.reg`")),
            },
            other => Err(PtxError::new(line, format!("a write to {other:?}"), "expected a register")),
        }
    }

    /// The slots of a register or a vector of registers that are written.
    pub(crate) fn dests(&mut self, operand: &Operand, line: u32) -> Result<Vec<Slot>, PtxError> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.dest(part, line)).collect(),
            one => Ok(vec![self.dest(one, line)?]),
        }
    }

    /// The slots of an operand or a vector of operands that are read.
    pub(crate) fn values(&mut self, operand: &Operand, line: u32) -> Result<Vec<Slot>, PtxError> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.value(part, line)).collect(),
            one => Ok(vec![self.value(one, line)?]),
        }
    }

    /// An access of elements of `bytes` bytes at an address operand.
    pub(crate) fn access(
        &mut self,
        operand: &Operand,
        space: Space,
        bytes: usize,
        line: u32,
    ) -> Result<Access, PtxError> {
        let Operand::Address(base, offset) = operand else {
            return Err(PtxError::new(line, format!("{operand:?}"), "expected an address in brackets"));
        };
        if let Operand::Symbol(name, _) = &**base
            && let Some(symbol) = self.symbols.get(name.as_str())
            && symbol.space != space
            && !(space == Space::Generic && matches!(symbol.space, Space::Global | Space::Const))
        {
            let got = format!("{name:?}, which lies in {:?} memory, in an access to {space:?} memory", symbol.space);
            return Err(PtxError::new(line, got, "convert the address with `cvta`"));
        }
        Ok(Access { space, bytes, base: self.value(base, line)?, offset: *offset as u64 })
    }

    /// The statement after a label.
    pub(crate) fn label(&self, operand: &Operand, line: u32) -> Result<usize, PtxError> {
        match operand {
            Operand::Symbol(name, 0) => self.statement(name, line),
            other => Err(PtxError::new(line, format!("{other:?}"), "expected a label")),
        }
    }

    fn statement(&self, label: &str, line: u32) -> Result<usize, PtxError> {
        match self.labels.get(label) {
            Some(at) if *at < self.source.statements.len() => Ok(*at),
            _ => Err(PtxError::new(line, format!("the label {label:?}"), "no instruction follows such a label")),
        }
    }

    /// The statements of a jump table.
    pub(crate) fn table(&self, operand: &Operand, line: u32) -> Result<Vec<usize>, PtxError> {
        let found = match operand {
            Operand::Symbol(name, 0) => self.source.tables.iter().find(|(table, _)| table == name),
            _ => None,
        };
        let Some((_, targets)) = found else {
            return Err(PtxError::new(line, format!("{operand:?}"), "expected the label of `.branchtargets`"));
        };
        targets.iter().map(|target| self.statement(target, line)).collect()
    }

    fn instruction(&mut self, statement: &Statement) -> Result<Instruction, PtxError> {
        let guard = match &statement.guard {
            Some((register, negated)) => Some((self.register(register, statement.line)?, *negated)),
            None => None,
        };
        let op = match opcode::effect(self, statement)? {
            Some(op) => op,
            None => self.map(statement)?,
        };
        let class = Class::of(&statement.opcode, &op);
        Ok(Instruction { guard, op, class, line: statement.line })
    }

    /// An instruction that computes values.
    fn map(&mut self, statement: &Statement) -> Result<Op, PtxError> {
        let Statement { opcode, operands, line, .. } = statement;
        let vector = |operand: &Operand| matches!(operand, Operand::Vector(_));
        if let (Some(element), [dest, source]) = (opcode.strip_prefix("mov."), &operands[..])
            && (vector(dest) || vector(source))
        {
            return self.pack(element, dest, source, *line);
        }
        let Some(map) = op::map(opcode) else {
            let hint = "the interpreter does not know it; its instructions are those of the module `op`";
            return Err(PtxError::new(*line, format!("the instruction `{opcode}`"), hint));
        };
        let count = match map {
            Map::One(_) => 1,
            Map::Two(_) | Map::Carry(_) => 2,
            Map::Three(_) => 3,
            Map::Four(_) => 4,
        };
        let [dest, sources @ ..] = &operands[..] else { return Err(operand_count(statement, count + 1)) };
        if sources.len() != count {
            return Err(operand_count(statement, count + 1));
        }
        let mut args = [SINK; 4];
        for (arg, source) in args.iter_mut().zip(sources) {
            *arg = self.value(source, *line)?;
        }
        if matches!(map, Map::Carry(_)) {
            args[2] = CARRY;
        }
        let carry = if opcode.split('.').any(|part| part == "cc") { CARRY } else { SINK };
        Ok(Op::Map { map, dest: self.dest(dest, *line)?, args, carry })
    }

    /// `mov` between a register and a vector of parts.
    fn pack(&mut self, element: &str, dest: &Operand, source: &Operand, line: u32) -> Result<Op, PtxError> {
        let whole = type_bytes(element).unwrap_or(0) as usize * 8;
        let ((Operand::Vector(parts), _) | (_, Operand::Vector(parts))) = (dest, source) else {
            return Err(PtxError::new(line, "a `mov` without a vector", "expected one"));
        };
        let bits = whole / parts.len();
        if bits == 0 || bits * parts.len() != whole {
            let got = format!("{} parts of .{element}", parts.len());
            return Err(PtxError::new(line, got, "the parts must divide it evenly"));
        }
        let bits = bits as u32;
        match (dest, source) {
            (Operand::Vector(_), Operand::Vector(_)) => {
                Err(PtxError::new(line, "a `mov` between vectors", "one side is a single register"))
            }
            (Operand::Vector(_), _) => {
                Ok(Op::Unpack { dests: self.dests(dest, line)?, source: self.value(source, line)?, bits })
            }
            _ => Ok(Op::Pack { dest: self.dest(dest, line)?, parts: self.values(source, line)?, bits }),
        }
    }
}

/// An instruction with a number of operands that it cannot have.
pub(crate) fn operand_count(statement: &Statement, expected: usize) -> PtxError {
    let got = format!("`{}` with {} operands", statement.opcode, statement.operands.len());
    PtxError::new(statement.line, got, format!("expected {expected}"))
}

/// The symbols in an operand.
fn symbols_of<'a>(operand: &'a Operand, found: &mut Vec<&'a str>) {
    match operand {
        Operand::Symbol(name, _) => found.push(name),
        Operand::Address(base, _) => symbols_of(base, found),
        Operand::Vector(parts) => parts.iter().for_each(|part| symbols_of(part, found)),
        Operand::Register(_) | Operand::Immediate(_) | Operand::Pair(..) => {}
    }
}

fn special(name: &str) -> Option<Special> {
    let dimension = |axis: &str| ["x", "y", "z"].iter().position(|known| *known == axis);
    if let Some((register, axis)) = name.split_once('.') {
        let axis = dimension(axis)?;
        return Some(match register {
            "%tid" => Special::Thread(axis),
            "%ntid" => Special::Threads(axis),
            "%ctaid" => Special::Block(axis),
            "%nctaid" => Special::Blocks(axis),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::Lane,
        "%lanemask_eq" => Special::LaneMask(|lane| 1 << lane),
        "%lanemask_lt" => Special::LaneMask(|lane| (1 << lane) - 1),
        "%lanemask_le" => Special::LaneMask(|lane| u32::MAX >> (31 - lane)),
        "%lanemask_ge" => Special::LaneMask(|lane| u32::MAX << lane),
        "%lanemask_gt" => Special::LaneMask(|lane| !(u32::MAX >> (31 - lane))),
        _ => return None,
    })
}
