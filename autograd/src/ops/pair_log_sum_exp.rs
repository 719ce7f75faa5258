//! y_i = ln Σ_j e^(s q_i·k_j) over the pairs that take part, without the matrix of pairs.  Backward: with p_ij the
//! softmax of row i, dq_i = s Σ_j dy_i p_ij k_j, dk_j = s Σ_i dy_i p_ij q_i, ds = Σ_i dy_i Σ_j p_ij q_i·k_j.

use super::pairs::{Form, PairOp, PairSums, Pairs, Sum};
use super::prelude::*;

/// See [`Tensor::pair_log_sum_exp`].
pub(super) static PAIR_LOG_SUM_EXP: OpSpec =
    OpSpec { name: "pair_log_sum_exp", gradient: Gradient::Vjp, cases: |g| PairOp::case(&PAIR_LOG_SUM_EXP, g, false) };

fn op(form: Form, bound: Option<f64>, pairs: &Pairs) -> PairOp {
    PairOp { spec: &PAIR_LOG_SUM_EXP, sum: Sum::Exp { bound }, form, pairs: pairs.clone(), learns: false }
}

impl Tensor {
    /// ln Σ_j e^(scale z_i·z_j) for every row i of `self` `[m, d]`, over the rows of all ranks. A row is among its own
    /// columns unless it is excluded. `scale` is a scalar, 1 / temperature, and may be tracked.
    ///
    /// `bound` is the largest |z_i·z_j| that can occur, 1 for unit rows: where e^(-2 scale bound) is no underflow, all
    /// exponentials are shifted by scale·bound, which costs one exponential per pair instead of two.
    ///
    /// # Errors
    /// `Shape` when shapes or [`Pairs::parts`] do not fit; `Config` for a scale that is not positive or exclusions that
    /// are not symmetric; `DType` unless f32 or f64; as for [`Comm::exchange`](selfsame_engine::Comm::exchange).
    #[track_caller]
    pub fn pair_log_sum_exp(&self, scale: &Tensor, bound: Option<f64>, pairs: &Pairs) -> Result<PairSums> {
        let mut sums = op(Form::Own, bound, pairs).apply(&[self], &[scale])?;
        Ok(sums.swap_remove(0))
    }

    /// ln Σ_j e^(scale q_i·k_j) for every row q_i of `self` `[m, d]` over the rows k_j of `columns` `[n, d]`, which
    /// every rank holds whole: a queue, a memory bank. See [`Tensor::pair_log_sum_exp`].
    ///
    /// # Errors
    /// As for [`Tensor::pair_log_sum_exp`]; in backward `Numerics` when `columns` are tracked on several ranks.
    #[track_caller]
    pub fn pair_log_sum_exp_over(
        &self,
        columns: &Tensor,
        scale: &Tensor,
        bound: Option<f64>,
        pairs: &Pairs,
    ) -> Result<PairSums> {
        let mut sums = op(Form::Over, bound, pairs).apply(&[self, columns], &[scale])?;
        Ok(sums.swap_remove(0))
    }

    /// Both sides of one matrix of pairs: ln Σ_j e^(scale q_i·k_j) for the rows of `self` `[m, d]`, and ln Σ_i of the
    /// same for the rows of `columns` `[n, d]`, each over the other's rows of all ranks. See
    /// [`Tensor::pair_log_sum_exp`].
    ///
    /// # Errors
    /// As for [`Tensor::pair_log_sum_exp`]; `Config` on several ranks for exclusions other than of each row's own column
    /// or of equal keys, where row i and column i have one key and none but each row's own column is kept.
    #[track_caller]
    pub fn pair_log_sum_exp_both(
        &self,
        columns: &Tensor,
        scale: &Tensor,
        bound: Option<f64>,
        pairs: &Pairs,
    ) -> Result<[PairSums; 2]> {
        let mut sums = op(Form::Both, bound, pairs).apply(&[self, columns], &[scale])?;
        let columns = sums.swap_remove(1);
        Ok([sums.swap_remove(0), columns])
    }
}
