//! What every data set answers: [`Dataset`], its [`Sample`]s, its [`DatasetInfo`].

use crate::image::Bitmap;
use selfsame_engine::{Error, ErrorKind, Result};

/// One picture of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The picture as stored.
    pub image: Bitmap,
    /// Index into [`Dataset::classes`]; `None` when unlabelled.
    pub label: Option<u32>,
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// The training images.
    Train,
    /// The held-out images.
    Test,
    /// The images set apart for training without labels (STL-10's 100,000). Data sets that set none apart give
    /// their training images.
    Unlabelled,
}

impl Split {
    /// `train`, `test` or `unlabelled`: names of shards and folders.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Test => "test",
            Split::Unlabelled => "unlabelled",
        }
    }
}

/// What a data set is, for manifests and `data info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Short name: `scenes`, `cifar10`, `folder` …
    pub name: String,
    /// The specification that opens it again, with every option written out.
    pub spec: String,
    /// Which part this is.
    pub split: Split,
    /// Number of images.
    pub images: usize,
    /// Height and width when all images share them.
    pub size: Option<(usize, usize)>,
    /// Channels of every image: 1 or 3.
    pub channels: usize,
    /// Class names in label order; empty when unlabelled.
    pub classes: Vec<String>,
    /// 64 bits over the content. Files read whole: over their bytes. Image folders: over names, labels and the files'
    /// bytes, which are all read for it. `scenes`: over the parameters and the version of the generator.
    pub checksum: u64,
}

/// A finite, indexable set of images. Reading is pure: the same index gives the same sample, on any thread.
pub trait Dataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The image at `index`, or an error that names the file when it cannot be read, or `index` when it is out of
    /// range.
    fn get(&self, index: usize) -> Result<Sample>;

    /// Class names in label order; empty when unlabelled.
    fn classes(&self) -> &[String];

    /// What this data set is.
    fn describe(&self) -> DatasetInfo;
}

/// An error for an index at or past `len`.
pub(crate) fn check_index(what: &str, index: usize, len: usize) -> Result<()> {
    if index < len {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, what, format!("image {index}")).expected(format!("an index below {len}")))
}
