//! Sums over all pairs of rows, never holding the pairs: what `pair_log_sum_exp` and `pair_softplus_sum` share.
//!
//! Rows q_i `[m, d]` meet columns k_j `[n, d]` with x_ij = scale q_i·k_j (+ bias). Memory is O((m + n) d), forward and
//! backward; see [`ops::pair_rows`](selfsame_engine::ops::pair_rows) for the order of the sums.
//!
//! **Ranks.** Each rank computes its own rows whole: forward against the columns of all ranks, backward with the
//! gradients of all ranks' rows. So values and gradients have the same bits for any number of ranks.

use super::prelude::*;
use selfsame_engine::ops::{PairRows, PairSide, PairStatistics, PairTerm};
use selfsame_engine::{Comm, DType};

pub use selfsame_engine::ops::Excluded;
use std::sync::Arc;

/// In what type rows are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inputs {
    /// In their own.
    #[default]
    AsGiven,
    /// Rows in f32, rounded to bf16; everything else is computed in f32. The gradient is that of the rounded rows,
    /// passed on as that of the rows.
    Bf16,
}

impl Inputs {
    /// The rows as they are multiplied.
    pub(super) fn rounded(self, op: &'static str, rows: &Array) -> Result<Array> {
        match self {
            Inputs::AsGiven => Ok(rows.clone()),
            Inputs::Bf16 if rows.dtype() == DType::F32 => ops::cast(rows, DType::BF16),
            Inputs::Bf16 => {
                Err(Error::new(ErrorKind::DType, op, format!("rows in {}, to round to bf16", rows.dtype()))
                    .expected("rows in f32"))
            }
        }
    }

    /// Rounded rows in the type that their products are computed in.
    pub(super) fn widened(self, rows: &Array) -> Result<Array> {
        match self {
            Inputs::AsGiven => Ok(rows.clone()),
            Inputs::Bf16 => ops::cast(rows, DType::F32),
        }
    }
}

/// Which pairs are summed, and over which ranks.
#[derive(Clone)]
pub struct Pairs {
    /// Pairs that take no part, with the rows of this rank against the columns of all ranks.
    pub excluded: Excluded,
    /// The ranks that hold the rows, equally many each.
    pub comm: Arc<Comm>,
    /// Parts of equal length that a rank's rows consist of, such as views. All ranks' first parts come first among the
    /// rows of all, in rank order, then the second ones.
    pub parts: usize,
    /// Whether to compute what a log wants beside the sums: see [`PairSums`].
    pub statistics: bool,
    /// In what type the rows and columns are multiplied.
    pub inputs: Inputs,
}

impl Default for Pairs {
    fn default() -> Pairs {
        let comm = Arc::new(Comm::single());
        Pairs { excluded: Excluded::None, comm, parts: 1, statistics: false, inputs: Inputs::AsGiven }
    }
}

/// The sums of rows, each `[m]`.
#[derive(Clone)]
pub struct PairSums {
    /// The sum of each row.
    pub value: Tensor,
    /// With [`Pairs::statistics`]: the column of the largest dot product, i64; -1 where there is none.
    pub top: Option<Array>,
    /// With [`Pairs::statistics`]: the mean dot product under the row's softmax, whose entropy is therefore value -
    /// scale·mean; 0 over no columns. For sums of softplus: the sum of sigmoid(x)·dot.
    pub mean_dot: Option<Array>,
}

/// What is summed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sum {
    /// e^x, and the logarithm is taken; with the largest absolute dot product, if known.
    Exp { bound: Option<f64> },
    /// softplus(x).
    Softplus,
}

/// The largest range of x for which e^(x - largest) stays far from underflow in f32: e^-80 is 1.8e-35.
const FIXED_SHIFT_RANGE: f64 = 80.0;

/// What the rows meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Themselves.
    Own,
    /// Columns that every rank holds whole.
    Over,
    /// Columns that are rows of the transposed problem, spread over ranks as the rows are.
    Both,
}

/// One operation of the family. Inputs: rows, columns unless they are the rows, scale, bias if there is one.
pub(super) struct PairOp {
    pub(super) spec: &'static OpSpec,
    pub(super) sum: Sum,
    pub(super) form: Form,
    pub(super) pairs: Pairs,
    /// Whether the scale or bias wants a gradient.
    pub(super) learns: bool,
}

/// Rows of one side: theirs, the columns that they meet, and the weights of both.
struct Weights {
    own: Array,
    own_value: Array,
    all: Array,
    all_value: Array,
}

impl Weights {
    fn row(&self) -> PairSide<'_> {
        PairSide { weight: &self.own, value: &self.own_value }
    }

    fn column(&self) -> PairSide<'_> {
        PairSide { weight: &self.all, value: &self.all_value }
    }
}

