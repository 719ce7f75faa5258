//! One warp: 32 lanes in lockstep, parting at branches and meeting at post-dominators.

use crate::block::{Fault, Shared};
use crate::instruction::{CARRY, Entry, Instruction, Op, Slot, Special};
use crate::op::{Lanes, Map};

/// Lanes that go the same way.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// Where they are.
    block: usize,
    /// Where they wait for the lanes below them on the stack; `None`: they do not.
    join: Option<usize>,
    lanes: u32,
}

/// Why a warp stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// All its threads have ended.
    Ended,
    /// All its threads are at a barrier, which is this instruction.
    Barrier { at: usize },
}

/// A warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) registers: Vec<Lanes>,
    /// The top runs; those below wait at its join.
    stack: Vec<Path>,
    /// The lanes that are threads.
    all: u32,
    /// Those that have not ended.
    live: u32,
    /// The number of lane 0 in the block.
    pub(crate) first_thread: u32,
}

/// Overwrites the lanes of `mask`.
#[inline]
pub(crate) fn put(register: &mut Lanes, lanes: &Lanes, mask: u32) {
    if mask == u32::MAX {
        *register = *lanes;
        return;
    }
    for (lane, (register, value)) in register.iter_mut().zip(lanes).enumerate() {
        *register = if mask >> lane & 1 == 1 { *value } else { *register };
    }
}

/// The lanes of a mask, in order.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

impl Warp {
    /// A warp whose lane 0 is thread `first_thread` and of which at most `threads` lanes are threads.
    pub(crate) fn new(entry: &Entry, first_thread: u32, threads: u32) -> Warp {
        let mut registers = vec![[0; 32]; entry.slots];
        for (slot, bits) in &entry.constants {
            registers[*slot as usize] = [*bits; 32];
        }
        let all = if threads >= 32 { u32::MAX } else { (1 << threads) - 1 };
        Warp { registers, stack: Vec::new(), all, live: 0, first_thread }
    }

    /// Puts all lanes to the entry's start.
    pub(crate) fn start(&mut self, entry: &Entry, special: impl Fn(Special, u32) -> u32) {
        for (slot, register) in &entry.specials {
            for lane in 0..32 {
                self.registers[*slot as usize][lane as usize] = special(*register, lane).into();
            }
        }
        self.live = self.all;
        self.stack = vec![Path { block: 0, join: None, lanes: self.all }];
    }

    /// Runs to the next barrier or to the end.
    pub(crate) fn run(&mut self, shared: &mut Shared<'_>) -> Result<Pause, Fault> {
        let entry = shared.entry;
        while let Some(path) = self.stack.last_mut() {
            path.lanes &= self.live;
            if path.lanes == 0 || path.join == Some(path.block) {
                self.stack.pop();
                continue;
            }
            let Path { block: at, lanes, .. } = *path;
            let block = &entry.blocks[at];
            let cost = (block.end - block.start) as u64;
            let Some(rest) = shared.budget.checked_sub(cost) else {
                return Err(self.fault(block.start, lanes, "more instructions than the limit: does a loop not end?"));
            };
            *shared.budget = rest;
            // Where an unguarded control transfer does not say otherwise, the next block follows.
            path.block = at + 1;
            for (at, instruction) in entry.code[block.start..block.end].iter().enumerate() {
                let at = block.start + at;
                let active = self.active(instruction, lanes);
                shared.executed[at] += u64::from(active.count_ones());
                if active != 0 {
                    match &instruction.op {
                        Op::Barrier if active == self.all => return Ok(Pause::Barrier { at }),
                        Op::Barrier => {
                            let what = format!("a barrier under divergence: only lanes {active:#010x} reach it");
                            return Err(self.fault(at, self.all & !active, &what));
                        }
                        Op::Branch { target } => self.part(&[(*target, active)], lanes, block.join, entry),
                        Op::Switch { index, targets } => {
                            let mut ways = Vec::new();
                            for lane in lanes_of(active) {
                                let index = self.registers[*index as usize][lane] as u32 as usize;
                                let Some(target) = targets.get(index) else {
                                    let what = format!("entry {index} of a jump table of {}", targets.len());
                                    return Err(self.fault(at, 1 << lane, &what));
                                };
                                match ways.iter_mut().find(|(known, _)| known == target) {
                                    Some((_, lanes)) => *lanes |= 1 << lane,
                                    None => ways.push((*target, 1 << lane)),
                                }
                            }
                            self.part(&ways, lanes, block.join, entry);
                        }
                        Op::Exit => self.live &= !active,
                        Op::Trap => return Err(self.fault(at, active, "the kernel stopped itself (`trap`)")),
                        _ => self.execute(instruction, active, shared).map_err(|(lane, what)| Fault {
                            at,
                            thread: self.first_thread + lane,
                            what,
                        })?,
                    }
                }
            }
        }
        Ok(Pause::Ended)
    }

