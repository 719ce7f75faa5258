//! Sinkhorn's alternating normalisation: codes of samples over prototypes with given marginals, the entropy-regularised
//! assignment of Cuturi 2013 that SwAV, SeLa and DINOv2 train on.
//!
//! An iteration makes the columns meet their mass, then the rows; only a potential per row and one per column change.
//! In the *scaling* domain they are factors of q = exp((score - largest) / epsilon), stored where the codes will be; in
//! the *log* domain they are added to scores / epsilon, which is slower and never overflows. The domain is decided from
//! the extrema over all ranks. Columns are sums over samples (leaves of 16 rows, the tree), rows go by lanes: the bits
//! depend on no thread, rank or device. `kernels/NUMERICS.md` has the order and the bound of the scaling domain.

mod options;

pub use options::{CodeScale, Marginal, MarginalError, Sinkhorn, SinkhornDomain, SinkhornResult, SinkhornStop};

use super::{Float, cast, is_half, kernels_for, with_real};
use crate::cpu::sinkhorn as on_cpu;
use crate::order::LEAF;
use crate::profile::Work;
use crate::{Array, Comm, DType, Error, ErrorKind, Result, gpu};
use selfsame_kernels::device::sinkhorn::NODE_LEAVES as GPU_NODE_LEAVES;
use selfsame_kernels::math::Real;

/// The name in errors and memory statistics.
const OP: &str = "sinkhorn";

/// The codes of scores `[n, k]` (samples by prototypes), balanced over the rows of all ranks of `comm`.
///
/// Ranks hold consecutive rows, in rank order; each but the last holds a multiple of 16. f32 and f64 are computed as
/// they are, bf16 and f16 give codes in f32. No gradient is meant to flow through codes.
///
/// # Errors
/// `Shape` unless the scores are `[n, k]` with n, k > 0 and k equal on all ranks, or when weights do not fit; `Numerics`
/// when a rank's rows do not end on a leaf; `NonFinite` for a score that is not finite (with its place) or overflows
/// when divided by epsilon; `Config` for an epsilon, weight, tolerance or number of iterations that is not positive, and
/// for a scaling domain that was asked for and would not be safe; `DType` unless float.
pub fn sinkhorn(scores: &Array, options: &Sinkhorn, comm: &Comm) -> Result<SinkhornResult> {
    if is_half(scores.dtype()) {
        return sinkhorn(&cast(scores, DType::F32)?, options, comm);
    }
    options.check(scores)?;
    // An iteration reads the codes in place once and computes with each twice; the first pass and the last go over
    // scores and codes. With a tolerance, as many iterations as it may take at most.
    let passes = options.iterations() + 2;
    let size = scores.dtype().size();
    let _span = scores.device().span(OP, || {
        Work::moving(2 * passes * scores.numel() * size).flop(4 * passes * scores.numel()).special(scores.numel())
    });
    with_real!(OP, scores.dtype(), T, normalise::<T>(&scores.contiguous()?, options, comm))
}

/// What the passes of both domains and all devices work on.
pub(crate) struct Problem<T> {
    /// Rows of this rank.
    pub(crate) n: usize,
    /// Columns.
    pub(crate) k: usize,
    /// 1 / epsilon.
    pub(crate) scale: T,
    /// The largest score of all ranks.
    pub(crate) largest: T,
    /// Masses of this rank's rows.
    pub(crate) row_mass: Vec<T>,
    /// Masses of the columns.
    pub(crate) column_mass: Vec<T>,
    /// What rows of codes add up to.
    pub(crate) code_mass: Vec<T>,
    /// What turns a row of codes into its row of the plan.
    pub(crate) code_weight: Vec<T>,
    /// Leaves per node of the column tree, for which every rank's rows begin at a node.
    pub(crate) node_leaves: usize,
}

