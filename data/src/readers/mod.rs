//! Data sets on disk, each in the layout in which its authors publish it.
//!
//! - `cifar`: CIFAR-10 and CIFAR-100, binary version
//! - `stl10`: STL-10, binary version
//! - `idx`: MNIST-style IDX files
//! - `folder`: JPEG and PNG files, one sub-folder a class
//! - `decode`: JPEG and PNG bytes to pixels
//! - `records`: what the formats of fixed-size records share

mod cifar;
mod decode;
mod folder;
mod idx;
mod records;
mod stl10;

pub use cifar::Cifar;
pub use decode::{decode, encode_png};
pub use folder::{Folder, HOLD_OUT};
pub use idx::Idx;
pub use stl10::Stl10;
