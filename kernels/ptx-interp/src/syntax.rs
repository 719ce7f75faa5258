//! PTX as written: what the parser finds and [`crate::resolve`] turns into executable form.

/// A module: entries and module-wide variables. Functions are left out.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) entries: Vec<EntrySource>,
    pub(crate) variables: Vec<Variable>,
}

/// A `.entry`.
#[derive(Debug)]
pub(crate) struct EntrySource {
    pub(crate) name: String,
    pub(crate) params: Vec<Variable>,
    pub(crate) registers: Vec<RegisterGroup>,
    pub(crate) variables: Vec<Variable>,
    pub(crate) statements: Vec<Statement>,
    /// Labels with the index of the statement that follows.
    pub(crate) labels: Vec<(String, usize)>,
    /// Jump tables: their label and their targets.
    pub(crate) tables: Vec<(String, Vec<String>)>,
}

/// Where a variable lives or an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Space {
    /// Found out from the address.
    Generic,
    /// Global memory.
    Global,
    /// The block's shared memory.
    Shared,
    /// Constant memory.
    Const,
    /// Memory of one thread.
    Local,
    /// The launch's parameters.
    Param,
}

impl Space {
    /// The space that an opcode or a directive names.
    pub(crate) fn named(name: &str) -> Option<Space> {
        Some(match name {
            "global" => Space::Global,
            "shared" | "shared::cta" => Space::Shared,
            "const" => Space::Const,
            "local" => Space::Local,
            "param" => Space::Param,
            _ => return None,
        })
    }
}

/// A parameter, a tile or an array.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) align: u64,
    /// Its size; `None`: as large as the launch says (`[]`).
    pub(crate) bytes: Option<u64>,
    /// The first bytes; the rest is 0.
    pub(crate) initial: Vec<u8>,
    pub(crate) line: u32,
}

/// `%r<10>`: registers `%r0` to `%r9`; without a count one register.
#[derive(Debug)]
pub(crate) struct RegisterGroup {
    pub(crate) prefix: String,
    pub(crate) count: Option<u32>,
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The predicate and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    pub(crate) line: u32,
}

/// An operand of an instruction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, special ones included, or `_`.
    Register(String),
    /// The bits of a number; integers sign-extended.
    Immediate(u64),
    /// A variable, label or jump table, and bytes to add.
    Symbol(String, i64),
    /// `[base + offset]`; the base is a register, a symbol or a number.
    Address(Box<Operand>, i64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
}
