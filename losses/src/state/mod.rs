//! What objectives keep between steps.
//!
//! State is made of parameters of [`Role::Buffer`](selfsame_autograd::Role::Buffer), or of weights, which are visited by
//! path and so saved with a run. Within a step it does not change: methods return new values, which are put in place
//! once all of the step is done.

pub mod centre;
pub mod prototypes;

pub use centre::Centre;
pub use prototypes::{Prototypes, Usage};