/// The passes of one domain on one device. Made with what the first column half needs.
pub(crate) trait Passes {
    /// The column half: merges what the last pass left for it, over all ranks.
    fn column_half(&mut self) -> Result<()>;
    /// The factors or terms of the columns.
    fn column_potential(&self) -> Result<Vec<f64>>;
    /// The row half, and what the next column half needs.
    fn row_half(&mut self) -> Result<()>;
    /// The last row half, and the codes.
    fn finish(self: Box<Self>) -> Result<Finished>;
}

/// Codes and what was measured on them.
pub(crate) struct Finished {
    pub(crate) codes: Array,
    /// Per row of this rank, the sum of its codes.
    pub(crate) row_sums: Vec<f64>,
    /// Per column, the sum over all ranks of code times weight.
    pub(crate) column_sums: Vec<f64>,
}

fn normalise<T: Float>(scores: &Array, options: &Sinkhorn, comm: &Comm) -> Result<SinkhornResult> {
    let kernels = kernels_for(scores);
    let global = Global::gather::<T>(scores, options, comm)?;
    let [n, k] = scores.dims()?;
    let row_mass = global.row_mass(options);
    let column_mass = masses(&options.columns, k);
    let domain = global.domain(options, &row_mass, &column_mass)?;

    let own = global.first_row..global.first_row + n;
    let rounded = |mass: &[f64]| mass.iter().map(|m| T::from_f64(*m)).collect::<Vec<T>>();
    let (row, ones) = (rounded(&row_mass[own.clone()]), vec![T::ONE; n]);
    let (code_mass, code_weight) = match options.codes {
        CodeScale::Probabilities => (ones, row.clone()),
        CodeScale::Plan => (row.clone(), ones),
    };
    let problem = Problem {
        n,
        k,
        scale: T::from_f64(1.0 / options.epsilon),
        largest: T::from_f64(global.largest),
        row_mass: row,
        column_mass: rounded(&column_mass),
        code_mass,
        code_weight,
        node_leaves: global.node_leaves,
    };
    let device = scores.device();
    let mut passes: Box<dyn Passes> = match (kernels, domain) {
        (Some(gpu), _) => gpu::sinkhorn::passes(gpu, scores, &problem.in_f32(), domain, comm)?,
        (None, SinkhornDomain::Scaling) => {
            Box::new(on_cpu::Scaling::new(&problem, scores.as_slice::<T>()?, comm, device)?)
        }
        (None, SinkhornDomain::Log) => Box::new(on_cpu::Log::new(&problem, scores.as_slice::<T>()?, comm, device)),
    };

    let mut iterations = 0;
    let mut before: Option<Vec<f64>> = None;
    loop {
        iterations += 1;
        passes.column_half()?;
        let mut last = iterations == options.iterations();
        if let SinkhornStop::Tolerance { column_error, .. } = options.stop {
            let now = passes.column_potential()?;
            last |= before.is_some_and(|before| change(domain, &before, &now, &column_mass) <= column_error);
            before = Some(now);
        }
        if last {
            break;
        }
        passes.row_half()?;
    }
    let finished = passes.finish()?;

    let weight = |row: usize| match options.codes {
        CodeScale::Probabilities => row_mass[row],
        CodeScale::Plan => 1.0,
    };
    let rows = finished.row_sums.iter().zip(own).map(|(sum, row)| (sum * weight(row) - row_mass[row]).abs());
    // Leaf by leaf, so that ranks add in the same order as one.
    let leaves: Vec<MarginalError> =
        rows.collect::<Vec<f64>>().chunks(LEAF).map(|leaf| MarginalError::of(leaf.iter().copied())).collect();
    let leaves = comm.exchange(leaves)?.concat();
    let row_error = leaves
        .into_iter()
        .fold(MarginalError::default(), |a, b| MarginalError { l1: a.l1 + b.l1, max: a.max.max(b.max) });
    let columns = finished.column_sums.iter().zip(&column_mass);
    let column_error = MarginalError::of(columns.map(|(sum, mass)| (sum - mass).abs()));
    Ok(SinkhornResult { codes: finished.codes, row_error, column_error, iterations, domain })
}

