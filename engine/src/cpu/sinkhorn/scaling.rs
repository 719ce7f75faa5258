//! Scaling domain: q = exp((score - largest) / epsilon) lies in the buffer of the codes, and only its scaling vectors
//! change.

use super::{Cut, GROUP, add, add_group, fold_leaves, gather_nodes, leaf_rows, measure, row_group};
use crate::ops::Float;
use crate::ops::sinkhorn::{Finished, Passes, Problem};
use crate::{Array, Comm, Device, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::order::{LANES, LEAF};
use selfsame_kernels::stamp;

/// The state between passes.
pub(crate) struct Scaling<'a, T> {
    problem: &'a Problem<T>,
    comm: &'a Comm,
    device: &'a Device,
    /// q `[n, k]`; the codes in the end.
    q: Array,
    /// The column scaling v `[k]`.
    column: Vec<T>,
    /// Column sums of q u, a node per task `[nodes, k]`.
    nodes: Vec<T>,
}

impl<'a, T: Float> Scaling<'a, T> {
    /// q, and its column sums for u = 1.
    pub(crate) fn new(
        problem: &'a Problem<T>,
        scores: &[T],
        comm: &'a Comm,
        device: &'a Device,
    ) -> Result<Scaling<'a, T>> {
        let (cut, k) = (Cut::of(problem), problem.k);
        let mut nodes = vec![T::ZERO; cut.nodes() * k];
        let q = Array::build::<T>(device, &[problem.n, k], "sinkhorn", |cpu, q| {
            let isa = cpu.isa();
            cpu.workers().run_chunks2((q, cut.node_rows * k), (&mut nodes, k), |node, q, columns| {
                let scores = &scores[cut.rows(node).start * k..][..q.len()];
                let rows = q.len() / k;
                let leaf = |leaf: usize, columns: &mut [T]| {
                    let rows = leaf_rows(rows, leaf);
                    let (scores, q) = (&scores[rows.start * k..rows.end * k], &mut q[rows.start * k..rows.end * k]);
                    exp_rows(isa, scores, problem.largest, problem.scale, q, columns);
                };
                fold_leaves(rows.div_ceil(LEAF), columns, leaf, |a, b| add(isa, a, b));
            });
            Ok(())
        })?;
        Ok(Scaling { problem, comm, device, q, column: Vec::new(), nodes })
    }
}

impl<T: Float> Passes for Scaling<'_, T> {
    fn column_half(&mut self) -> Result<()> {
        let isa = self.device.host().isa();
        let nodes = std::mem::take(&mut self.nodes);
        let mut sums = gather_nodes(self.comm, nodes, self.problem.k, |a, b| add(isa, a, b))?;
        for (sum, &mass) in sums.iter_mut().zip(&self.problem.column_mass) {
            *sum = mass / *sum;
        }
        self.column = sums;
        Ok(())
    }

    fn column_potential(&self) -> Result<Vec<f64>> {
        Ok(self.column.iter().map(|v| Real::to_f64(*v)).collect())
    }

    fn row_half(&mut self) -> Result<()> {
        let (cut, k, cpu) = (Cut::of(self.problem), self.problem.k, self.device.host());
        let (isa, q, column) = (cpu.isa(), self.q.as_slice::<T>()?, &self.column);
        self.nodes = vec![T::ZERO; cut.nodes() * k];
        cpu.workers().run_chunks(&mut self.nodes, k, |node, columns| {
            let rows = cut.rows(node);
            let leaf = |leaf: usize, columns: &mut [T]| {
                let rows = leaf_rows(rows.len(), leaf);
                let rows = cut.rows(node).start + rows.start..cut.rows(node).start + rows.end;
                let mass = &self.problem.row_mass[rows.clone()];
                scale_rows(isa, &q[rows.start * k..rows.end * k], column, mass, columns);
            };
            fold_leaves(rows.len().div_ceil(LEAF), columns, leaf, |a, b| add(isa, a, b));
        });
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let Scaling { problem, comm, device, mut q, column, .. } = *self;
        let (cut, k, cpu) = (Cut::of(problem), problem.k, device.host());
        let isa = cpu.isa();
        let (mut nodes, mut row_sums) = (vec![T::ZERO; cut.nodes() * k], vec![T::ZERO; problem.n]);
        let codes = q.make_mut::<T>()?;
        let parts =
            codes.chunks_mut(cut.node_rows * k).zip(row_sums.chunks_mut(cut.node_rows)).zip(nodes.chunks_mut(k));
        cpu.workers().run_parts(parts, |node, ((codes, row_sums), columns)| {
            let first = cut.rows(node).start;
            let leaf = |leaf: usize, columns: &mut [T]| {
                let rows = leaf_rows(row_sums.len(), leaf);
                let codes = &mut codes[rows.start * k..rows.end * k];
                let here = first + rows.start..first + rows.end;
                code_rows(isa, codes, &column, &problem.code_mass[here.clone()]);
                measure(isa, codes, &problem.code_weight[here], &mut row_sums[rows], columns);
            };
            fold_leaves(cut.rows(node).len().div_ceil(LEAF), columns, leaf, |a, b| add(isa, a, b));
        });
        let column_sums = gather_nodes(comm, nodes, k, |a, b| add(isa, a, b))?;
        let f64s = |x: Vec<T>| x.into_iter().map(Real::to_f64).collect();
        Ok(Finished { codes: q, row_sums: f64s(row_sums), column_sums: f64s(column_sums) })
    }
}

