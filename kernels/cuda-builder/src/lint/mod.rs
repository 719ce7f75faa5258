//! Static checks over the PTX of every kernel: what the compiler made of the source is still what the source means.
//!
//! **Convergence.** Threads meet at barriers, shuffles, votes and `mma`. For each such instruction it is proved that
//! whether it is executed never depends on a value that differs between the threads that meet: those of the block at a
//! barrier, those of the warp elsewhere, whose mask must name all lanes. So all of them execute the same instructions
//! in the same order, however often the compiler has copied one (unrolling) and wherever it has put it; a barrier or
//! shuffle that was duplicated into or moved under a divergent branch is refused. The proof is one over all inputs:
//! control dependence by post-dominators, and a data flow that finds the values that may differ. Both err on the side
//! of refusing. What it takes as given stands in the module `uniform`. That no barrier was *lost* is shown by
//! [`crate::sites`].
//!
//! **Order.** No atomic on floating-point numbers, and no atomic whose result depends on the order (exchange, compare
//! and swap).
//!
//! **Exactness.** No approximate or flushing instruction; no addition or multiplication without a rounding mode, which
//! `ptxas` would be free to contract into a fused one.
//!
//! **Cost.** No local memory, no calls. Accesses without a state space are counted and reported, as are traps.

mod flow;
mod uniform;

use crate::Result;
use crate::ptx::{Entry, Instruction, parse};
use flow::Flow;
pub use uniform::Scope;
use uniform::Uniformity;

/// Approximate instructions that kernels on tensor cores may use: their results are held to a bound, not to bits.
const APPROXIMATE_BESIDE_MMA: &[&str] = &["ex2.approx.ftz.f32"];

/// Atomics whose result does not depend on the order in which threads arrive.
const ORDERLESS_ATOMICS: &[&str] = &["add", "min", "max", "and", "or", "xor"];

const FLOAT_TYPES: &[&str] = &["f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64"];

const STATE_SPACES: &[&str] = &["global", "shared", "param", "const", "local", "shared::cta", "shared::cluster"];

/// Something that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kernel.
    pub kernel: String,
    /// The line of the PTX, from 1.
    pub line: usize,
    /// Which rule.
    pub rule: Rule,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (line {}): {}", self.kernel, self.line, self.message)
    }
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Threads that meet all arrive.
    Convergence,
    /// No result depends on the order in which threads arrive.
    Order,
    /// Every operation is the one that was written, to the bit.
    Exactness,
    /// No local memory.
    Local,
    /// No calls.
    Call,
}

/// What a kernel contains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Its name.
    pub kernel: String,
    /// Instructions.
    pub instructions: usize,
    /// Barriers of the block.
    pub barriers: usize,
    /// Shuffles, votes, barriers of the warp.
    pub warp_operations: usize,
    /// Tensor-core products.
    pub mma: usize,
    /// Integer atomics.
    pub atomics: usize,
    /// Memory accesses without a state space.
    pub generic: usize,
    /// Traps: checks of the language that the compiler could not remove.
    pub traps: usize,
}

/// Checks every kernel of a PTX text.
///
/// # Errors
/// When the text is not understood.
pub fn check(ptx: &str) -> Result<(Vec<Census>, Vec<Finding>)> {
    let mut findings = Vec::new();
    let mut censuses = Vec::new();
    for entry in parse(ptx)? {
        censuses.push(census(&entry));
        local_memory(&entry, &mut findings);
        let beside_mma = instructions(&entry).any(|i| i.operation() == "mma");
        for instruction in instructions(&entry) {
            if let Some((rule, message)) = instruction_rules(instruction, beside_mma) {
                findings.push(Finding { kernel: entry.name.clone(), line: instruction.line, rule, message });
            }
        }
        convergence(&entry, &mut findings)?;
    }
    Ok((censuses, findings))
}

fn instructions(entry: &Entry) -> impl Iterator<Item = &Instruction> {
    entry.blocks.iter().flat_map(|block| &block.instructions)
}

/// Whether it is a barrier of the block.
fn is_block_barrier(instruction: &Instruction) -> bool {
    matches!(instruction.operation(), "bar" | "barrier") && !instruction.has("warp")
}

fn census(entry: &Entry) -> Census {
    let count = |pick: &dyn Fn(&Instruction) -> bool| instructions(entry).filter(|i| pick(i)).count();
    let is_mma = |i: &Instruction| i.operation() == "mma";
    Census {
        kernel: entry.name.clone(),
        instructions: count(&|_| true),
        barriers: count(&is_block_barrier),
        warp_operations: count(&|i| i.is_convergent() && !is_block_barrier(i) && !is_mma(i)),
        mma: count(&is_mma),
        atomics: count(&|i| matches!(i.operation(), "atom" | "red")),
        generic: count(&|i| {
            matches!(i.operation(), "ld" | "st" | "atom" | "red") && !STATE_SPACES.iter().any(|space| i.has(space))
        }),
        traps: count(&|i| i.operation() == "trap"),
    }
}

