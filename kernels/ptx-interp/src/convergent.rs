//! What lanes do together: shuffles, votes, matrix products.

use crate::instruction::{Instruction, Op, ProductKind, ShuffleMode, Slot, VoteMode};
use crate::warp::{Warp, lanes_of, put};
use selfsame_kernels::host::mma::{self, Fragment};

impl Warp {
    /// Runs an instruction that lanes execute together.
    pub(crate) fn together(&mut self, instruction: &Instruction, active: u32) -> Result<(), (u32, String)> {
        match instruction.op {
            Op::ActiveMask { dest } => put(&mut self.registers[dest as usize], &[active.into(); 32], active),
            Op::WarpSync { mask } => self.meet(mask, active)?,
            Op::Shuffle { mode, dest, valid, value, lane, clamp, mask } => {
                self.meet(mask, active)?;
                let (mut out, mut in_range) = ([0; 32], [0; 32]);
                for i in lanes_of(active) {
                    let at = |slot: Slot| self.registers[slot as usize][i] as u32;
                    let (source, there) = source_lane(mode, i as u32, at(lane), at(clamp));
                    if active >> source & 1 == 0 {
                        return Err((i as u32, format!("a shuffle from lane {source}, which takes no part")));
                    }
                    out[i] = u64::from(self.registers[value as usize][source as usize] as u32);
                    in_range[i] = u64::from(there);
                }
                put(&mut self.registers[dest as usize], &out, active);
                put(&mut self.registers[valid as usize], &in_range, active);
            }
            Op::Vote { mode, dest, predicate, mask } => {
                self.meet(mask, active)?;
                let holds = self.holding(predicate) & active;
                let out = match mode {
                    VoteMode::All => u32::from(holds == active),
                    VoteMode::Any => u32::from(holds != 0),
                    VoteMode::Uniform => u32::from(holds == active || holds == 0),
                    VoteMode::Ballot => holds,
                };
                put(&mut self.registers[dest as usize], &[out.into(); 32], active);
            }
            Op::Product { kind, d, a, b, c } => {
                if active != u32::MAX {
                    let what = format!("a matrix product of lanes {active:#010x}: all 32 must take part");
                    return Err((active.trailing_zeros(), what));
                }
                let at = |slot: Slot, lane: usize| self.registers[slot as usize][lane] as u32;
                let fragments: [Fragment; 32] = std::array::from_fn(|lane| Fragment {
                    a: a.map(|slot| at(slot, lane)),
                    b: b.map(|slot| at(slot, lane)),
                    c: c.map(|slot| f32::from_bits(at(slot, lane))),
                });
                let out = match kind {
                    ProductKind::Bf16 => mma::bf16_m16n8k16(&fragments),
                    ProductKind::Tf32 => mma::tf32_m16n8k8(&fragments),
                };
                for (i, slot) in d.into_iter().enumerate() {
                    self.registers[slot as usize] = std::array::from_fn(|lane| out[lane][i].to_bits().into());
                }
            }
            // Memory is in order.
            _ => {}
        }
        Ok(())
    }

    /// Checks that the lanes that are here are those that the mask names.
    fn meet(&self, mask: Slot, active: u32) -> Result<(), (u32, String)> {
        for lane in lanes_of(active) {
            let mask = self.registers[mask as usize][lane] as u32;
            if mask != active {
                let what = format!("lanes {active:#010x} at an operation of lanes {mask:#010x}");
                return Err((lane as u32, what));
            }
        }
        Ok(())
    }
}

/// The lane that `lane` reads, and whether it is in range; out of range it reads itself (PTX `shfl.sync`).
fn source_lane(mode: ShuffleMode, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
    let (by, clamp, segment) = (by & 31, clamp & 31, clamp >> 8 & 31);
    let most = lane & segment | clamp & !segment;
    let (source, there) = match mode {
        ShuffleMode::Up => {
            let source = lane as i32 - by as i32;
            (source as u32, source >= most as i32)
        }
        ShuffleMode::Down => (lane + by, lane + by <= most),
        ShuffleMode::Butterfly => (lane ^ by, lane ^ by <= most),
        ShuffleMode::Index => {
            let source = lane & segment | by & !segment;
            (source, source <= most)
        }
    };
    if there { (source, true) } else { (lane, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffle_sources() {
        use ShuffleMode::*;
        // Whole warp: clamp 31 (0 for up), no segments.
        assert_eq!(source_lane(Index, 5, 33, 31), (1, true));
        assert_eq!(source_lane(Butterfly, 5, 16, 31), (21, true));
        assert_eq!(source_lane(Down, 30, 1, 31), (31, true));
        assert_eq!(source_lane(Down, 30, 2, 31), (30, false));
        assert_eq!(source_lane(Up, 3, 3, 0), (0, true));
        assert_eq!(source_lane(Up, 3, 4, 0), (3, false));
        // Segments of 8 lanes: mask 0b11000.
        let segments = 0b11000 << 8;
        assert_eq!(source_lane(Down, 15, 1, segments | 31), (15, false));
        assert_eq!(source_lane(Index, 13, 2, segments | 31), (10, true));
        assert_eq!(source_lane(Up, 8, 1, segments), (8, false));
    }
}
