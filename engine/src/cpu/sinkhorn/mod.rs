//! Sinkhorn on the CPU: one pass over memory per iteration.
//!
//! A task is a node of the column tree, up to [`NODE_LEAVES`] leaves of 16 rows. Leaf by leaf it does the row half and,
//! while the rows are still in the cache, what the next column half needs of them. Nodes are merged on the calling
//! thread, after those of other ranks have been gathered.

mod log;
mod scaling;

pub(crate) use log::Log;
pub(crate) use scaling::Scaling;

use crate::ops::Float;
use crate::ops::sinkhorn::Problem;
use crate::order::LEAF;
use crate::{Comm, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::order::split;
use selfsame_kernels::stamp;

use super::CpuDevice;

/// Leaves of a node where ranks allow: 64 rows are tasks enough for many threads, and partial results that are small
/// beside the scores.
pub(crate) const NODE_LEAVES: usize = 4;

/// Rows that go through the row half together: four chains hide each other's latency.
const GROUP: usize = 4;

/// The smallest and the largest of scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extrema<T> {
    pub(crate) smallest: T,
    pub(crate) largest: T,
    /// Whether every score is finite; the extrema are those of the others else.
    pub(crate) finite: bool,
}

/// The extrema of `scores`, which are not empty.
pub(crate) fn extrema<T: Float>(cpu: &CpuDevice, scores: &[T]) -> Extrema<T> {
    const TASK: usize = 1 << 17;
    let nothing = Extrema { smallest: T::INFINITY, largest: T::NEG_INFINITY, finite: true };
    let mut parts = vec![nothing; scores.len().div_ceil(TASK)];
    cpu.workers().run_chunks(&mut parts, 1, |task, part| {
        part[0] = extrema_of(cpu.isa(), &scores[task * TASK..scores.len().min((task + 1) * TASK)]);
    });
    parts.into_iter().fold(nothing, |a, b| Extrema {
        smallest: Real::min(a.smallest, b.smallest),
        largest: Real::max(a.largest, b.largest),
        finite: a.finite && b.finite,
    })
}