impl<T: Float> Problem<T> {
    /// The same for kernels.
    fn in_f32(&self) -> Problem<f32> {
        let f32s = |x: &[T]| x.iter().map(|x| Real::to_f32(*x)).collect();
        Problem {
            n: self.n,
            k: self.k,
            scale: Real::to_f32(self.scale),
            largest: Real::to_f32(self.largest),
            row_mass: f32s(&self.row_mass),
            column_mass: f32s(&self.column_mass),
            code_mass: f32s(&self.code_mass),
            code_weight: f32s(&self.code_weight),
            node_leaves: self.node_leaves,
        }
    }
}

/// How wrong the columns were before a column half, L1: their mass was the old factor over the new one times what it
/// should be.
fn change(domain: SinkhornDomain, before: &[f64], now: &[f64], mass: &[f64]) -> f64 {
    let relative = |before: f64, now: f64| match domain {
        SinkhornDomain::Scaling => before / now,
        SinkhornDomain::Log => Real::exp(before - now),
    };
    before.iter().zip(now).zip(mass).map(|((&before, &now), mass)| mass * (relative(before, now) - 1.0).abs()).sum()
}

/// Masses that add up to 1.
fn masses(marginal: &Marginal, len: usize) -> Vec<f64> {
    match marginal {
        Marginal::Balanced => vec![1.0 / len as f64; len],
        Marginal::Given(weights) => {
            let total: f64 = weights.iter().sum();
            weights.iter().map(|w| w / total).collect()
        }
    }
}

/// What one rank tells the others.
#[derive(Clone)]
struct Local {
    rows: usize,
    columns: usize,
    smallest: f64,
    largest: f64,
    /// Row, column and value of the first score that is not finite.
    not_finite: Option<(usize, usize, f64)>,
    row_weights: Marginal,
    node_leaves: usize,
}

/// What all ranks know.
struct Global {
    ranks: Vec<Local>,
    first_row: usize,
    rows: usize,
    smallest: f64,
    largest: f64,
    node_leaves: usize,
    /// Largest exponent of e that the scaling domain may meet: the type's, with a margin for rounding.
    range: f64,
    /// The largest finite number of the type.
    max: f64,
}

impl Global {
    fn gather<T: Float>(scores: &Array, options: &Sinkhorn, comm: &Comm) -> Result<Global> {
        let [rows, columns] = scores.dims()?;
        let on_kernels = kernels_for(scores).is_some();
        let (smallest, largest, finite) = if on_kernels {
            let (low, high): (T, T) =
                (super::min(scores, &[0, 1], false)?.item()?, super::max(scores, &[0, 1], false)?.item()?);
            (low, high, Real::is_finite(low) && Real::is_finite(high))
        } else {
            let extrema = on_cpu::extrema(scores.device().host(), scores.as_slice::<T>()?);
            (extrema.smallest, extrema.largest, extrema.finite)
        };
        let not_finite = if finite { None } else { first_not_finite::<T>(scores)? };
        let node_leaves = if on_kernels { GPU_NODE_LEAVES as usize } else { on_cpu::NODE_LEAVES };
        let local = Local {
            rows,
            columns,
            smallest: smallest.to_f64(),
            largest: largest.to_f64(),
            not_finite,
            row_weights: options.rows.clone(),
            node_leaves,
        };
        Global::of(comm.exchange(local)?, comm.rank(), T::MAX.to_f64())
    }

