//! PTX as run: registers are slots of a warp's register file, labels are basic blocks.

use crate::counts::Class;
use crate::op::Map;
use crate::syntax::Space;

/// A register of a warp. Numbers and special registers have slots too, which no instruction writes.
pub(crate) type Slot = u32;

/// Where unwanted results go.
pub(crate) const SINK: Slot = 0;
/// The carry flag.
pub(crate) const CARRY: Slot = 1;

/// An entry, ready to run.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    /// Size of the parameters together.
    pub(crate) param_bytes: usize,
    /// Size of the register file.
    pub(crate) slots: usize,
    pub(crate) constants: Vec<(Slot, u64)>,
    pub(crate) specials: Vec<(Slot, Special)>,
    /// Bytes of static shared memory; the dynamic one follows.
    pub(crate) static_shared: usize,
    /// Bytes of memory of each thread.
    pub(crate) local: usize,
    pub(crate) code: Vec<Instruction>,
    pub(crate) blocks: Vec<Block>,
}

/// A parameter of an entry.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A special register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Special {
    /// `%tid`, by dimension.
    Thread(usize),
    /// `%ntid`.
    Threads(usize),
    /// `%ctaid`.
    Block(usize),
    /// `%nctaid`.
    Blocks(usize),
    /// `%laneid`.
    Lane,
    /// `%lanemask_lt` and its like: which lanes, by own lane.
    LaneMask(fn(u32) -> u32),
}

/// Instructions of which only the last one transfers control.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The block where lanes that part at its end meet again: its immediate post-dominator.
    pub(crate) join: Option<usize>,
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instruction {
    /// The predicate and whether it is negated.
    pub(crate) guard: Option<(Slot, bool)>,
    pub(crate) op: Op,
    pub(crate) class: Class,
    pub(crate) line: u32,
}

/// What an instruction does.
#[derive(Debug)]
pub(crate) enum Op {
    /// Values from values; unused arguments are [`SINK`].
    Map { map: Map, dest: Slot, args: [Slot; 4], carry: Slot },
    /// Parts of `bits` each, the first lowest, to one value.
    Pack { dest: Slot, parts: Vec<Slot>, bits: u32 },
    /// The reverse.
    Unpack { dests: Vec<Slot>, source: Slot, bits: u32 },
    /// Reads one to four elements.
    Load { dests: Vec<Slot>, access: Access, signed: bool },
    /// Writes one to four elements.
    Store { sources: Vec<Slot>, access: Access },
    /// Changes one element; `change` has the old value and two operands.
    Atomic { dest: Slot, access: Access, change: fn(u64, u64, u64) -> u64, args: [Slot; 2] },
    /// Orders memory: nothing to do where memory is in order.
    Fence,
    /// `activemask`.
    ActiveMask { dest: Slot },
    /// `shfl.sync`; `valid` says whether the source lane is in range.
    Shuffle { mode: ShuffleMode, dest: Slot, valid: Slot, value: Slot, lane: Slot, clamp: Slot, mask: Slot },
    /// `vote.sync`.
    Vote { mode: VoteMode, dest: Slot, predicate: Slot, mask: Slot },
    /// `bar.warp.sync`.
    WarpSync { mask: Slot },
    /// `mma.sync`.
    Product { kind: ProductKind, d: [Slot; 4], a: [Slot; 4], b: [Slot; 2], c: [Slot; 4] },
    /// `bar.sync 0`.
    Barrier,
    /// To a statement at first, to a block once these are known.
    Branch { target: usize },
    /// `brx.idx`.
    Switch { index: Slot, targets: Vec<usize> },
    /// `ret` and `exit`.
    Exit,
    /// `trap`.
    Trap,
}

impl Op {
    /// Whether what follows starts a block.
    pub(crate) fn ends_block(&self) -> bool {
        matches!(self, Op::Barrier | Op::Branch { .. } | Op::Switch { .. } | Op::Exit | Op::Trap)
    }
}

/// A memory access at the address in `base` plus `offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    /// Bytes of an element.
    pub(crate) bytes: usize,
    pub(crate) base: Slot,
    pub(crate) offset: u64,
}

/// Which lane a shuffle reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShuffleMode {
    Index,
    Butterfly,
    Up,
    Down,
}

/// What a vote tells.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

/// The matrix products.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProductKind {
    /// m16n8k16 in bf16.
    Bf16,
    /// m16n8k8 in tf32.
    Tf32,
}
