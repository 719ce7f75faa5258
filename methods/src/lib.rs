//! Published methods of self-supervised vision, the trainer, the evaluation protocols, the run directory.
//!
//! - [`zoo`]: one file per method, listed in [`METHODS`]; [`method`]: what a method is.
//! - [`config`] and [`settings`]: configuration with the source of every value.
//! - [`parts`]: what methods are made of; [`sweep`]: a look at the whole training set between epochs.
//! - [`trainer`]: one step, and the state that checkpoints hold; [`session`]: a whole run; [`finish`]: its end.
//! - [`eval`]: features, k nearest neighbours, linear probe, signs of collapse; [`measure`]: all of them on one run.
//! - [`golden`]: hashes that prove a machine.
//! - [`profile`]: steps of a method under the profiler, and the memory of a batch before it runs.
//! - [`replay`]: a recorded run again, and where it first differs.
//! - [`run`]: the files of a run directory; [`summary`]: what its report shows.

pub mod config;
pub mod eval;
pub mod finish;
pub mod golden;
mod hash;
pub mod measure;
pub mod method;
pub mod observer;
pub mod parts;
pub mod profile;
mod record;
pub mod replay;
pub mod run;
pub mod session;
pub mod settings;
pub mod summary;
pub mod sweep;
pub mod trainer;
pub mod zoo;

pub use config::Config;
pub use finish::{Finished, train_and_report};
pub use hash::weights_hash;
pub use method::{Embeddings, Method, MethodSpec, Step, Views};
pub use observer::{Observer, Silent};
pub use session::{Pretrain, Run, pretrain};
pub use sweep::Sweep;
pub use zoo::METHODS;
