//! y_i = Σ_j softplus(s q_i·k_j + b) over the pairs that take part, without the matrix of pairs: the sigmoid loss.
//! Backward: with σ_ij the sigmoid, dq_i = s Σ_j dy_i σ_ij k_j, dk_j = s Σ_i dy_i σ_ij q_i, ds = Σ_i dy_i Σ_j σ_ij q_i·k_j,
//! db = Σ_i dy_i Σ_j σ_ij.

use super::pairs::{Form, PairOp, PairSums, Pairs, Sum};
use super::prelude::*;

/// See [`Tensor::pair_softplus_sum`].
pub(super) static PAIR_SOFTPLUS_SUM: OpSpec =
    OpSpec { name: "pair_softplus_sum", gradient: Gradient::Vjp, cases: |g| PairOp::case(&PAIR_SOFTPLUS_SUM, g, true) };

impl Tensor {
    /// Σ_j softplus(scale q_i·k_j + bias) for every row q_i of `self` `[m, d]`, over the rows k_j of `columns` `[n, d]`,
    /// of which each rank of `pairs` holds its share. `scale` and `bias` are scalars and may be tracked.
    ///
    /// # Errors
    /// As for [`Tensor::pair_log_sum_exp_both`].
    #[track_caller]
    pub fn pair_softplus_sum(
        &self,
        columns: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        pairs: &Pairs,
    ) -> Result<PairSums> {
        let op = PairOp {
            spec: &PAIR_SOFTPLUS_SUM,
            sum: Sum::Softplus,
            form: Form::Both,
            pairs: pairs.clone(),
            learns: false,
        };
        let mut sums = op.apply(&[self, columns], &[scale, bias])?;
        Ok(sums.swap_remove(0))
    }
}