    fn fault(&self, at: usize, lanes: u32, what: &str) -> Fault {
        Fault { at, thread: self.first_thread + lanes.trailing_zeros() % 32, what: what.into() }
    }

    /// The lanes of the path whose predicate holds.
    fn active(&self, instruction: &Instruction, lanes: u32) -> u32 {
        let Some((slot, negated)) = instruction.guard else { return lanes };
        let holds = self.holding(slot);
        lanes & if negated { !holds } else { holds }
    }

    /// The lanes in which a predicate holds.
    pub(crate) fn holding(&self, predicate: Slot) -> u32 {
        let register = &self.registers[predicate as usize];
        (0..32).fold(0, |mask, lane| mask | ((register[lane] & 1) as u32) << lane)
    }

    /// Sends lanes of the top path on their ways, the rest to the next block. Where they part, the path below them
    /// waits at `join` for all.
    fn part(&mut self, ways: &[(usize, u32)], lanes: u32, join: Option<usize>, entry: &Entry) {
        let Some(path) = self.stack.last_mut() else { return };
        if let [(target, taken)] = ways
            && *taken == lanes
        {
            path.block = *target;
            return;
        }
        let rest = lanes & !ways.iter().fold(0, |all, (_, taken)| all | taken);
        let next = (path.block, rest);
        match join {
            // The lanes below stand for all of these.
            _ if join == path.join => _ = self.stack.pop(),
            Some(block) => path.block = block,
            None => _ = self.stack.pop(),
        }
        // Lanes that end at once go first: they must not be missing at a barrier that the others reach.
        let ends = |block: usize| {
            let last = &entry.code[entry.blocks[block].end - 1];
            join.is_none() && last.guard.is_none() && matches!(last.op, Op::Exit)
        };
        let all = || ways.iter().copied().chain([next]).filter(|(block, lanes)| *lanes != 0 && Some(*block) != join);
        for (block, lanes) in all().filter(|(block, _)| !ends(*block)).chain(all().filter(|(block, _)| ends(*block))) {
            self.stack.push(Path { block, join, lanes });
        }
    }

    /// Runs an instruction that does not transfer control.
    fn execute(
        &mut self,
        instruction: &Instruction,
        active: u32,
        shared: &mut Shared<'_>,
    ) -> Result<(), (u32, String)> {
        match &instruction.op {
            Op::Map { map, dest, args, carry } => {
                let [a, b, c, d] = args.map(|slot| slot as usize);
                let file = &mut self.registers;
                let out = match map {
                    Map::One(f) => f(&file[a]),
                    Map::Two(f) => f(&file[a], &file[b]),
                    Map::Three(f) => f(&file[a], &file[b], &file[c]),
                    Map::Four(f) => f(&file[a], &file[b], &file[c], &file[d]),
                    Map::Carry(f) => {
                        let (out, flags) = f(&file[a], &file[b], &file[CARRY as usize]);
                        put(&mut file[*carry as usize], &flags, active);
                        out
                    }
                };
                put(&mut file[*dest as usize], &out, active);
                Ok(())
            }
            Op::Pack { dest, parts, bits } => {
                let mut out = [0; 32];
                for (i, part) in parts.iter().enumerate() {
                    for (out, value) in out.iter_mut().zip(&self.registers[*part as usize]) {
                        *out |= (value & low(*bits)) << (i as u32 * bits);
                    }
                }
                put(&mut self.registers[*dest as usize], &out, active);
                Ok(())
            }
            Op::Unpack { dests, source, bits } => {
                let whole = self.registers[*source as usize];
                for (i, dest) in dests.iter().enumerate() {
                    let part = whole.map(|value| value >> (i as u32 * bits) & low(*bits));
                    put(&mut self.registers[*dest as usize], &part, active);
                }
                Ok(())
            }
            Op::Load { dests, access, signed } => self.load(dests, access, *signed, active, shared),
            Op::Store { sources, access } => self.store(sources, access, active, shared),
            Op::Atomic { dest, access, change, args } => self.atomic(*dest, access, *change, *args, active, shared),
            _ => self.together(instruction, active),
        }
    }
}

/// A mask of the lowest bits.
fn low(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}
