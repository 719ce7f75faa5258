//! Opcodes that do more than compute values: memory, control and convergent operations.

use crate::error::PtxError;
use crate::instruction::{Op, ProductKind, SINK, ShuffleMode, Slot, VoteMode};
use crate::parse::type_bytes;
use crate::resolve::{Resolver, operand_count};
use crate::syntax::{Operand, Space, Statement};

/// The instruction, if it is one of these.
pub(crate) fn effect(resolver: &mut Resolver<'_>, statement: &Statement) -> Result<Option<Op>, PtxError> {
    let Statement { opcode, operands, line, .. } = statement;
    let line = *line;
    let parts: Vec<&str> = opcode.split('.').collect();
    let exactly = |count: usize| if operands.len() == count { Ok(()) } else { Err(operand_count(statement, count)) };
    Ok(Some(match opcode.as_str() {
        "bra" | "bra.uni" => {
            exactly(1)?;
            Op::Branch { target: resolver.label(&operands[0], line)? }
        }
        "brx.idx" | "brx.idx.uni" => {
            exactly(2)?;
            let targets = resolver.table(&operands[1], line)?;
            Op::Switch { index: resolver.value(&operands[0], line)?, targets }
        }
        "ret" | "ret.uni" | "exit" => Op::Exit,
        "trap" => Op::Trap,
        "bar.sync" | "barrier.sync" | "barrier.sync.aligned" | "barrier.cta.sync.aligned.all" => {
            exactly(1)?;
            if operands[0] != Operand::Immediate(0) {
                return Err(PtxError::new(line, format!("the barrier {:?}", operands[0]), "only barrier 0 is known"));
            }
            Op::Barrier
        }
        "bar.warp.sync" => {
            exactly(1)?;
            Op::WarpSync { mask: resolver.value(&operands[0], line)? }
        }
        "membar.cta" | "membar.gl" | "membar.sys" | "fence.sc.cta" | "fence.sc.gpu" | "fence.sc.sys"
        | "fence.acq_rel.cta" | "fence.acq_rel.gpu" | "fence.acq_rel.sys" => {
            exactly(0)?;
            Op::Fence
        }
        "activemask.b32" => {
            exactly(1)?;
            Op::ActiveMask { dest: resolver.dest(&operands[0], line)? }
        }
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" => product(resolver, statement, ProductKind::Bf16)?,
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => product(resolver, statement, ProductKind::Tf32)?,
        _ => match parts[..] {
            ["ld", ref how @ .., element] => {
                exactly(2)?;
                let Some((space, count)) = memory(how) else { return Ok(None) };
                let Some(bytes) = type_bytes(element) else { return Ok(None) };
                let dests = resolver.dests(&operands[0], line)?;
                vector_length(statement, dests.len(), count)?;
                let access = resolver.access(&operands[1], space, bytes as usize, line)?;
                Op::Load { dests, access, signed: element.starts_with('s') }
            }
            ["st", ref how @ .., element] => {
                exactly(2)?;
                let Some((space, count)) = memory(how) else { return Ok(None) };
                let Some(bytes) = type_bytes(element) else { return Ok(None) };
                let sources = resolver.values(&operands[1], line)?;
                vector_length(statement, sources.len(), count)?;
                Op::Store { sources, access: resolver.access(&operands[0], space, bytes as usize, line)? }
            }
            ["atom", ref how @ .., change, element] => {
                let Some(change) = atomic(change, element) else { return Ok(None) };
                let (dest, operands) = operands.split_first().ok_or_else(|| operand_count(statement, 3))?;
                let dest = resolver.dest(dest, line)?;
                let Some((space, 1)) = memory(how) else { return Ok(None) };
                atomic_op(resolver, statement, (space, element), dest, operands, change)?
            }
            ["red", ref how @ .., change, element] => {
                let Some(change) = atomic(change, element) else { return Ok(None) };
                let Some((space, 1)) = memory(how) else { return Ok(None) };
                atomic_op(resolver, statement, (space, element), SINK, operands, change)?
            }
            ["shfl", "sync", mode, "b32"] => {
                exactly(5)?;
                let mode = match mode {
                    "idx" => ShuffleMode::Index,
                    "bfly" => ShuffleMode::Butterfly,
                    "up" => ShuffleMode::Up,
                    "down" => ShuffleMode::Down,
                    _ => return Ok(None),
                };
                let (dest, valid) = match &operands[0] {
                    Operand::Pair(dest, valid) => (resolver.dest(dest, line)?, resolver.dest(valid, line)?),
                    dest => (resolver.dest(dest, line)?, SINK),
                };
                let mut value = |i: usize| resolver.value(&operands[i], line);
                Op::Shuffle { mode, dest, valid, value: value(1)?, lane: value(2)?, clamp: value(3)?, mask: value(4)? }
            }
            ["vote", "sync", mode, "pred" | "b32"] => {
                exactly(3)?;
                let mode = match mode {
                    "all" => VoteMode::All,
                    "any" => VoteMode::Any,
                    "uni" => VoteMode::Uniform,
                    "ballot" => VoteMode::Ballot,
                    _ => return Ok(None),
                };
                let dest = resolver.dest(&operands[0], line)?;
                let (predicate, mask) = (resolver.value(&operands[1], line)?, resolver.value(&operands[2], line)?);
                Op::Vote { mode, dest, predicate, mask }
            }
            _ => return Ok(None),
        },
    }))
}

