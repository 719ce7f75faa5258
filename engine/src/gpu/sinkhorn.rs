//! Sinkhorn as kernels. Column sums come as nodes of the sample tree, gathered from all ranks and merged on the device.

use super::samples::fold;
use super::{GpuDevice, extent};
use crate::ops::sinkhorn::{Finished, Passes, Problem};
use crate::ops::{self, SinkhornDomain};
use crate::{Array, Comm, DType, Device, Result};
use selfsame_kernels::device::sinkhorn as s;
use selfsame_kernels::order::LEAF;

const OWNER: &str = "sinkhorn";

/// The passes of `domain` over scores `[n, k]`, with what the first column half needs.
pub(crate) fn passes<'a>(
    gpu: &'a GpuDevice,
    scores: &Array,
    problem: &Problem<f32>,
    domain: SinkhornDomain,
    comm: &'a Comm,
) -> Result<Box<dyn Passes + 'a>> {
    let on_device = |values: &[f32]| Array::from_slice(values, &[values.len()], &Device::Gpu(gpu.clone()));
    let Problem { n, k, scale, largest, node_leaves, .. } = *problem;
    let kernels = Kernels {
        gpu,
        comm,
        n: extent(n)?,
        k: extent(k)?,
        scale,
        node_leaves: extent(node_leaves)?,
        nodes: n.div_ceil(LEAF * node_leaves),
        row_mass: on_device(&problem.row_mass)?,
        column_mass: on_device(&problem.column_mass)?,
        code_mass: on_device(&problem.code_mass)?,
        code_weight: on_device(&problem.code_weight)?,
        column: gpu.empty(&[k], DType::F32, OWNER)?,
    };
    match domain {
        SinkhornDomain::Scaling => {
            let mut q = gpu.empty(&[n, k], DType::F32, OWNER)?;
            let args = s::sinkhorn_exp::Args {
                scores: scores.cells()?,
                q: q.cells_mut()?,
                len: extent(n * k)?,
                largest,
                scale,
            };
            gpu.submit(|launcher| args.launch(launcher))?;
            let parts = kernels.column_sums(&q, &on_device(&vec![1.0; n])?)?;
            Ok(Box::new(Scaling { kernels, q, parts }))
        }
        SinkhornDomain::Log => {
            let parts = kernels.column_parts(scores, &on_device(&vec![0.0; n])?)?;
            Ok(Box::new(Log { kernels, scores: scores.clone(), parts }))
        }
    }
}

/// What both domains have in common.
struct Kernels<'a> {
    gpu: &'a GpuDevice,
    comm: &'a Comm,
    n: u32,
    k: u32,
    scale: f32,
    node_leaves: u32,
    /// Nodes of this rank's rows.
    nodes: usize,
    row_mass: Array,
    column_mass: Array,
    code_mass: Array,
    code_weight: Array,
    /// The potential of the columns `[k]`.
    column: Array,
}

impl Kernels<'_> {
    fn empty(&self, shape: &[usize]) -> Result<Array> {
        self.gpu.empty(shape, DType::F32, OWNER)
    }

    /// The sums over rows of q u, a node each, of all ranks `[nodes, k]`.
    fn column_sums(&self, q: &Array, u: &Array) -> Result<Array> {
        let Kernels { n, k, node_leaves, .. } = *self;
        let mut sums = self.empty(&[self.nodes, k as usize])?;
        let args = s::sinkhorn_col_sum::Args {
            q: q.cells()?,
            row_scale: u.cells()?,
            sums: sums.cells_mut()?,
            n,
            k,
            node_leaves,
        };
        self.gpu.submit(|launcher| args.launch(launcher))?;
        self.gathered(sums)
    }

    /// The parts of log-sum-exp over rows of scores / epsilon + f, a node each, of all ranks `[nodes, 2, k]`.
    fn column_parts(&self, scores: &Array, f: &Array) -> Result<Array> {
        let Kernels { n, k, scale, node_leaves, .. } = *self;
        let mut parts = self.empty(&[self.nodes, 2, k as usize])?;
        let (scores, row_potential) = (scores.cells()?, f.cells()?);
        let args =
            s::sinkhorn_col_lse::Args { scores, row_potential, parts: parts.cells_mut()?, n, k, scale, node_leaves };
        self.gpu.submit(|launcher| args.launch(launcher))?;
        self.gathered(parts)
    }

    /// The nodes of all ranks, which begin at multiples of a node.
    fn gathered(&self, nodes: Array) -> Result<Array> {
        if self.comm.size() == 1 { Ok(nodes) } else { self.comm.all_gather(&nodes) }
    }

    /// Codes with what is measured on them.
    fn finished(&self, codes: Array) -> Result<Finished> {
        let column_sums = fold(self.gpu, self.column_sums(&codes, &self.code_weight)?, OWNER)?;
        let row_sums = ops::sum(&codes, &[1], false)?;
        Ok(Finished { codes, row_sums: f64s(&row_sums)?, column_sums: f64s(&column_sums)? })
    }
}