stamp! {
    fn extrema_of<T: Real>(x: &[T]) -> Extrema<T> {
        // Comparisons with NaN are false, so plain selects skip it; it counts as not finite.
        const WIDTH: usize = 64;
        let (mut low, mut high, mut bad) = ([T::INFINITY; WIDTH], [T::NEG_INFINITY; WIDTH], [T::ZERO; WIDTH]);
        let blocks = x.chunks_exact(WIDTH);
        let rest = blocks.remainder();
        for block in blocks {
            for i in 0..WIDTH {
                low[i] = if block[i] < low[i] { block[i] } else { low[i] };
                high[i] = if block[i] > high[i] { block[i] } else { high[i] };
                bad[i] = if block[i].abs() <= T::MAX { bad[i] } else { T::ONE };
            }
        }
        for (i, &x) in rest.iter().enumerate() {
            low[i] = if x < low[i] { x } else { low[i] };
            high[i] = if x > high[i] { x } else { high[i] };
            bad[i] = if x.abs() <= T::MAX { bad[i] } else { T::ONE };
        }
        let (mut smallest, mut largest, mut finite) = (low[0], high[0], true);
        for i in 0..WIDTH {
            smallest = Real::min(smallest, low[i]);
            largest = Real::max(largest, high[i]);
            finite &= bad[i] == T::ZERO;
        }
        Extrema { smallest, largest, finite }
    }

    /// columns += the sum of x u over `rows` of x, a chain of fused multiply-adds per column: `u` has one factor per
    /// row.
    fn add_rows<T: Real>(x: &[T], u: &[T], columns: &mut [T]) {
        let k = columns.len();
        let grouped = u.len() - u.len() % GROUP;
        for first in (0..grouped).step_by(GROUP) {
            let factors: [T; GROUP] = [u[first], u[first + 1], u[first + 2], u[first + 3]];
            add_group(row_group::<T>(x, first, k), factors, columns);
        }
        for row in grouped..u.len() {
            add_group([&x[row * k..(row + 1) * k]], [u[row]], columns);
        }
    }

    /// a += b.
    fn add<T: Real>(a: &mut [T], b: &[T]) {
        for (a, &b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

/// `GROUP` rows of `x` from row `first` on.
#[inline(always)]
fn row_group<T>(x: &[T], first: usize, k: usize) -> [&[T]; GROUP] {
    let row = |r: usize| &x[(first + r) * k..(first + r + 1) * k];
    [row(0), row(1), row(2), row(3)]
}

/// columns += the sum of x u over a few rows, in their order.
#[inline(always)]
fn add_group<T: Real, const R: usize>(x: [&[T]; R], u: [T; R], columns: &mut [T]) {
    let k = columns.len();
    let x = x.map(|row| &row[..k]);
    for j in 0..k {
        let mut sum = columns[j];
        for r in 0..R {
            sum = Real::mul_add(x[r][j], u[r], sum);
        }
        columns[j] = sum;
    }
}

/// Fills `node` with the tree over `leaves` leaves: `leaf(i, out)` computes one, `join(a, b)` lets a take b, its right
/// neighbour.
fn fold_leaves<T: Float>(
    leaves: usize,
    node: &mut [T],
    mut leaf: impl FnMut(usize, &mut [T]),
    join: impl Fn(&mut [T], &[T]),
) {
    fn fold<T: Float>(
        (first, leaves): (usize, usize),
        node: &mut [T],
        spare: &mut [T],
        leaf: &mut impl FnMut(usize, &mut [T]),
        join: &impl Fn(&mut [T], &[T]),
    ) {
        if leaves == 1 {
            return leaf(first, node);
        }
        let left = split(leaves);
        fold((first, left), node, spare, leaf, join);
        let (right, spare) = spare.split_at_mut(node.len());
        fold((first + left, leaves - left), right, spare, leaf, join);
        join(node, right);
    }
    let depth = leaves.next_power_of_two().ilog2() as usize;
    let mut spare = vec![T::ZERO; depth * node.len()];
    fold((0, leaves), node, &mut spare, &mut leaf, &join);
}

/// The tree over all ranks' nodes of `width` elements each: what `join` makes of them.
fn gather_nodes<T: Float>(comm: &Comm, nodes: Vec<T>, width: usize, join: impl Fn(&mut [T], &[T])) -> Result<Vec<T>> {
    let mut nodes = if comm.size() == 1 { nodes } else { comm.exchange(nodes)?.concat() };
    let count = nodes.len() / width;
    let mut stride = 1;
    while stride < count {
        for to in (0..count - stride).step_by(2 * stride) {
            let (left, right) = nodes.split_at_mut((to + stride) * width);
            join(&mut left[to * width..(to + 1) * width], &right[..width]);
        }
        stride *= 2;
    }
    nodes.truncate(width);
    Ok(nodes)
}

/// What the passes of both domains are cut into.
struct Cut {
    n: usize,
    /// Rows of a node; the last may have fewer.
    node_rows: usize,
}

impl Cut {
    fn of<T: Float>(problem: &Problem<T>) -> Cut {
        Cut { n: problem.n, node_rows: problem.node_leaves * LEAF }
    }

    fn nodes(&self) -> usize {
        self.n.div_ceil(self.node_rows)
    }

    /// The rows of node `node`.
    fn rows(&self, node: usize) -> std::ops::Range<usize> {
        node * self.node_rows..self.n.min((node + 1) * self.node_rows)
    }
}

/// The rows of leaf `leaf` of `rows` rows.
fn leaf_rows(rows: usize, leaf: usize) -> std::ops::Range<usize> {
    leaf * LEAF..rows.min((leaf + 1) * LEAF)
}

/// What is measured on the codes of some rows while they are in the cache: the lane sum of each row, and per column the
/// sum of code times weight.
fn measure<T: Float>(isa: Isa, codes: &[T], weights: &[T], row_sums: &mut [T], columns: &mut [T]) {
    columns.fill(T::ZERO);
    for (sum, row) in row_sums.iter_mut().zip(codes.chunks(columns.len())) {
        *sum = selfsame_kernels::lanes::sum(isa, row);
    }
    add_rows(isa, codes, weights, columns);
}