/// Σ e dot / Σ e of each row; 0 over no columns, where 0 / 0 would make the scale's gradient NaN.
fn mean_dot(weighted: &Array, sum: &Array) -> Result<Array> {
    // Any other sum is larger: see `FIXED_SHIFT_RANGE`.
    let sum = ops::binary_scalar(Binary::Max, sum, f64::from(f32::MIN_POSITIVE))?;
    ops::div(weighted, &sum)
}

impl PairOp {
    fn sides(&self) -> usize {
        if self.form == Form::Both { 2 } else { 1 }
    }

    /// Rows, columns, and the place of the first parameter among the inputs.
    fn operands<'a>(&self, x: &[&'a Array]) -> (&'a Array, &'a Array, usize) {
        if self.form == Form::Own { (x[0], x[0], 1) } else { (x[0], x[1], 2) }
    }

    fn term(&self, parameters: &[&Array]) -> Result<PairTerm> {
        let number = |i: usize| ops::cast(parameters[i], DType::F64)?.reshape(&[])?.item::<f64>();
        let scale = number(0)?;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::new(ErrorKind::Config, self.spec.name, format!("scale {scale}"))
                .expected("a positive number: 1 / temperature"));
        }
        Ok(match self.sum {
            Sum::Softplus => PairTerm::Softplus { scale, bias: number(1)? },
            Sum::Exp { bound: Some(bound) } if 2.0 * scale * bound < FIXED_SHIFT_RANGE => {
                PairTerm::ExpShifted { scale, shift: scale * bound }
            }
            Sum::Exp { .. } => PairTerm::Exp { scale },
        })
    }

    /// The rows of all ranks, parts in order.
    fn gathered(&self, own: &Array) -> Result<Array> {
        let (comm, parts) = (&self.pairs.comm, self.pairs.parts);
        if comm.size() == 1 {
            return Ok(own.clone());
        }
        let rows = own.shape()[0] / parts;
        let gathered = (0..parts).map(|part| comm.all_gather(&own.slice(0, part * rows, (part + 1) * rows)?));
        let gathered = gathered.collect::<Result<Vec<_>>>()?;
        ops::concat(&gathered.iter().collect::<Vec<_>>(), 0)
    }

    fn check(&self, rows: &Array) -> Result<()> {
        let [m, _] = rows.dims()?;
        if self.pairs.parts == 0 || !m.is_multiple_of(self.pairs.parts) {
            return Err(Error::new(ErrorKind::Shape, self.spec.name, format!("{m} rows"))
                .expected(format!("{} parts of equal length", self.pairs.parts)));
        }
        let comm = &self.pairs.comm;
        if self.form != Form::Both || comm.size() == 1 {
            return Ok(());
        }
        let here = comm.rank() * m..(comm.rank() + 1) * m;
        let are_own = |columns: &Array| Ok(columns.to_vec::<i64>()?.into_iter().eq(here.clone().map(|row| row as i64)));
        let are_same_transposed = match &self.pairs.excluded {
            Excluded::None => true,
            Excluded::Own(columns) => are_own(columns)?,
            Excluded::SameKey { rows, columns, kept } => {
                let keys = columns.to_vec::<i64>()?;
                keys.get(here.clone()) == Some(&rows.to_vec::<i64>()?[..]) && kept.as_ref().map_or(Ok(true), are_own)?
            }
            Excluded::Listed { .. } => false,
        };
        match are_same_transposed {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Config, self.spec.name, "excluded pairs of both sides over ranks")
                .expected("none, each row's own column, equal keys of rows and of their own columns, or one rank")),
        }
    }

    /// The sums of each side.
    fn sums(&self, rows: &Array, columns: &Array, term: PairTerm) -> Result<Vec<PairRows>> {
        let Pairs { excluded, comm, statistics, .. } = &self.pairs;
        let statistics = PairStatistics { weighted_dot: *statistics || self.learns, top: *statistics };
        let single = comm.size() == 1;
        Ok(match self.form {
            Form::Own if single => vec![ops::pair_rows_symmetric(rows, term, excluded, statistics)?],
            Form::Own => vec![ops::pair_rows(rows, &self.gathered(rows)?, term, excluded, statistics)?],
            Form::Over => vec![ops::pair_rows(rows, columns, term, excluded, statistics)?],
            Form::Both if single => ops::pair_rows_and_columns(rows, columns, term, excluded, statistics)?.into(),
            Form::Both => {
                let side =
                    |rows: &Array, columns| ops::pair_rows(rows, &self.gathered(columns)?, term, excluded, statistics);
                vec![side(rows, columns)?, side(columns, rows)?]
            }
        })
    }

    /// What the gradient of each side is weighted with: dy, over the sum where e was shifted by a constant.
    fn weights(&self, saved: &Saved, dy: &[Option<Array>], term: PairTerm, side: usize) -> Result<Weights> {
        let (value, sum) = (saved.array(self.saved_at(side))?, saved.array(self.saved_at(side) + 1)?);
        let own = match &dy[side] {
            None => Array::zeros(value.shape(), value.dtype(), value.device())?,
            Some(dy) if matches!(term, PairTerm::ExpShifted { .. }) => ops::div(dy, sum)?,
            Some(dy) => dy.contiguous()?,
        };
        let (all, all_value) = match self.form {
            Form::Over => (own.clone(), value.clone()),
            _ => (self.gathered(&own)?, self.gathered(value)?),
        };
        Ok(Weights { own, own_value: value.clone(), all, all_value })
    }

    /// Where a side's value, sum and weighted dot products begin among the saved arrays.
    fn saved_at(&self, side: usize) -> usize {
        let inputs = match (self.form, self.sum) {
            (Form::Own, Sum::Exp { .. }) => 2,
            (Form::Own, Sum::Softplus) | (_, Sum::Exp { .. }) => 3,
            (_, Sum::Softplus) => 4,
        };
        inputs + side * if self.learns { 3 } else { 2 }
    }

    /// The gradient of a number that every row's x depends on, from each row's share: a sum over samples, handed out by
    /// the first rank alone, since ranks' gradients add up.
    fn of_number(&self, per_row: &Array, shape: &[usize]) -> Result<Array> {
        let (comm, parts) = (&self.pairs.comm, self.pairs.parts);
        let images = per_row.numel() / parts;
        let per_image = ops::sum(&per_row.reshape(&[parts, images])?.transpose(0, 1)?, &[1], true)?;
        // One rank may hold any number of rows; more than one are cut at leaves.
        let sum = ops::rows_sum(&per_image, Rows::of(per_image.shape(), comm.rank() * images)?)?;
        let total = match self.form {
            Form::Over if comm.size() == 1 => sum.total()?,
            _ => comm.all_sum(sum)?.total()?.to_device(per_row.device())?,
        };
        if comm.rank() == 0 { total.reshape(shape) } else { Array::zeros(shape, total.dtype(), total.device()) }
    }
}

