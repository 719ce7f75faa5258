//! Which values are the same in all threads of a block, or of a warp: a forward data flow over registers.
//!
//! What a register holds varies when the instruction that wrote it reads a varying one, reads the thread's position,
//! reads memory at a varying address, is an atomic or a shuffle; or when the instruction is executed by some threads
//! and not by others. The last covers values that meet after a branch and values that leave a loop in different rounds.
//!
//! What is taken as given, because the host executor checks it on every case:
//! - there is no data race: threads that read the same address at the same point of the program read the same value;
//! - a warp's threads are consecutive in x: blocks are one-dimensional, or their extent in x is a multiple of 32, or
//!   the kernel computes the number of its thread from all three coordinates.

use super::flow::Flow;
use crate::ptx::{Entry, Instruction};
use std::collections::{BTreeMap, BTreeSet};

/// The threads that must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The threads of a block.
    Block,
    /// The 32 threads of a warp.
    Warp,
}

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// The same in all threads of the scope, and a multiple of two to this power.
    Uniform(u32),
    /// A multiple of 32 that is the same in the warp, plus the lane: the thread's number, shifted by such multiples.
    ThreadNumber,
    /// A part of the computation of the thread's number from three coordinates.
    Part(Part),
    /// May differ.
    Varying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Y,
    Z,
    ExtentX,
    ExtentY,
    /// y + extent y * z.
    Row,
}

/// The zero, and what is not yet known: a multiple of every power of two.
const ANY: Value = Value::Uniform(u32::MAX);

/// The low bits that tell the lanes of a warp apart.
const LANE_BITS: u32 = 5;

/// The analysis of a kernel in one scope, and its result.
pub(super) struct Uniformity {
    scope: Scope,
    /// Registers that one instruction alone writes.
    single: BTreeMap<String, Value>,
    /// Registers that several instructions write, such as loop counters, with their place in the lists below: what they
    /// hold depends on where one is.
    several: BTreeMap<String, usize>,
    /// What the registers of `several` hold at the head of each block.
    heads: Vec<Vec<Value>>,
    /// The same at the instruction that is looked at.
    here: Vec<Value>,
    /// Blocks whose branch some threads take differently.
    varying_branches: Vec<bool>,
    /// Blocks that some threads of the scope execute and others do not.
    pub(super) divergent: Vec<bool>,
    /// For a divergent block, the block whose branch makes it so.
    pub(super) because: Vec<Option<usize>>,
    /// Lines of guarded instructions that some threads execute and others do not.
    pub(super) varying_guards: BTreeSet<usize>,
}

impl Uniformity {
    /// Iterates to the least fixed point: all registers start as uniform, all blocks as executed by all, and what is
    /// found to differ never returns.
    pub(super) fn new(entry: &Entry, flow: &Flow, scope: Scope) -> Uniformity {
        let count = entry.blocks.len();
        let several = written_more_than_once(entry);
        let mut state = Uniformity {
            scope,
            single: BTreeMap::new(),
            heads: vec![vec![ANY; several.len()]; count],
            here: Vec::new(),
            several,
            varying_branches: vec![false; count],
            divergent: vec![false; count],
            because: vec![None; count],
            varying_guards: BTreeSet::new(),
        };
        while state.round(entry, flow) {}
        state
    }

    /// Looks at every block once; whether anything new was found.
    fn round(&mut self, entry: &Entry, flow: &Flow) -> bool {
        let mut changed = false;
        for (at, block) in entry.blocks.iter().enumerate() {
            self.here.clone_from(&self.heads[at]);
            for instruction in &block.instructions {
                changed |= self.step(instruction, self.divergent[at]);
            }
            let varying = block.instructions.last().is_some_and(|last| !self.branch_is_uniform(last));
            changed |= varying && !self.varying_branches[at];
            self.varying_branches[at] |= varying;
            for &next in flow.next[at].iter().filter(|&&next| next < entry.blocks.len()) {
                for (head, value) in self.heads[next].iter_mut().zip(&self.here) {
                    let joined = join(*head, *value);
                    changed |= joined != *head;
                    *head = joined;
                }
            }
        }
        for (at, controllers) in flow.controllers.iter().enumerate() {
            if self.divergent[at] {
                continue;
            }
            self.because[at] = controllers.iter().copied().find(|&a| self.divergent[a] || self.varying_branches[a]);
            self.divergent[at] = self.because[at].is_some();
            changed |= self.divergent[at];
        }
        changed
    }

    /// Takes in what an instruction writes.
    fn step(&mut self, instruction: &Instruction, divergent: bool) -> bool {
        let mut changed = false;
        let guard = instruction.guard.as_ref().map(|(register, _)| self.is_uniform(register));
        if guard == Some(false) {
            changed |= self.varying_guards.insert(instruction.line);
        }
        let value = if divergent || guard == Some(false) { Value::Varying } else { self.result(instruction) };
        for register in instruction.writes() {
            match self.several.get(register) {
                // A guarded instruction may leave what was there.
                Some(&place) => self.here[place] = if guard.is_some() { join(self.here[place], value) } else { value },
                None => {
                    let before = self.single.insert(register.to_owned(), value);
                    changed |= before != Some(value);
                }
            }
        }
        changed
    }

