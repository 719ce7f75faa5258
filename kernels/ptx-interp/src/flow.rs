//! Control flow: basic blocks, and where lanes that part meet again.

use crate::instruction::{Block, Instruction, Op};

/// Cuts `code` into blocks and turns its branch targets from statements into blocks. Every target is a statement, and
/// the last instruction does not fall through.
pub(crate) fn blocks(code: &mut [Instruction]) -> Vec<Block> {
    let mut starts = vec![0];
    for (at, instruction) in code.iter().enumerate() {
        match &instruction.op {
            Op::Branch { target } => starts.push(*target),
            Op::Switch { targets, .. } => starts.extend(targets),
            _ => {}
        }
        if instruction.op.ends_block() && at + 1 < code.len() {
            starts.push(at + 1);
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let block_of = |statement: usize| starts.partition_point(|start| *start <= statement) - 1;
    for instruction in code.iter_mut() {
        match &mut instruction.op {
            Op::Branch { target } => *target = block_of(*target),
            Op::Switch { targets, .. } => targets.iter_mut().for_each(|target| *target = block_of(*target)),
            _ => {}
        }
    }
    let ends = starts.iter().skip(1).copied().chain([code.len()]);
    let mut blocks: Vec<Block> =
        starts.iter().zip(ends).map(|(&start, end)| Block { start, end, join: None }).collect();
    let successors: Vec<Vec<usize>> =
        blocks.iter().enumerate().map(|(i, block)| successors(i, &code[block.end - 1])).collect();
    let ends: Vec<bool> = blocks.iter().map(|block| matches!(code[block.end - 1].op, Op::Exit)).collect();
    for (block, join) in blocks.iter_mut().zip(post_dominators(&successors, &ends)) {
        block.join = join;
    }
    blocks
}

/// The blocks that may follow block `at`, which ends with `last`.
fn successors(at: usize, last: &Instruction) -> Vec<usize> {
    let mut next = match &last.op {
        Op::Branch { target } => vec![*target],
        Op::Switch { targets, .. } => targets.clone(),
        Op::Exit | Op::Trap => vec![],
        _ => return vec![at + 1],
    };
    if last.guard.is_some() {
        next.push(at + 1);
    }
    next
}

/// The immediate post-dominator of each block; `None` where that is the end of the thread. In the blocks of `ends` a
/// thread may end.
///
/// Dominators of the reversed graph from a virtual end (Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm,
/// 2001). A block that cannot reach the end has none, and ways through it do not count: a trap ends the launch, so no
/// lane waits for those that go there.
fn post_dominators(successors: &[Vec<usize>], ends: &[bool]) -> Vec<Option<usize>> {
    let end = successors.len();
    let mut predecessors = vec![Vec::new(); end + 1];
    for (from, next) in successors.iter().enumerate() {
        if ends[from] {
            predecessors[end].push(from);
        }
        next.iter().for_each(|&to| predecessors[to].push(from));
    }
    // Depth-first from the end against the edges, in post-order.
    let mut order = Vec::new();
    let mut number = vec![usize::MAX; end + 1];
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((node, visited)) = stack.pop() {
        if let Some(&previous) = predecessors[node].get(visited) {
            stack.push((node, visited + 1));
            if !seen[previous] {
                seen[previous] = true;
                stack.push((previous, 0));
            }
        } else {
            number[node] = order.len();
            order.push(node);
        }
    }
    let mut immediate = vec![usize::MAX; end + 1];
    immediate[end] = end;
    let meet = |immediate: &[usize], mut a: usize, mut b: usize| {
        while a != b {
            while number[a] < number[b] {
                a = immediate[a];
            }
            while number[b] < number[a] {
                b = immediate[b];
            }
        }
        a
    };
    let mut changed = true;
    while changed {
        changed = false;
        for &node in order.iter().rev().skip(1) {
            let exits = ends[node].then_some(end);
            let known = successors[node].iter().copied().chain(exits).filter(|&next| immediate[next] != usize::MAX);
            let Some(joined) = known.reduce(|a, b| meet(&immediate, a, b)) else { continue };
            changed |= immediate[node] != joined;
            immediate[node] = joined;
        }
    }
    (0..end).map(|node| (immediate[node] < end).then_some(immediate[node])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As [`post_dominators`]; threads end in the blocks without successors.
    fn joins(successors: &[Vec<usize>]) -> Vec<Option<usize>> {
        let ends: Vec<bool> = successors.iter().map(Vec::is_empty).collect();
        post_dominators(successors, &ends)
    }

    #[test]
    fn ways_meet_where_all_pass() {
        // 0: if -> 1, 2; 1 -> 3; 2: loop head -> 2, 3; 3: early end -> 4, 5; 4 ends; 5 ends.
        let found = joins(&[vec![1, 2], vec![3], vec![2, 3], vec![4, 5], vec![], vec![]]);
        assert_eq!(found, [Some(3), Some(3), Some(3), None, None, None]);
    }

    #[test]
    fn a_loop_with_a_break() {
        // 0 -> 1; 1: break -> 3, 2; 2 -> 1; 3: -> 4; 4 ends.
        let found = joins(&[vec![1], vec![3, 2], vec![1], vec![4], vec![]]);
        assert_eq!(found, [Some(1), Some(3), Some(1), Some(4), None]);
    }

    #[test]
    fn a_loop_without_an_end() {
        assert_eq!(joins(&[vec![1, 2], vec![1], vec![]]), [Some(2), None, None]);
    }

    #[test]
    fn ways_into_a_trap_do_not_count() {
        // 0: if -> 1, 3; 1: check -> 2, 3; 2 traps; 3 ends.
        let successors = [vec![1, 3], vec![2, 3], vec![], vec![]];
        assert_eq!(post_dominators(&successors, &[false, false, false, true]), [Some(3), Some(3), None, None]);
    }
}