/// The space and vector length that the middle of a memory opcode names; the rest says how to cache and order, which
/// makes no difference here.
fn memory(how: &[&str]) -> Option<(Space, usize)> {
    let (mut space, mut count) = (Space::Generic, 1);
    for part in how {
        match *part {
            "v2" => count = 2,
            "v4" => count = 4,
            "volatile" | "weak" | "relaxed" | "acquire" | "release" | "acq_rel" | "cta" | "gpu" | "sys" | "nc"
            | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => {}
            other => space = Space::named(other)?,
        }
    }
    Some((space, count))
}

fn vector_length(statement: &Statement, got: usize, expected: usize) -> Result<(), PtxError> {
    if got == expected {
        return Ok(());
    }
    let got = format!("`{}` with {got} elements", statement.opcode);
    Err(PtxError::new(statement.line, got, format!("expected {expected}")))
}

/// What an atomic puts in the place of `old`. Floating-point ones are not known, by design.
fn atomic(change: &str, element: &str) -> Option<fn(u64, u64, u64) -> u64> {
    Some(match (change, element) {
        ("add", "u32" | "s32" | "u64") => |old, b, _| old.wrapping_add(b),
        ("min", "u32") => |old, b, _| (old as u32).min(b as u32).into(),
        ("max", "u32") => |old, b, _| (old as u32).max(b as u32).into(),
        ("min", "s32") => |old, b, _| (old as i32).min(b as i32) as u64,
        ("max", "s32") => |old, b, _| (old as i32).max(b as i32) as u64,
        ("min", "u64") => |old, b, _| old.min(b),
        ("max", "u64") => |old, b, _| old.max(b),
        ("min", "s64") => |old, b, _| (old as i64).min(b as i64) as u64,
        ("max", "s64") => |old, b, _| (old as i64).max(b as i64) as u64,
        ("and", "b32" | "b64") => |old, b, _| old & b,
        ("or", "b32" | "b64") => |old, b, _| old | b,
        ("xor", "b32" | "b64") => |old, b, _| old ^ b,
        ("exch", "b32" | "b64") => |_, b, _| b,
        ("cas", "b32") => |old, b, c| if old as u32 == b as u32 { c } else { old },
        ("cas", "b64") => |old, b, c| if old == b { c } else { old },
        ("inc", "u32") => |old, b, _| if old as u32 >= b as u32 { 0 } else { old + 1 },
        ("dec", "u32") => |old, b, _| if old == 0 || old as u32 > b as u32 { b } else { old - 1 },
        _ => return None,
    })
}

fn atomic_op(
    resolver: &mut Resolver<'_>,
    statement: &Statement,
    (space, element): (Space, &str),
    dest: Slot,
    operands: &[Operand],
    change: fn(u64, u64, u64) -> u64,
) -> Result<Op, PtxError> {
    let line = statement.line;
    let bytes = type_bytes(element).unwrap_or(4) as usize;
    let args = match operands {
        [_, b] => [resolver.value(b, line)?, SINK],
        [_, b, c] => [resolver.value(b, line)?, resolver.value(c, line)?],
        _ => return Err(operand_count(statement, 3)),
    };
    Ok(Op::Atomic { dest, access: resolver.access(&operands[0], space, bytes, line)?, change, args })
}

fn product(resolver: &mut Resolver<'_>, statement: &Statement, kind: ProductKind) -> Result<Op, PtxError> {
    let line = statement.line;
    let [d, a, b, c] = &statement.operands[..] else { return Err(operand_count(statement, 4)) };
    let (d, a) = (resolver.dests(d, line)?, resolver.values(a, line)?);
    let (b, c) = (resolver.values(b, line)?, resolver.values(c, line)?);
    let wrong = |_| {
        let got = format!("`{}` with fragments of other sizes", statement.opcode);
        PtxError::new(line, got, "expected 4, 4, 2 and 4 registers")
    };
    Ok(Op::Product {
        kind,
        d: d.try_into().map_err(wrong)?,
        a: a.try_into().map_err(wrong)?,
        b: b.try_into().map_err(wrong)?,
        c: c.try_into().map_err(wrong)?,
    })
}
