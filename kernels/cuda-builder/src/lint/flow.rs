//! The control-flow graph of a kernel: successors, post-dominators, and which branch decides whether a block runs.

use crate::ptx::{Entry, Instruction};
use crate::{Error, Result};

/// The graph. A block that can only trap is not part of it: a trap ends the whole launch with an error, so nobody is
/// left behind by a thread that traps.
pub(super) struct Flow {
    /// Per block, the blocks that can come next; the number of blocks stands for the end of the kernel.
    pub(super) next: Vec<Vec<usize>>,
    /// Per block, the blocks whose branch decides whether it is executed.
    pub(super) controllers: Vec<Vec<usize>>,
}

impl Flow {
    pub(super) fn new(entry: &Entry) -> Result<Flow> {
        let mut next = successors(entry)?;
        drop_traps(entry, &mut next);
        let controllers = control_dependence(&next);
        Ok(Flow { next, controllers })
    }
}

/// Per block, the blocks that its last instruction and its end lead to.
fn successors(entry: &Entry) -> Result<Vec<Vec<usize>>> {
    let end = entry.blocks.len();
    let find = |label: &str| {
        entry
            .blocks
            .iter()
            .position(|block| block.label.as_deref() == Some(label))
            .ok_or_else(|| Error::new(format!("kernel {}: a branch to {label}, which does not exist", entry.name)))
    };
    let block_successors = |(at, block): (usize, &crate::ptx::Block)| {
        let Some(last) = block.instructions.last().filter(|last| last.ends_block()) else {
            return Ok(vec![at + 1]);
        };
        let mut next = match last.operation() {
            "bra" => last.operands.iter().map(|label| find(label)).collect::<Result<Vec<usize>>>()?,
            "brx" => last.operands[1..].iter().map(|label| find(label)).collect::<Result<Vec<usize>>>()?,
            "ret" | "exit" => vec![end],
            _ => vec![],
        };
        if last.guard.is_some() {
            next.push(at + 1);
        }
        next.sort_unstable();
        next.dedup();
        Ok(next)
    };
    entry.blocks.iter().enumerate().map(block_successors).collect()
}

/// Takes out the ways that lead to nothing but a trap.
fn drop_traps(entry: &Entry, next: &mut [Vec<usize>]) {
    let traps = |last: &Instruction| last.operation() == "trap" && last.guard.is_none();
    let mut trapped: Vec<bool> =
        entry.blocks.iter().map(|block| block.instructions.last().is_some_and(traps)).collect();
    loop {
        let mut changed = false;
        for at in 0..next.len() {
            let all = !next[at].is_empty() && next[at].iter().all(|&to| trapped.get(to) == Some(&true));
            changed |= all && !trapped[at];
            trapped[at] |= all;
        }
        if !changed {
            break;
        }
    }
    for (at, list) in next.iter_mut().enumerate() {
        list.retain(|&to| !trapped[at] && trapped.get(to) != Some(&true));
    }
}

/// Block B depends on the branch at the end of A when B lies on every way from one successor of A to the end, but not
/// on every way from A itself (Ferrante, Ottenstein and Warren 1987).
fn control_dependence(next: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let after = post_dominators(next);
    let mut controllers = vec![Vec::new(); next.len()];
    for (a, successors) in next.iter().enumerate().filter(|(_, successors)| successors.len() > 1) {
        for (b, list) in controllers.iter_mut().enumerate() {
            let from_successor = successors.iter().any(|&s| s < next.len() && after[s][b]);
            let from_a = a != b && after[a][b];
            if from_successor && !from_a {
                list.push(a);
            }
        }
    }
    controllers
}

/// `result[a][b]`: every way from a to the end passes through b. A block from which no way leads to the end (an endless
/// loop, a trap) has all blocks after it.
fn post_dominators(next: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let count = next.len();
    let mut after = vec![vec![true; count]; count];
    loop {
        let mut changed = false;
        for a in (0..count).rev() {
            if next[a].is_empty() {
                continue;
            }
            let on_all_ways = |b: usize| a == b || next[a].iter().all(|&s| s < count && after[s][b]);
            let row: Vec<bool> = (0..count).map(on_all_ways).collect();
            changed |= after[a] != row;
            after[a] = row;
        }
        if !changed {
            return after;
        }
    }
}