fn local_memory(entry: &Entry, findings: &mut Vec<Finding>) {
    for directive in entry.directives.iter().filter(|d| d.starts_with(".local")) {
        findings.push(Finding {
            kernel: entry.name.clone(),
            line: 0,
            rule: Rule::Local,
            message: format!("local memory: `{directive}`; an array is indexed by a value known only at run time"),
        });
    }
}

/// The rules that look at one instruction alone.
fn instruction_rules(instruction: &Instruction, beside_mma: bool) -> Option<(Rule, String)> {
    let opcode = instruction.opcode.as_str();
    let operation = instruction.operation();
    let is_float = FLOAT_TYPES.iter().any(|float| instruction.has(float));
    let is_rounded = ["rn", "rz", "rm", "rp", "rna"].iter().any(|mode| instruction.has(mode));
    match operation {
        "call" => return Some((Rule::Call, format!("`{opcode}`: device code must be inlined"))),
        "ld" | "st" if instruction.has("local") => return Some((Rule::Local, format!("`{opcode}`: local memory"))),
        "atom" | "red" if is_float => {
            return Some((Rule::Order, format!("`{opcode}`: the order of floating-point atomics is not defined")));
        }
        "atom" | "red" if !ORDERLESS_ATOMICS.iter().any(|atomic| instruction.has(atomic)) => {
            return Some((Rule::Order, format!("`{opcode}`: its result depends on the order of arrival")));
        }
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rcp" | "sqrt"
            if is_float && !is_rounded && !instruction.has("approx") =>
        {
            return Some((Rule::Exactness, format!("`{opcode}` names no rounding mode")));
        }
        _ => {}
    }
    let approximate = ["approx", "ftz", "full"].iter().any(|modifier| instruction.has(modifier));
    if approximate && !(beside_mma && APPROXIMATE_BESIDE_MMA.contains(&opcode)) {
        return Some((Rule::Exactness, format!("`{opcode}` is approximate")));
    }
    None
}

/// Proves that at each convergent instruction all threads arrive that it waits for.
fn convergence(entry: &Entry, findings: &mut Vec<Finding>) -> Result<()> {
    if !instructions(entry).any(Instruction::is_convergent) {
        return Ok(());
    }
    let flow = Flow::new(entry)?;
    let [block_scope, warp_scope] = [Scope::Block, Scope::Warp].map(|scope| Uniformity::new(entry, &flow, scope));
    for (at, block) in entry.blocks.iter().enumerate() {
        for instruction in block.instructions.iter().filter(|i| i.is_convergent()) {
            let (uniformity, who) = match is_block_barrier(instruction) {
                true => (&block_scope, "the block"),
                false => (&warp_scope, "the warp"),
            };
            let opcode = &instruction.opcode;
            let guarded = instruction.guard.as_ref().filter(|_| uniformity.varying_guards.contains(&instruction.line));
            let message = if let Some(reason) = wrong_participants(instruction) {
                format!("`{opcode}` {reason}")
            } else if let Some((register, _)) = guarded {
                format!("`{opcode}` is guarded by {register}, which may differ between the threads of {who}")
            } else if uniformity.divergent[at] {
                let branch = uniformity.because[at]
                    .and_then(|a| entry.blocks[a].instructions.last())
                    .map_or(0, |branch| branch.line);
                format!(
                    "`{opcode}` depends on the branch in line {branch}, which threads of {who} may take differently"
                )
            } else {
                continue;
            };
            findings.push(Finding {
                kernel: entry.name.clone(),
                line: instruction.line,
                rule: Rule::Convergence,
                message,
            });
        }
    }
    Ok(())
}

/// What is wrong with the threads that an instruction names.
fn wrong_participants(instruction: &Instruction) -> Option<&'static str> {
    let first = instruction.operands.first().map_or("", String::as_str);
    let last = instruction.operands.last().map_or("", String::as_str);
    let all_lanes = |mask: &str| matches!(mask, "-1" | "0xffffffff" | "4294967295");
    match instruction.operation() {
        "bar" | "barrier" if instruction.has("warp") => (!all_lanes(first)).then_some("does not name all lanes"),
        "bar" | "barrier" => (instruction.operands.len() != 1).then_some("does not wait for the whole block"),
        "shfl" | "vote" | "match" | "redux" => (!all_lanes(last)).then_some("does not name all lanes"),
        "activemask" | "elect" => Some("depends on which lanes happen to be there"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
