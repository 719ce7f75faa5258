//! Objectives of self-supervised learning as pure functions of tensors.
//!
//! Each loss is one file: the function that methods call, and a [`LossSpec`] that says what the command line, the
//! gradient check and the training log need to know of it. [`LOSSES`] lists them. Across ranks a loss calls
//! [`Tensor::all_gather`](selfsame_autograd::Tensor::all_gather) and [`sample_totals`]; both have a gradient.

mod check;
mod evaluate;
pub mod ntxent;
mod sample_totals;
mod spec;

pub use check::{check, check_all};
pub use evaluate::evaluate;
pub use ntxent::{Form, NtXent, nt_xent, nt_xent_ranks};
pub use sample_totals::sample_totals;
pub use spec::{CrossRank, Fact, LossCase, LossSpec, NamedTensors, OptionSpec, Options, Port, find};

use selfsame_autograd::OpSpec;

/// All losses.
pub const LOSSES: &[&LossSpec] = &[&ntxent::SPEC];

/// The differentiable operations that losses add to those of `selfsame-autograd`, for the gradient check.
pub const OPS: &[&OpSpec] = &[&sample_totals::SAMPLE_TOTALS];

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
