//! Objectives of self-supervised learning as pure functions of tensors.
//!
//! Each loss is one file: the function that methods call, and a [`LossSpec`] that says what the command line, the
//! gradient check and the training log need to know of it. [`LOSSES`] lists them. Across ranks a loss calls
//! [`Tensor::all_gather`](selfsame_autograd::Tensor::all_gather), [`sample_totals`], [`sample_products`] and
//! [`sample_copies`]; all have a gradient. What losses keep between steps is in [`state`].

mod all_dots;
pub mod barlow_twins;
mod batch;
pub mod bregman;
pub mod byol;
pub mod cacr;
pub mod cacr_momentum;
pub mod carl;
mod check;
pub mod clip;
pub mod cluster_cross_entropy;
pub mod cluster_distillation;
pub mod dino;
mod evaluate;
pub mod false_negative_cancellation;
pub mod false_negatives;
pub mod hard_negatives;
pub mod iic;
pub mod info_nce;
pub mod instance_recognition;
pub mod local_aggregation;
pub mod macl;
pub mod mira;
pub mod mochi;
pub mod ntxent;
pub mod proto_nce;
pub mod relic;
mod sample_products;
mod sample_totals;
pub mod scan;
pub mod self_label;
pub mod siglip;
mod softmax_terms;
mod spec;
pub mod state;
pub mod supcon;
pub mod swapped_prediction;
mod temperature;
mod usage;
mod views;
pub mod xmoco;

pub use barlow_twins::{BarlowTwins, barlow_twins, barlow_twins_ranks, cross_correlation};
pub use batch::Coefficient;
pub use bregman::{Bregman, BregmanMargin, bregman, bregman_margin, bregman_ranks};
pub use byol::{byol, byol_ranks, cosine_regression};
pub use cacr::{Cacr, CacrTerms, cacr, cacr_ranks};
pub use cacr_momentum::{CacrMomentum, cacr_momentum, cacr_momentum_ranks};
pub use carl::{Carl, CarlLoss, carl, carl_ranks};
pub use check::{check, check_all};
pub use clip::{Clip, clip, clip_masked, clip_ranks};
pub use cluster_cross_entropy::{IGNORED, cluster_cross_entropy_ranks};
pub use cluster_distillation::{ClusterDistillation, cluster_distillation_ranks};
pub use dino::centred_targets;
pub use evaluate::evaluate;
pub use false_negative_cancellation::{
    Cancellation, Cancelled, false_negative_cancellation, false_negative_cancellation_ranks,
};
pub use false_negatives::{FalseNegative, FalseNegatives, false_negatives, false_negatives_ranks};
pub use hard_negatives::{HardNegatives, hard_negatives, hard_negatives_ranks, hard_negatives_scaled};
pub use iic::{iic, iic_ranks};
pub use info_nce::{InfoNce, info_nce, info_nce_ranks, info_nce_scaled};
pub use instance_recognition::{InstanceRecognition, instance_recognition, instance_recognition_ranks};
pub use local_aggregation::{Aggregation, LocalAggregation, local_aggregation, local_aggregation_ranks};
pub use macl::{Macl, MaclTerms, macl, macl_queue, macl_queue_ranks, macl_ranks};
pub use mira::{Mira, informative_labels};
pub use mochi::{Mixture, Mochi, mochi, mochi_ranks};
pub use ntxent::{Contrast, Form, NtXent, nt_xent, nt_xent_masked, nt_xent_ranks, nt_xent_scaled, nt_xent_watched};
pub use proto_nce::{ProtoNce, proto_nce, proto_nce_ranks};
pub use relic::{Divergence, Relic, RelicLoss, RelicViews, relic_ranks};
pub use sample_products::sample_products;
pub use sample_totals::{sample_copies, sample_totals};
pub use scan::{Scan, ScanTerms, scan, scan_ranks};
pub use self_label::{SelfLabel, SelfLabelled, self_label, self_label_ranks};
pub use siglip::{SigLip, siglip, siglip_ranks};
pub use spec::{CrossRank, Fact, LossCase, LossSpec, NamedTensors, OptionSpec, Options, Port, Role, find};
pub use supcon::{SupCon, supcon, supcon_ranks, supcon_scaled};
pub use swapped_prediction::{Codes, balanced_codes};
pub use usage::Usage;
pub use views::{mean_entropy, swapped_cross_entropy};
pub use xmoco::{XMoco, XMocoTerms, xmoco, xmoco_ranks};

use selfsame_autograd::OpSpec;

/// All losses.
pub const LOSSES: &[&LossSpec] = &[
    &ntxent::SPEC,
    &clip::SPEC,
    &info_nce::SPEC,
    &supcon::SPEC,
    &siglip::SPEC,
    &hard_negatives::SPEC,
    &byol::SPEC,
    &swapped_prediction::SPEC,
    &barlow_twins::SPEC,
    &dino::SPEC,
    &cluster_cross_entropy::SPEC,
    &relic::SPEC,
    &carl::SPEC,
    &mira::SPEC,
    &iic::SPEC,
    &cluster_distillation::SPEC,
    &mochi::SPEC,
    &proto_nce::SPEC,
    &false_negatives::SPEC,
    &false_negative_cancellation::SPEC,
    &instance_recognition::SPEC,
    &local_aggregation::SPEC,
    &xmoco::SPEC,
    &cacr::SPEC,
    &cacr_momentum::SPEC,
    &macl::SPEC,
    &bregman::SPEC,
    &scan::SPEC,
    &self_label::SPEC,
];

/// The differentiable operations that losses add to those of `selfsame-autograd`, for the gradient check.
pub const OPS: &[&OpSpec] = &[
    &sample_totals::SAMPLE_TOTALS,
    &sample_totals::SAMPLE_COPIES,
    &sample_products::SAMPLE_PRODUCTS,
    &all_dots::ALL_DOTS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_autograd::gradcheck;

    #[test]
    fn losses_agree_with_their_oracles_and_their_gradients_with_differences() {
        for outcome in check_all(LOSSES, 24, 1).unwrap() {
            assert!(outcome.passed(), "{}", outcome.failure.unwrap());
        }
    }

    #[test]
    fn operations_agree_with_differences() {
        for outcome in gradcheck::check(OPS, 24, 1).unwrap() {
            assert!(outcome.passed(), "{}", outcome.failure.unwrap());
        }
    }

    /// Every file of this folder that declares a `LossSpec` is in the list.
    #[test]
    fn no_loss_is_left_out_of_the_list() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(source) = std::fs::read_to_string(&path) else { continue };
            if source.lines().any(|line| line.starts_with("pub static SPEC: LossSpec")) {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                assert!(LOSSES.iter().any(|spec| spec.name == stem), "{} is not in LOSSES", path.display());
            }
        }
    }
}