fn f64s(x: &Array) -> Result<Vec<f64>> {
    Ok(x.to_vec::<f32>()?.into_iter().map(f64::from).collect())
}

struct Scaling<'a> {
    kernels: Kernels<'a>,
    /// q `[n, k]`; the codes in the end.
    q: Array,
    parts: Array,
}

impl Scaling<'_> {
    /// u = mass / the sum of q v over each row.
    fn row_scale(&self, mass: &Array) -> Result<Array> {
        let Kernels { n, k, gpu, .. } = self.kernels;
        let mut u = self.kernels.empty(&[n as usize])?;
        let (column_scale, mass, row_scale) = (self.kernels.column.cells()?, mass.cells()?, u.cells_mut()?);
        let args = s::sinkhorn_row_scale::Args { q: self.q.cells()?, column_scale, mass, row_scale, n, k };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok(u)
    }
}

impl Passes for Scaling<'_> {
    fn column_half(&mut self) -> Result<()> {
        let [nodes, _] = self.parts.dims()?;
        let Kernels { gpu, k, .. } = self.kernels;
        let (mass, column_scale) = (self.kernels.column_mass.cells()?, self.kernels.column.cells_mut()?);
        let args =
            s::sinkhorn_col_scale::Args { sums: self.parts.cells_mut()?, mass, column_scale, nodes: extent(nodes)?, k };
        gpu.submit(|launcher| args.launch(launcher))
    }

    fn column_potential(&self) -> Result<Vec<f64>> {
        f64s(&self.kernels.column)
    }

    fn row_half(&mut self) -> Result<()> {
        let u = self.row_scale(&self.kernels.row_mass)?;
        self.parts = self.kernels.column_sums(&self.q, &u)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Finished> {
        let u = self.row_scale(&self.kernels.code_mass)?;
        let Kernels { n, k, gpu, .. } = self.kernels;
        let (row_scale, column_scale) = (u.cells()?, self.kernels.column.cells()?);
        let args = s::sinkhorn_apply_scale::Args { codes: self.q.cells_mut()?, row_scale, column_scale, n, k };
        gpu.submit(|launcher| args.launch(launcher))?;
        self.kernels.finished(self.q)
    }
}

struct Log<'a> {
    kernels: Kernels<'a>,
    scores: Array,
    parts: Array,
}

impl Passes for Log<'_> {
    fn column_half(&mut self) -> Result<()> {
        let [nodes, _, _] = self.parts.dims()?;
        let Kernels { gpu, k, .. } = self.kernels;
        let (mass, column_potential) = (self.kernels.column_mass.cells()?, self.kernels.column.cells_mut()?);
        let parts = self.parts.cells_mut()?;
        let args = s::sinkhorn_col_merge::Args { parts, mass, column_potential, nodes: extent(nodes)?, k };
        gpu.submit(|launcher| args.launch(launcher))
    }

    fn column_potential(&self) -> Result<Vec<f64>> {
        f64s(&self.kernels.column)
    }

    fn row_half(&mut self) -> Result<()> {
        let Kernels { n, k, scale, gpu, .. } = self.kernels;
        let mut f = self.kernels.empty(&[n as usize])?;
        let args = s::sinkhorn_row_lse::Args {
            scores: self.scores.cells()?,
            column_potential: self.kernels.column.cells()?,
            mass: self.kernels.row_mass.cells()?,
            row_potential: f.cells_mut()?,
            n,
            k,
            scale,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        self.parts = self.kernels.column_parts(&self.scores, &f)?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Finished> {
        let Kernels { n, k, scale, gpu, .. } = self.kernels;
        let mut codes = self.kernels.empty(&[n as usize, k as usize])?;
        let args = s::sinkhorn_codes::Args {
            scores: self.scores.cells()?,
            column_potential: self.kernels.column.cells()?,
            mass: self.kernels.code_mass.cells()?,
            codes: codes.cells_mut()?,
            n,
            k,
            scale,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        self.kernels.finished(codes)
    }
}
