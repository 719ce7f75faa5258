//! Data sets, augmentations and loaders. Knows nothing of models, arrays or gradients: a batch is plain `Vec<f32>`.
//!
//! - [`open`]: a data set from a specification such as `scenes:size=32` or `cifar10:DIR`
//! - [`scenes`]: the built-in procedural data set
//! - [`readers`]: CIFAR, STL-10, IDX, folders of JPEG and PNG images
//! - [`shards`]: any data set packed into memory-mapped files
//! - [`augment`]: random crops, colour jitter, blur … and the chains that methods use
//! - [`Loader`]: batches of augmented views, prepared in the background
//!
//! Everything random is keyed by (seed, purpose, epoch, index, view), so that order and pixels never depend on the
//! number of workers.

pub mod augment;
mod dataset;
mod image;
mod loader;
mod mapped;
mod random;
pub mod readers;
pub mod scenes;
pub mod shards;
mod spec;

pub use augment::Augment;
pub use dataset::{Dataset, DatasetInfo, Sample, Split};
pub use image::{Bitmap, Image, MAX_PIXELS, MAX_SIDE};
pub use loader::{Batch, Loader, LoaderConfig, View};
pub use spec::{KINDS, open};
