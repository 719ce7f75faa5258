//! Executed instructions by class.

use crate::instruction::Op;
use crate::syntax::Space;

/// A class of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `add` and `sub` in f32.
    Fp32Add,
    /// `mul` in f32.
    Fp32Multiply,
    /// `fma` in f32.
    Fp32Fma,
    /// Other f32 arithmetic: comparison, minimum, sign.
    Fp32Other,
    /// Arithmetic in f64, division and square root excepted.
    Fp64,
    /// Integer arithmetic, logic and comparison.
    Integer,
    /// `cvt` and `cvta`.
    Convert,
    /// `mov` and selection.
    Move,
    /// Division, square root and reciprocal of floats.
    Special,
    /// Loads and stores of global and constant memory, also through generic addresses.
    Global,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads of parameters, and the memory of single threads.
    Local,
    /// Atomics.
    Atomic,
    /// Branches and ends.
    Control,
    /// Barriers, shuffles, votes, fences.
    Convergent,
    /// Matrix products.
    Tensor,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 16] = [
        Class::Fp32Add,
        Class::Fp32Multiply,
        Class::Fp32Fma,
        Class::Fp32Other,
        Class::Fp64,
        Class::Integer,
        Class::Convert,
        Class::Move,
        Class::Special,
        Class::Global,
        Class::Shared,
        Class::Local,
        Class::Atomic,
        Class::Control,
        Class::Convergent,
        Class::Tensor,
    ];

    /// The class of an instruction.
    pub(crate) fn of(opcode: &str, op: &Op) -> Class {
        match op {
            Op::Pack { .. } | Op::Unpack { .. } => Class::Move,
            Op::Load { access, .. } | Op::Store { access, .. } => match access.space {
                Space::Generic | Space::Global | Space::Const => Class::Global,
                Space::Shared => Class::Shared,
                Space::Local | Space::Param => Class::Local,
            },
            Op::Atomic { .. } => Class::Atomic,
            Op::Branch { .. } | Op::Switch { .. } | Op::Exit | Op::Trap => Class::Control,
            Op::Fence
            | Op::ActiveMask { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::WarpSync { .. }
            | Op::Barrier => Class::Convergent,
            Op::Product { .. } => Class::Tensor,
            Op::Map { .. } => {
                let (name, element) = opcode.rsplit_once('.').unwrap_or((opcode, ""));
                let name = name.split('.').next().unwrap_or(name);
                match (name, element) {
                    ("mov" | "selp" | "slct", _) => Class::Move,
                    ("cvt" | "cvta" | "isspacep", _) => Class::Convert,
                    ("div" | "sqrt" | "rcp", "f32" | "f64") => Class::Special,
                    ("add" | "sub", "f32") => Class::Fp32Add,
                    ("mul", "f32") => Class::Fp32Multiply,
                    ("fma", "f32") => Class::Fp32Fma,
                    (_, "f32") => Class::Fp32Other,
                    (_, "f64") => Class::Fp64,
                    _ => Class::Integer,
                }
            }
        }
    }
}

/// How many instructions of each class were executed, each thread by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Class::ALL.len()]);

impl Counts {
    /// The instructions of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.0[class as usize]
    }

    /// All instructions.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Floating-point operations in f32; a fused multiply-add is two. Those inside divisions, square roots and matrix
    /// products do not count.
    pub fn flop(&self) -> u64 {
        self.of(Class::Fp32Add) + self.of(Class::Fp32Multiply) + 2 * self.of(Class::Fp32Fma)
    }

    pub(crate) fn add(&mut self, class: Class, count: u64) {
        self.0[class as usize] += count;
    }
}
