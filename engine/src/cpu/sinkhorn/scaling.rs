//! Scaling domain: q = exp((score - largest) / epsilon) lies in the buffer of the codes, and only its scaling vectors
//! change.

use super::{Cut, GROUP, add, add_group, fold_leaves, gather_nodes, leaf_rows, measure, row_group};
use crate::ops::Float;
use crate::ops::sinkhorn::{Finished, Passes, Problem};
use crate::order::LEAF;
use crate::{Array, Comm, Device, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::order::LANES;
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
            let q = &q[row * k..(row + 1) * k];
            add_group([q], [mass[row] / lane_dot(q, v)], columns);
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
            let u = mass[row] / lane_dot(codes, v);
            scale_row(codes, u, v);
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

/// The sums of q v over a few rows, each by lanes: as `selfsame_kernels::lanes::dot`, several at once. The lanes of each
/// row are an array of their own, which the compiler keeps in registers; an array of arrays it does not.
#[inline(always)]
fn lane_dots<T: Real>(q: [&[T]; GROUP], v: &[T]) -> [T; GROUP] {
    let (v, v_rest) = v.as_chunks::<LANES>();
    let [a, b, c, d] = q.map(|row| row.as_chunks::<LANES>());
    let [mut lanes_a, mut lanes_b, mut lanes_c, mut lanes_d] = [[T::ZERO; LANES]; GROUP];
    for ((((v, a), b), c), d) in v.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        add_products(&mut lanes_a, a, v);
        add_products(&mut lanes_b, b, v);
        add_products(&mut lanes_c, c, v);
        add_products(&mut lanes_d, d, v);
    }
    [
        lane_total(lanes_a, a.1, v_rest),
        lane_total(lanes_b, b.1, v_rest),
        lane_total(lanes_c, c.1, v_rest),
        lane_total(lanes_d, d.1, v_rest),
    ]
}

/// [`lane_dots`] of one row.
#[inline(always)]
fn lane_dot<T: Real>(q: &[T], v: &[T]) -> T {
    let ((v, v_rest), (q, q_rest)) = (v.as_chunks::<LANES>(), q.as_chunks::<LANES>());
    let mut lanes = [T::ZERO; LANES];
    v.iter().zip(q).for_each(|(v, q)| add_products(&mut lanes, q, v));
    lane_total(lanes, q_rest, v_rest)
}

/// lanes += q v.
#[inline(always)]
fn add_products<T: Real>(lanes: &mut [T; LANES], q: &[T; LANES], v: &[T; LANES]) {
    for i in 0..LANES {
        lanes[i] = Real::mul_add(q[i], v[i], lanes[i]);
    }
}

/// The sum of lanes, after the last products, fewer than lanes.
#[inline(always)]
fn lane_total<T: Real>(mut lanes: [T; LANES], q: &[T], v: &[T]) -> T {
    for ((lane, &q), &v) in lanes.iter_mut().zip(q).zip(v) {
        *lane = Real::mul_add(q, v, *lane);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
