//! STL-10, binary version (Coates, Lee, Ng 2011): <https://cs.stanford.edu/~acoates/stl10/>.
//!
//! Images are 96 x 96: 9,216 bytes each of red, green and blue, column by column. Labels are bytes from 1 to 10.

use super::records::{Records, checksum, class_names, locate};
use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use crate::image::Bitmap;
use selfsame_engine::Result;
use std::path::{Path, PathBuf};

const SIDE: usize = 96;
const PLANE: usize = SIDE * SIDE;

const CLASSES: [&str; 10] = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// STL-10 on disk.
#[derive(Debug)]
pub struct Stl10 {
    dir: PathBuf,
    split: Split,
    images: Records,
    /// Absent for the unlabelled images.
    labels: Option<Records>,
    classes: Vec<String>,
}

impl Stl10 {
    /// STL-10 in `dir` or its `stl10_binary`: `train_X.bin` and `train_y.bin`, `test_X.bin` and `test_y.bin`, or
    /// `unlabeled_X.bin`.
    ///
    /// An error when a file is missing, holds a part of an image, counts differ, or a label is out of range.
    pub fn open(dir: &Path, split: Split) -> Result<Stl10> {
        let part = match split {
            Split::Train => "train",
            Split::Test => "test",
            Split::Unlabelled => "unlabeled",
        };
        let home = locate(dir, "stl10_binary", &format!("{part}_X.bin"))?;
        let images = Records::open(&home.join(format!("{part}_X.bin")), 3 * PLANE)?;
        let dir = dir.to_path_buf();
        if split == Split::Unlabelled {
            return Ok(Stl10 { dir, split, images, labels: None, classes: Vec::new() });
        }
        let labels = Records::open(&home.join(format!("{part}_y.bin")), 1)?;
        if labels.len() != images.len() {
            return Err(labels
                .file
                .corrupt(format!("{} labels", labels.len()))
                .expected(format!("{} bytes, one for each image", images.len())));
        }
        let out_of_range = labels.file.bytes().iter().position(|label| !(1..=10).contains(label));
        if let Some(index) = out_of_range {
            let label = labels.get(index)[0];
            return Err(labels.file.corrupt(format!("label {label} of image {index}")).expected("a label of 1 to 10"));
        }
        let classes = class_names(&home.join("class_names.txt"), 10)?;
        let classes = classes.unwrap_or_else(|| CLASSES.map(String::from).to_vec());
        Ok(Stl10 { dir, split, images, labels: Some(labels), classes })
    }
}

impl Dataset for Stl10 {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        check_index("stl10", index, self.len())?;
        let planes = self.images.get(index);
        let mut bytes = vec![0; 3 * PLANE];
        for (position, pixel) in bytes.chunks_exact_mut(3).enumerate() {
            let (row, column) = (position / SIDE, position % SIDE);
            for (channel, byte) in pixel.iter_mut().enumerate() {
                *byte = planes[channel * PLANE + column * SIDE + row];
            }
        }
        let label = self.labels.as_ref().map(|labels| u32::from(labels.get(index)[0]) - 1);
        Ok(Sample { image: Bitmap::new(SIDE, SIDE, 3, bytes)?, label })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: "stl10".into(),
            spec: format!("stl10:{}", self.dir.display()),
            split: self.split,
            images: self.len(),
            size: Some((SIDE, SIDE)),
            channels: 3,
            classes: self.classes.clone(),
            checksum: checksum([&self.images].into_iter().chain(&self.labels).map(|records| &records.file)),
        }
    }
}
