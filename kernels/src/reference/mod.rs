//! The executable definition: every primitive as a slow scalar loop, on plain row-major slices.
//!
//! Written as plainly as possible, one output element after the other, so that the order of operations can be read
//! off. Fast code is tested for equal bits with these. They index without checking shapes first: a slice that is too
//! short panics.

mod chain;
mod contraction;
mod convolution;
mod pairs;
mod rows;
mod samples;
mod sinkhorn;

pub use chain::Chain;
pub use contraction::{contract, contract_bf16};
pub use convolution::{Conv2d, conv2d, conv2d_input_grad, conv2d_weight_grad};
pub use pairs::{PairRow, PairTerm, PairWeights, pair_rows, pair_rows_bf16, pair_rows_grad, pair_rows_grad_bf16};
pub use rows::{
    LayerNorm, l2_normalize, lane_dot, lane_max, lane_min, lane_sum, lane_sum_exp, lane_sum_sq, lane_sum_sq_centred,
    layer_norm, log_softmax, log_sum_exp, norm_sq, softmax,
};
pub use samples::{Moments, Samples, batch_stats, linear_weight_grad, rows_dot, rows_sum};
pub use sinkhorn::{Sinkhorn, column_sums, column_sums_exp, join_sums_exp, sinkhorn_log, sinkhorn_scaling};