    /// Whether all threads of the scope find the same value in the operand.
    fn is_uniform(&self, operand: &str) -> bool {
        matches!(self.read(operand), Value::Uniform(_) | Value::Part(Part::ExtentX | Part::ExtentY))
    }

    fn branch_is_uniform(&self, branch: &Instruction) -> bool {
        let guard = branch.guard.as_ref().is_none_or(|(register, _)| self.is_uniform(register));
        let index = branch.operation() != "brx" || branch.operands.first().is_none_or(|index| self.is_uniform(index));
        guard && index
    }

    /// The value of an operand. An address has the value of its register; a group, the least that is known of all.
    fn read(&self, operand: &str) -> Value {
        let word = operand.trim_matches(['[', ']']);
        let word = if operand.starts_with('[') { word.split('+').next().unwrap_or(word) } else { word };
        if let Some(group) = operand.strip_prefix('{').and_then(|o| o.strip_suffix('}')) {
            return group.split(',').map(|one| self.read(one.trim())).fold(ANY, |a, b| {
                if matches!((a, b), (Value::Uniform(_), Value::Uniform(_))) { join(a, b) } else { Value::Varying }
            });
        }
        match word {
            "%tid.x" if self.scope == Scope::Warp => Value::ThreadNumber,
            "%tid.y" if self.scope == Scope::Warp => Value::Part(Part::Y),
            "%tid.z" if self.scope == Scope::Warp => Value::Part(Part::Z),
            "%warpid" if self.scope == Scope::Warp => Value::Uniform(0),
            "%ntid.x" => Value::Part(Part::ExtentX),
            "%ntid.y" => Value::Part(Part::ExtentY),
            _ if ["%ctaid.", "%nctaid.", "%ntid."].iter().any(|prefix| word.starts_with(prefix)) => Value::Uniform(0),
            _ if word.starts_with('%') => {
                match self.several.get(word).map(|&place| &self.here[place]).or(self.single.get(word)) {
                    Some(value) => *value,
                    None if word[1..].contains('.') || !word.ends_with(|c: char| c.is_ascii_digit()) => Value::Varying,
                    None if ["%clock", "%pm", "%global"].iter().any(|prefix| word.starts_with(prefix)) => {
                        Value::Varying
                    }
                    None => ANY,
                }
            }
            _ => match immediate(word) {
                Some(number) => Value::Uniform(if number == 0 { u32::MAX } else { number.trailing_zeros() }),
                // A name: of a parameter, of a tile, of a table.
                None => Value::Uniform(0),
            },
        }
    }

    /// What an instruction writes.
    fn result(&self, instruction: &Instruction) -> Value {
        let sources = instruction.sources();
        let all_uniform = instruction.reads().iter().all(|register| self.is_uniform(register));
        let value = |i: usize| sources.get(i).map_or(Value::Varying, |operand| self.read(operand));
        match instruction.operation() {
            "atom" | "activemask" | "mma" | "ldmatrix" | "elect" => Value::Varying,
            "ld" if instruction.has("volatile") => Value::Varying,
            // What all lanes give in is what each gets; and reading one lane gives all the same.
            "shfl" if self.scope == Scope::Warp && (self.is_uniform(&sources[0]) || self.is_broadcast(instruction)) => {
                Value::Uniform(0)
            }
            "vote" | "redux" if self.scope == Scope::Warp => Value::Uniform(0),
            "shfl" | "vote" | "redux" | "match" => Value::Varying,
            "mov" | "cvta" if sources.len() == 1 => value(0),
            // Widening and narrowing of integers keep the low bits.
            "cvt" if instruction.parts().skip(1).all(|part| part.starts_with(['u', 's'])) => value(0),
            "setp" => self.comparison(instruction, value(0), value(1)).unwrap_or(whole(all_uniform)),
            _ if instruction.has("hi") => whole(all_uniform),
            operation => integer(operation, instruction, [value(0), value(1), value(2)]).unwrap_or(whole(all_uniform)),
        }
    }

    /// Whether every lane of the warp reads the same lane.
    fn is_broadcast(&self, shuffle: &Instruction) -> bool {
        let [_, lane, clamp, ..] = shuffle.sources() else { return false };
        shuffle.has("idx") && self.is_uniform(lane) && clamp == "31"
    }

