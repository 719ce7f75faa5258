//! Log domain: potentials of rows and columns over the scores, at any temperature. Two exponentials per score and
//! iteration, one in the row half and one for the next column half.

use super::{Cut, add, fold_leaves, gather_nodes, leaf_rows, measure};
use crate::ops::Float;
use crate::ops::sinkhorn::{Finished, Passes, Problem};
use crate::order::LEAF;
use crate::{Array, Comm, Device, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::{lanes, stamp};

/// The state between passes.
pub(crate) struct Log<'a, T> {
    problem: &'a Problem<T>,
    scores: &'a [T],
    comm: &'a Comm,
    device: &'a Device,
    /// The column potential g `[k]`.
    column: Vec<T>,
    /// The parts of log-sum-exp over rows, a node per task `[nodes, 2, k]`: largest, sum of exponentials.
    nodes: Vec<T>,
}

impl<'a, T: Float> Log<'a, T> {
    /// What the first column half needs: row potentials are 0.
    pub(crate) fn new(problem: &'a Problem<T>, scores: &'a [T], comm: &'a Comm, device: &'a Device) -> Log<'a, T> {
        let mut log = Log { problem, scores, comm, device, column: Vec::new(), nodes: Vec::new() };
        log.pass(|_, _, _| T::ZERO);
        log
    }

    /// One pass over the scores: per leaf the row potentials, `potential(row, scores, scratch)`, then the parts of its
    /// columns.
    fn pass(&mut self, potential: impl Fn(usize, &[T], &mut Vec<T>) -> T + Sync) {
        let (problem, scores) = (self.problem, self.scores);
        let (cut, k, cpu) = (Cut::of(problem), problem.k, self.device.host());
        let isa = cpu.isa();
        let mut nodes = vec![T::ZERO; cut.nodes() * 2 * k];
        cpu.workers().run_chunks(&mut nodes, 2 * k, |node, parts| {
            let rows = cut.rows(node);
            let mut scratch = Vec::new();
            let leaf = |leaf: usize, parts: &mut [T]| {
                let here = leaf_rows(rows.len(), leaf);
                let mut potentials = [T::ZERO; LEAF];
                for (row, f) in here.clone().zip(&mut potentials) {
                    let row = rows.start + row;
                    *f = potential(row, &scores[row * k..(row + 1) * k], &mut scratch);
                }
                let scores = &scores[(rows.start + here.start) * k..(rows.start + here.end) * k];
                let (max, sum) = parts.split_at_mut(k);
                column_parts(isa, scores, problem.scale, &potentials[..here.len()], max, sum);
            };
            fold_leaves(rows.len().div_ceil(LEAF), parts, leaf, |a, b| join_parts(isa, a, b));
        });
        self.nodes = nodes;
    }
}

impl<T: Float> Passes for Log<'_, T> {
    fn column_half(&mut self) -> Result<()> {
        let (isa, k) = (self.device.host().isa(), self.problem.k);
        let nodes = std::mem::take(&mut self.nodes);
        let mut parts = gather_nodes(self.comm, nodes, 2 * k, |a, b| join_parts(isa, a, b))?;
        let (max, sum) = parts.split_at_mut(k);
        potentials(isa, max, sum, &self.problem.column_mass);
        parts.truncate(k);
        self.column = parts;
        Ok(())
    }

    fn column_potential(&self) -> Result<Vec<f64>> {
        Ok(self.column.iter().map(|g| Real::to_f64(*g)).collect())
    }

    fn row_half(&mut self) -> Result<()> {
        let (problem, isa) = (self.problem, self.device.host().isa());
        let column = std::mem::take(&mut self.column);
        self.pass(|row, scores, x| {
            x.resize(scores.len(), T::ZERO);
            let shift = shifted(isa, scores, problem.scale, &column, x);
            let (mut shift, sum) = ([shift], [lanes::sum_exp(isa, x, shift)]);
            potentials(isa, &mut shift, &sum, &[problem.row_mass[row]]);
            shift[0]
        });
        self.column = column;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let Log { problem, scores, column, .. } = &*self;
        let (cut, k) = (Cut::of(problem), problem.k);
        let (mut nodes, mut row_sums) = (vec![T::ZERO; cut.nodes() * k], vec![T::ZERO; problem.n]);
        let codes = Array::build::<T>(self.device, &[problem.n, k], "sinkhorn", |cpu, codes| {
            let isa = cpu.isa();
            let parts =
                codes.chunks_mut(cut.node_rows * k).zip(row_sums.chunks_mut(cut.node_rows)).zip(nodes.chunks_mut(k));
            cpu.workers().run_parts(parts, |node, ((codes, row_sums), columns)| {
                let first = cut.rows(node).start;
                let leaf = |leaf: usize, columns: &mut [T]| {
                    let rows = leaf_rows(row_sums.len(), leaf);
                    let codes = &mut codes[rows.start * k..rows.end * k];
                    let here = first + rows.start..first + rows.end;
                    for (row, codes) in here.clone().zip(codes.chunks_mut(k)) {
                        code_row(isa, &scores[row * k..(row + 1) * k], problem, column, problem.code_mass[row], codes);
                    }
                    measure(isa, codes, &problem.code_weight[here], &mut row_sums[rows], columns);
                };
                fold_leaves(cut.rows(node).len().div_ceil(LEAF), columns, leaf, |a, b| add(isa, a, b));
            });
            Ok(())
        })?;
        let isa = self.device.host().isa();
        let column_sums = gather_nodes(self.comm, nodes, k, |a, b| add(isa, a, b))?;
        let f64s = |x: Vec<T>| x.into_iter().map(Real::to_f64).collect();
        Ok(Finished { codes, row_sums: f64s(row_sums), column_sums: f64s(column_sums) })
    }
}