    fn of(ranks: Vec<Local>, own: usize, max: f64) -> Result<Global> {
        let mut global = Global {
            first_row: ranks[..own].iter().map(|rank| rank.rows).sum(),
            rows: 0,
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
            node_leaves: usize::MAX,
            // 126 ln 2 = 87.3 and 1022 ln 2 = 708.4.
            range: if max > f64::from(f32::MAX) { 700.0 } else { 86.0 },
            max,
            ranks: Vec::new(),
        };
        for (number, rank) in ranks.iter().enumerate() {
            if rank.columns != ranks[0].columns {
                return Err(Error::new(ErrorKind::Shape, OP, format!("{} columns on rank {number}", rank.columns))
                    .expected(format!("{}, as on rank 0", ranks[0].columns)));
            }
            if let Some((row, column, value)) = rank.not_finite {
                let of_rank = if ranks.len() > 1 { format!(" of rank {number}") } else { String::new() };
                let place = format!("score {value} in row {row}, column {column}{of_rank}");
                return Err(Error::new(ErrorKind::NonFinite, OP, place).expected("finite scores"));
            }
            if !global.rows.is_multiple_of(LEAF) {
                return Err(Error::new(
                    ErrorKind::Numerics,
                    OP,
                    format!("rank {number} begins at row {}", global.rows),
                )
                .expected(format!("a multiple of {LEAF} rows on every rank but the last"))
                .hint("other cuts change the order of sums over samples, and so the bits"));
            }
            let aligned = match global.rows / LEAF {
                0 => usize::MAX,
                leaf => 1 << leaf.trailing_zeros(),
            };
            global.node_leaves = global.node_leaves.min(rank.node_leaves).min(aligned);
            global.rows += rank.rows;
            global.smallest = global.smallest.min(rank.smallest);
            global.largest = global.largest.max(rank.largest);
        }
        global.ranks = ranks;
        Ok(global)
    }

    /// The masses of the rows of all ranks.
    fn row_mass(&self, options: &Sinkhorn) -> Vec<f64> {
        let weights = |rank: &Local| match &rank.row_weights {
            Marginal::Balanced => vec![1.0; rank.rows],
            Marginal::Given(weights) => weights.clone(),
        };
        match options.rows {
            Marginal::Balanced => masses(&Marginal::Balanced, self.rows),
            Marginal::Given(_) => masses(&Marginal::Given(self.ranks.iter().flat_map(weights).collect()), self.rows),
        }
    }

    /// The domain asked for, or the one that is safe.
    fn domain(&self, options: &Sinkhorn, row_mass: &[f64], column_mass: &[f64]) -> Result<SinkhornDomain> {
        let magnitude = self.largest.abs().max(self.smallest.abs()) / options.epsilon;
        // Potentials stay below three times the scores, and sums of both below 16.
        if magnitude > self.max / 16.0 {
            return Err(Error::new(ErrorKind::NonFinite, OP, format!("scores / epsilon up to {magnitude:e}"))
                .expected(format!("at most {:e}", self.max / 16.0)));
        }
        let smallest = |mass: &[f64]| mass.iter().copied().fold(f64::INFINITY, f64::min);
        let (row, column) = (smallest(row_mass), smallest(column_mass));
        let uneven = Real::log(row_mass.iter().copied().fold(0.0, f64::max) / row);
        let range = (self.largest - self.smallest) / options.epsilon;
        let wanted = (2.0 * range + uneven).max(range + uneven + Real::log((self.rows as f64 / column).max(1.0 / row)));
        let is_safe = wanted <= self.range;
        match options.domain {
            Some(SinkhornDomain::Scaling) if !is_safe => {
                let got = format!("the scaling domain for scores over {range:.4} epsilon");
                Err(Error::new(ErrorKind::Config, OP, got)
                    .expected(format!("a range for which exponents of {wanted:.1} stay below {}", self.range))
                    .hint("leave the domain open: the log domain takes any range"))
            }
            Some(domain) => Ok(domain),
            None if is_safe => Ok(SinkhornDomain::Scaling),
            None => Ok(SinkhornDomain::Log),
        }
    }
}

fn first_not_finite<T: Float>(scores: &Array) -> Result<Option<(usize, usize, f64)>> {
    let [_, k] = scores.dims()?;
    let values = scores.as_slice::<T>()?;
    let at = values.iter().position(|score| !Real::is_finite(*score));
    Ok(at.map(|at| (at / k, at % k, values[at].to_f64())))
}