    /// Comparisons of the thread's number that come out the same for all lanes: with a limit between two warps.
    fn comparison(&self, instruction: &Instruction, a: Value, b: Value) -> Option<Value> {
        let (Value::Uniform(zeros), 2) = (b, instruction.sources().len()) else { return None };
        let limit_after = instruction.sources().get(1).and_then(|b| immediate(b)).map(|b| b.wrapping_add(1));
        let below = ["lt", "ge", "lo", "hs"].iter().any(|c| instruction.has(c)) && zeros >= LANE_BITS;
        let up_to = ["gt", "le", "hi", "ls"].iter().any(|c| instruction.has(c))
            && limit_after.is_some_and(|limit| limit.trailing_zeros() >= LANE_BITS);
        (a == Value::ThreadNumber && (below || up_to)).then_some(Value::Uniform(0))
    }
}

fn written_more_than_once(entry: &Entry) -> BTreeMap<String, usize> {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for register in entry.blocks.iter().flat_map(|block| &block.instructions).flat_map(Instruction::writes) {
        *times.entry(register).or_default() += 1;
    }
    let several = times.into_iter().filter(|(_, times)| *times > 1);
    several.enumerate().map(|(place, (register, _))| (register.to_owned(), place)).collect()
}

fn whole(uniform: bool) -> Value {
    if uniform { Value::Uniform(0) } else { Value::Varying }
}

/// Integer arithmetic, as far as it tells more than whether all that is read is uniform.
fn integer(operation: &str, instruction: &Instruction, [a, b, c]: [Value; 3]) -> Option<Value> {
    use Value::{Part as P, ThreadNumber, Uniform};
    let is_integer = instruction.parts().last().is_some_and(|part| part.starts_with(['s', 'u', 'b']));
    if !is_integer {
        return None;
    }
    let constant = instruction.sources().get(1).and_then(|b| immediate(b));
    let plus = |a: Value, b: Value| match (a, b) {
        (Uniform(a), Uniform(b)) => Some(Uniform(a.min(b))),
        (ThreadNumber, Uniform(zeros)) | (Uniform(zeros), ThreadNumber) if zeros >= LANE_BITS => Some(ThreadNumber),
        _ => None,
    };
    let times = |a: Value, b: Value| match (a, b) {
        (Uniform(a), Uniform(b)) => Some(Uniform(a.saturating_add(b))),
        _ => None,
    };
    match operation {
        "mad" => match (a, b, c) {
            (P(Part::ExtentY), P(Part::Z), P(Part::Y)) | (P(Part::Z), P(Part::ExtentY), P(Part::Y)) => {
                Some(P(Part::Row))
            }
            (P(Part::ExtentX), P(Part::Row), ThreadNumber) | (P(Part::Row), P(Part::ExtentX), ThreadNumber) => {
                Some(ThreadNumber)
            }
            _ => times(a, b).and_then(|product| plus(product, c)),
        },
        "mul" => times(a, b),
        "add" => plus(a, b),
        // An addition whose operands have no bit in common may be written as `or`.
        "or" | "xor" => plus(a, b),
        "sub" => match (a, b) {
            (ThreadNumber, Uniform(zeros)) if zeros >= LANE_BITS => Some(ThreadNumber),
            (Uniform(a), Uniform(b)) => Some(Uniform(a.min(b))),
            _ => None,
        },
        "and" => match (a, b) {
            (Uniform(a), Uniform(b)) => Some(Uniform(a.max(b))),
            (ThreadNumber, Uniform(zeros)) | (Uniform(zeros), ThreadNumber) if zeros >= LANE_BITS => {
                Some(Uniform(zeros))
            }
            _ => None,
        },
        "shl" => match (a, constant) {
            (Uniform(zeros), Some(by)) => Some(Uniform(zeros.saturating_add(by as u32))),
            _ => None,
        },
        "shr" => match (a, constant) {
            (ThreadNumber, Some(by)) if by >= u64::from(LANE_BITS) => Some(Uniform(0)),
            (Uniform(zeros), Some(by)) => Some(Uniform(zeros.saturating_sub(by as u32))),
            _ => None,
        },
        "bfe" => match (a, constant) {
            (ThreadNumber, Some(first)) if first >= u64::from(LANE_BITS) => Some(Uniform(0)),
            _ => None,
        },
        _ => None,
    }
}

/// What is known where two definitions of a register meet.
fn join(a: Value, b: Value) -> Value {
    match (a, b) {
        (Value::Uniform(a), Value::Uniform(b)) => Value::Uniform(a.min(b)),
        (ANY, other) | (other, ANY) => other,
        _ if a == b => a,
        (
            Value::Uniform(_) | Value::Part(Part::ExtentX | Part::ExtentY),
            Value::Part(Part::ExtentX | Part::ExtentY),
        )
        | (Value::Part(Part::ExtentX | Part::ExtentY), Value::Uniform(_)) => Value::Uniform(0),
        _ => Value::Varying,
    }
}

/// An integer literal.
fn immediate(text: &str) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse::<u64>().ok()?,
    };
    Some(if negative { number.wrapping_neg() } else { number })
}