/// x = fma(score, scale, potential) of a row, and its shift: the largest.
fn shifted<T: Float>(isa: Isa, scores: &[T], scale: T, potential: &[T], x: &mut [T]) -> T {
    affine(isa, scores, scale, potential, x);
    let max = lanes::max(isa, x);
    if Real::is_finite(max) { max } else { T::ZERO }
}

/// exp(x - shift) (mass / sum) of a row.
fn code_row<T: Float>(isa: Isa, scores: &[T], problem: &Problem<T>, column: &[T], mass: T, codes: &mut [T]) {
    let shift = shifted(isa, scores, problem.scale, column, codes);
    lanes::exp_fma_in_place(isa, T::ONE, shift, codes);
    let sum = lanes::sum(isa, codes);
    multiply(isa, mass / sum, codes);
}

stamp! {
    fn affine<T: Real>(scores: &[T], scale: T, potential: &[T], x: &mut [T]) {
        for ((x, &score), &potential) in x.iter_mut().zip(scores).zip(potential) {
            *x = Real::mul_add(score, scale, potential);
        }
    }

    fn multiply<T: Real>(factor: T, x: &mut [T]) {
        for x in x {
            *x *= factor;
        }
    }

    /// max = log(mass / sum) - shift, the shift being the maximum, or 0 where that is not finite.
    fn potentials<T: Real>(max: &mut [T], sum: &[T], mass: &[T]) {
        for ((max, &sum), &mass) in max.iter_mut().zip(sum).zip(mass) {
            *max = Real::log(mass / sum) - shift_of(*max);
        }
    }

    /// Per column of a leaf, the largest x = fma(score, scale, potential of the row) and the sum of exp(x - shift),
    /// both as chains. Columns go in blocks whose accumulators stay in registers.
    fn column_parts<T: Real>(scores: &[T], scale: T, potentials: &[T], max: &mut [T], sum: &mut [T]) {
        const BLOCK: usize = 64;
        let k = max.len();
        let whole = k - k % BLOCK;
        for first in (0..whole).step_by(BLOCK) {
            let (mut high, mut total) = ([T::NEG_INFINITY; BLOCK], [T::ZERO; BLOCK]);
            for (row, &potential) in potentials.iter().enumerate() {
                let scores = &scores[row * k + first..row * k + first + BLOCK];
                for i in 0..BLOCK {
                    high[i] = Real::max(high[i], Real::mul_add(scores[i], scale, potential));
                }
            }
            let shift = high.map(#[inline(always)] |high| shift_of(high));
            for (row, &potential) in potentials.iter().enumerate() {
                let scores = &scores[row * k + first..row * k + first + BLOCK];
                for i in 0..BLOCK {
                    total[i] += Real::exp(Real::mul_add(scores[i], scale, potential) - shift[i]);
                }
            }
            max[first..first + BLOCK].copy_from_slice(&high);
            sum[first..first + BLOCK].copy_from_slice(&total);
        }
        for j in whole..k {
            let (mut high, mut total) = (T::NEG_INFINITY, T::ZERO);
            for (row, &potential) in potentials.iter().enumerate() {
                high = Real::max(high, Real::mul_add(scores[row * k + j], scale, potential));
            }
            for (row, &potential) in potentials.iter().enumerate() {
                total += Real::exp(Real::mul_add(scores[row * k + j], scale, potential) - shift_of(high));
            }
            (max[j], sum[j]) = (high, total);
        }
    }

    /// Joins two nodes `[2, k]`, a before b, into a.
    fn join_parts<T: Real>(a: &mut [T], b: &[T]) {
        let k = a.len() / 2;
        let (max_a, sum_a) = a.split_at_mut(k);
        let (max_b, sum_b) = b.split_at(k);
        for ((max_a, sum_a), (&max_b, &sum_b)) in max_a.iter_mut().zip(sum_a).zip(max_b.iter().zip(sum_b)) {
            let max = Real::max(*max_a, max_b);
            *sum_a = Real::mul_add(sum_b, rescaled(max_b, max), *sum_a * rescaled(*max_a, max));
            *max_a = max;
        }
    }
}

/// What exponentials are shifted by.
#[inline(always)]
fn shift_of<T: Real>(max: T) -> T {
    if Real::is_finite(max) { max } else { T::ZERO }
}

/// The factor of a sum whose maximum was `own`.
#[inline(always)]
fn rescaled<T: Real>(own: T, max: T) -> T {
    if own == max { T::ONE } else { Real::exp(own - max) }
}
