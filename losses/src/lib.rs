//! Objectives of self-supervised learning as pure functions of tensors.
//!
//! Each loss is one file: the function that methods call, and a [`LossSpec`] that says what the command line, the
//! gradient check and the training log need to know of it. [`LOSSES`] lists them. Across ranks a loss calls
//! [`Tensor::all_gather`](selfsame_autograd::Tensor::all_gather), [`sample_totals`] and [`sample_copies`]; all have a
//! gradient.

mod batch;
mod check;
pub mod clip;
mod evaluate;
pub mod hard_negatives;
pub mod info_nce;
pub mod ntxent;
mod sample_totals;
pub mod siglip;
mod spec;
pub mod state;
pub mod supcon;

pub use batch::Coefficient;
pub use check::{check, check_all};
pub use clip::{Clip, clip, clip_ranks};
pub use evaluate::evaluate;
pub use hard_negatives::{HardNegatives, hard_negatives, hard_negatives_ranks};
pub use info_nce::{InfoNce, info_nce, info_nce_ranks};
pub use ntxent::{Contrast, Form, NtXent, nt_xent, nt_xent_masked, nt_xent_ranks, nt_xent_watched};
pub use sample_totals::{sample_copies, sample_totals};
pub use siglip::{SigLip, siglip, siglip_ranks};
pub use spec::{CrossRank, Fact, LossCase, LossSpec, NamedTensors, OptionSpec, Options, Port, Role, find};
pub use supcon::{SupCon, supcon, supcon_ranks};

use selfsame_autograd::OpSpec;

/// All losses.
pub const LOSSES: &[&LossSpec] =
    &[&ntxent::SPEC, &clip::SPEC, &info_nce::SPEC, &supcon::SPEC, &siglip::SPEC, &hard_negatives::SPEC];

/// The differentiable operations that losses add to those of `selfsame-autograd`, for the gradient check.
pub const OPS: &[&OpSpec] = &[&sample_totals::SAMPLE_TOTALS, &sample_totals::SAMPLE_COPIES];

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