impl Op for PairOp {
    fn spec(&self) -> &'static OpSpec {
        self.spec
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (.., parameters) = self.operands(x);
        let rounded = |x: &&Array| self.pairs.inputs.rounded(self.spec.name, x);
        let vectors = x[..parameters].iter().map(rounded).collect::<Result<Vec<_>>>()?;
        let x: Vec<&Array> = vectors.iter().chain(x[parameters..].iter().copied()).collect();
        let (rows, columns, _) = self.operands(&x);
        self.check(rows)?;
        let sums = self.sums(rows, columns, self.term(&x[parameters..])?)?;
        x.iter().for_each(|x| save.keep(x));
        let mut outputs = Vec::new();
        for side in &sums {
            save.keep(&side.value);
            save.keep(&side.sum);
            if let Some(weighted) = side.weighted_dot.as_ref().filter(|_| self.learns) {
                save.keep(weighted);
            }
            outputs.push(side.value.clone());
        }
        for side in sums.into_iter().filter(|_| self.pairs.statistics) {
            for statistic in [side.top, side.weighted_dot].into_iter().flatten().zip([None, Some(side.sum)]) {
                save.untracked_output(outputs.len());
                outputs.push(match statistic {
                    (weighted, Some(sum)) if self.sum != Sum::Softplus => mean_dot(&weighted, &sum)?,
                    (statistic, _) => statistic,
                });
            }
        }
        Ok(outputs)
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let inputs = (0..want.len()).map(|i| saved.array(i)).collect::<Result<Vec<_>>>()?;
        let (rows, columns, parameters) = self.operands(&inputs);
        let term = self.term(&inputs[parameters..])?;
        let Pairs { excluded, comm, .. } = &self.pairs;
        let single = comm.size() == 1;
        let sides = (0..self.sides()).map(|side| self.weights(saved, dy, term, side)).collect::<Result<Vec<_>>>()?;