stamp! {
    /// q = exp((score - largest) scale) of a leaf, and its column sums.
    fn exp_rows<T: Real>(scores: &[T], largest: T, scale: T, q: &mut [T], columns: &mut [T]) {
        let k = columns.len();
        columns.fill(T::ZERO);
        for (q, scores) in q.chunks_mut(k * GROUP).zip(scores.chunks(k * GROUP)) {
            for (q, &score) in q.iter_mut().zip(scores) {
                *q = Real::exp((score - largest) * scale);
            }
            if q.len() == k * GROUP {
                add_group(row_group::<T>(q, 0, k), [T::ONE; GROUP], columns);
            } else {
                for q in q.chunks_exact(k) {
                    add_group([q], [T::ONE], columns);
                }
            }
        }
    }

    /// Row half of a leaf, u = mass / the lane sum of q v, and the column sums of q u.
    fn scale_rows<T: Real>(q: &[T], v: &[T], mass: &[T], columns: &mut [T]) {
        let k = columns.len();
        columns.fill(T::ZERO);
        let grouped = mass.len() - mass.len() % GROUP;
        for first in (0..grouped).step_by(GROUP) {
            let rows = row_group::<T>(q, first, k);
            let mut u = lane_dots(rows, v);
            for (r, u) in u.iter_mut().enumerate() {
                *u = mass[first + r] / *u;
            }
            add_group(rows, u, columns);
        }
        for row in grouped..mass.len() {
            let q = [&q[row * k..(row + 1) * k]];
            let [sum] = lane_dots(q, v);
            add_group(q, [mass[row] / sum], columns);
        }
    }

    /// The last row half of a leaf: codes = (q u) v in place of q.
    fn code_rows<T: Real>(codes: &mut [T], v: &[T], mass: &[T]) {
        let k = v.len();
        let grouped = mass.len() - mass.len() % GROUP;
        for first in (0..grouped).step_by(GROUP) {
            let sums = lane_dots(row_group::<T>(codes, first, k), v);
            for r in 0..GROUP {
                scale_row(&mut codes[(first + r) * k..(first + r + 1) * k], mass[first + r] / sums[r], v);
            }
        }
        for row in grouped..mass.len() {
            let codes = &mut codes[row * k..(row + 1) * k];
            let [sum] = lane_dots([&*codes], v);
            scale_row(codes, mass[row] / sum, v);
        }
    }
}

/// q = (q u) v.
#[inline(always)]
fn scale_row<T: Real>(q: &mut [T], u: T, v: &[T]) {
    for (q, &v) in q.iter_mut().zip(v) {
        *q = (*q * u) * v;
    }
}

/// The sums of q v over a few rows, each by lanes: as `selfsame_kernels::lanes::dot`, several at once.
#[inline(always)]
fn lane_dots<T: Real, const R: usize>(q: [&[T]; R], v: &[T]) -> [T; R] {
    let k = v.len();
    let q = q.map(|row| &row[..k]);
    let whole = k - k % LANES;
    let mut lanes = [[T::ZERO; LANES]; R];
    for at in (0..whole).step_by(LANES) {
        let v = &v[at..at + LANES];
        for r in 0..R {
            let q = &q[r][at..at + LANES];
            for i in 0..LANES {
                lanes[r][i] = Real::mul_add(q[i], v[i], lanes[r][i]);
            }
        }
    }
    for i in 0..k - whole {
        for r in 0..R {
            lanes[r][i] = Real::mul_add(q[r][whole + i], v[whole + i], lanes[r][i]);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lanes in &mut lanes {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        half /= 2;
    }
    lanes.map(|lanes| lanes[0])
}
