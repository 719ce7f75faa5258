//! The differentiable operations, one file each: formula, forward, backward, gradient-check cases, and the method on
//! [`Tensor`](crate::Tensor).
//!
//! To add one, write its file and name it in the two lists below. Being in [`OPS`] puts it into the gradient check and
//! the mutation test; a test names a file that nobody listed. What several operations are made of, `extremum`,
//! `pairs` and `row_norm`, stands in files of its own.

mod abs;
mod add;
mod add_bias;
mod affine;
mod all_gather;
mod argmax;
mod attention;
mod avg_pool2d;
mod batch_norm;
mod batch_norm_add_relu;
mod batch_norm_relu;
mod broadcast_to;
mod clamp;
mod concat;
mod conv2d;
mod cos;
mod cross_entropy;
mod div;
mod dropout;
mod erf;
mod exp;
mod extremum;
mod gather;
mod gelu;
mod global_avg_pool;
mod group_norm;
mod index_select;
mod interpolate;
mod l2_normalize;
mod layer_norm;
mod linear;
mod log;
mod log1p;
mod log_softmax;
mod log_sum_exp;
mod matmul;
mod max;
mod max_pool2d;
mod maximum;
mod mean;
mod minimum;
mod mul;
mod neg;
mod pad;
mod pair_log_sum_exp;
mod pair_softplus_sum;
mod pairs;
mod partner_dots;
mod permute;
mod pow_scalar;
mod relu;
mod reshape;
mod row_norm;
mod rsqrt;
mod scatter_add;
mod select;
mod sigmoid;
mod sin;
mod slice;
mod softmax;
mod softplus;
mod sort;
mod sqrt;
mod square;
mod stack;
mod sub;
mod sum;
mod tanh;
mod topk;

use crate::{Cotangent, OpSpec};
use selfsame_engine::Result;

pub use batch_norm::{BatchMoments, BatchNorm, BatchNormed, BatchStats};
pub use dropout::DropoutKey;
pub use pairs::{Excluded, Inputs, PairSums, Pairs};

/// What an operation's file needs.
mod prelude {
    pub(super) use super::wanted;
    pub(super) use crate::op::only;
    pub(super) use crate::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply, apply1};
    pub(super) use selfsame_engine::ops::{self, Binary, Compare, Unary};
    pub(super) use selfsame_engine::{Array, Error, ErrorKind, Result, Rows};
}

/// Every operation.
pub const OPS: &[&OpSpec] = &[
    &abs::ABS,
    &add::ADD,
    &add_bias::ADD_BIAS,
    &affine::AFFINE,
    &all_gather::ALL_GATHER,
    &argmax::ARGMAX,
    &attention::ATTENTION,
    &avg_pool2d::AVG_POOL2D,
    &batch_norm::BATCH_NORM,
    &batch_norm_add_relu::BATCH_NORM_ADD_RELU,
    &batch_norm_relu::BATCH_NORM_RELU,
    &broadcast_to::BROADCAST_TO,
    &clamp::CLAMP,
    &concat::CONCAT,
    &conv2d::CONV2D,
    &cos::COS,
    &cross_entropy::CROSS_ENTROPY,
    &div::DIV,
    &dropout::DROPOUT,
    &erf::ERF,
    &exp::EXP,
    &gather::GATHER,
    &gelu::GELU,
    &global_avg_pool::GLOBAL_AVG_POOL,
    &group_norm::GROUP_NORM,
    &index_select::INDEX_SELECT,
    &interpolate::INTERPOLATE,
    &l2_normalize::L2_NORMALIZE,
    &layer_norm::LAYER_NORM,
    &linear::LINEAR,
    &log::LOG,
    &log1p::LOG1P,
    &log_softmax::LOG_SOFTMAX,
    &log_sum_exp::LOG_SUM_EXP,
    &matmul::MATMUL,
    &max::MAX,
    &max_pool2d::MAX_POOL2D,
    &maximum::MAXIMUM,
    &mean::MEAN,
    &minimum::MINIMUM,
    &mul::MUL,
    &neg::NEG,
    &pad::PAD,
    &pair_log_sum_exp::PAIR_LOG_SUM_EXP,
    &pair_softplus_sum::PAIR_SOFTPLUS_SUM,
    &partner_dots::PARTNER_DOTS,
    &permute::PERMUTE,
    &pow_scalar::POW_SCALAR,
    &relu::RELU,
    &reshape::RESHAPE,
    &rsqrt::RSQRT,
    &scatter_add::SCATTER_ADD,
    &select::SELECT,
    &sigmoid::SIGMOID,
    &sin::SIN,
    &slice::SLICE,
    &softmax::SOFTMAX,
    &softplus::SOFTPLUS,
    &sort::SORT,
    &sqrt::SQRT,
    &square::SQUARE,
    &stack::STACK,
    &sub::SUB,
    &sum::SUM,
    &tanh::TANH,
    &topk::TOPK,
];

/// The gradient of input `i`, computed only when it is asked for.
fn wanted<C: Into<Cotangent>>(
    want: &[bool],
    i: usize,
    gradient: impl FnOnce() -> Result<C>,
) -> Result<Option<Cotangent>> {
    match want.get(i) {
        Some(true) => Ok(Some(gradient()?.into())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::OPS;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops");
        let listed: BTreeSet<String> = OPS.iter().map(|spec| format!("{}.rs", spec.name)).collect();
        assert_eq!(listed.len(), OPS.len(), "two operations share a name");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let shared = ["mod.rs", "extremum.rs", "pairs.rs", "row_norm.rs"].contains(&name.as_str());
            assert!(shared || listed.contains(&name), "ops/{name} holds no operation of that name in OPS");
        }
    }
}