        let mut gradients: Vec<Option<Cotangent>> = vec![None; want.len()];
        match self.form {
            Form::Own if !want[0] => {}
            Form::Own if single => {
                gradients[0] = Some(ops::pair_rows_symmetric_grad(rows, term, excluded, sides[0].row())?.into());
            }
            Form::Own => {
                let (row, column) = (Some(sides[0].row()), Some(sides[0].column()));
                let all = self.gathered(rows)?;
                gradients[0] = Some(ops::pair_rows_grad(rows, &all, term, excluded, row, column)?.into());
            }
            Form::Over if want[1] => {
                if !single {
                    return Err(Error::new(ErrorKind::Numerics, self.spec.name, "tracked columns that ranks share")
                        .expected("constants, such as a queue")
                        .hint("columns spread over ranks take the two-sided form"));
                }
                let row = Some(sides[0].row());
                let [dq, dk] = ops::pair_rows_and_columns_grad(rows, columns, term, excluded, row, None)?;
                (gradients[0], gradients[1]) = (Some(dq.into()), Some(dk.into()));
            }
            Form::Over => {
                let row = Some(sides[0].row());
                gradients[0] = wanted(want, 0, || ops::pair_rows_grad(rows, columns, term, excluded, row, None))?;
            }
            Form::Both if single => {
                let (row, column) = (Some(sides[0].row()), Some(sides[1].row()));
                let [dq, dk] = ops::pair_rows_and_columns_grad(rows, columns, term, excluded, row, column)?;
                (gradients[0], gradients[1]) = (Some(dq.into()), Some(dk.into()));
            }
            Form::Both => {
                let side = |rows: &Array, columns, row: PairSide<'_>, column| {
                    let all = self.gathered(columns)?;
                    ops::pair_rows_grad(rows, &all, term, excluded, Some(row), Some(column)).map(Cotangent::from)
                };
                gradients[0] = Some(side(rows, columns, sides[0].row(), sides[1].column())?);
                gradients[1] = Some(side(columns, rows, sides[1].row(), sides[0].column())?);
            }
        }
        for i in (parameters..want.len()).filter(|i| want[*i]) {
            let mut total: Option<Array> = None;
            for (side, dy) in dy.iter().enumerate().take(self.sides()) {
                let Some(dy) = dy else { continue };
                let at = self.saved_at(side);
                let slope = match (i == parameters, self.sum) {
                    (true, Sum::Exp { .. }) => mean_dot(saved.array(at + 2)?, saved.array(at + 1)?)?,
                    (true, Sum::Softplus) => saved.array(at + 2)?.clone(),
                    (false, _) => saved.array(at + 1)?.clone(),
                };
                let part = self.of_number(&ops::mul(dy, &slope)?, inputs[i].shape())?;
                total = Some(match total {
                    None => part,
                    Some(total) => ops::add_assign(total, &part)?,
                });
            }
            gradients[i] = total.map(Cotangent::from);
        }
        Ok(gradients)
    }
}

impl PairOp {
    /// Applies it to rows, columns unless they are the rows, and parameters: the sums of each side.
    #[track_caller]
    pub(super) fn apply(mut self, operands: &[&Tensor], parameters: &[&Tensor]) -> Result<Vec<PairSums>> {
        self.learns = parameters.iter().any(|x| x.is_tracked());
        let (sides, statistics) = (self.sides(), self.pairs.statistics);
        let mut outputs = apply(self, &[operands, parameters].concat())?.into_iter();
        let values: Vec<Tensor> = outputs.by_ref().take(sides).collect();
        let mut statistic = || if statistics { outputs.next().map(|x| x.array().clone()) } else { None };
        Ok(values.into_iter().map(|value| PairSums { value, top: statistic(), mean_dot: statistic() }).collect())
    }

    /// Cases of every form: shapes, exclusions, a scale (and bias) that learns.
    pub(super) fn case(spec: &'static OpSpec, g: &mut Gen, softplus: bool) -> Result<Case> {
        let form = g.pick(&[Form::Own, Form::Over, Form::Both]);
        // Enough of each that no row loses all its columns.
        let (m, n, d) = (g.pick(&[3, 17, 35]), g.pick(&[4, 18]), g.dim());
        let device = g.device().clone();
        let keys = |len: usize| Array::from_slice(&(0..len as i64).map(|i| i % 5).collect::<Vec<_>>(), &[len], &device);
        let excluded = match g.below(3) {
            0 => Excluded::None,
            1 => Excluded::Own(ops::arange(m, &device)?),
            _ => {
                Excluded::SameKey { rows: keys(m)?, columns: keys(if form == Form::Own { m } else { n })?, kept: None }
            }
        };
        let sum = if softplus { Sum::Softplus } else { Sum::Exp { bound: g.pick(&[None, Some(8.0)]) } };
        let pairs = Pairs { excluded, ..Pairs::default() };
        let mut inputs = vec![g.array(&[m, d], Domain::Normal)?];
        if form != Form::Own {
            inputs.push(g.array(&[n, d], Domain::Normal)?);
        }
        inputs.push(g.array(&[], Domain::Range(0.3, 1.5))?);
        if softplus {
            inputs.push(g.array(&[], Domain::Normal)?);
        }
        Ok(Case::new(PairOp { spec, sum, form, pairs, learns: true }, inputs))
    }
}
