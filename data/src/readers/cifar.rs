//! CIFAR-10 and CIFAR-100, binary version (Krizhevsky 2009): <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! A record is one label byte (CIFAR-100: coarse, then fine), then 1,024 bytes each of red, green and blue, row by row.

use super::records::{Records, checksum, class_names, interleave, locate};
use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use crate::image::Bitmap;
use selfsame_engine::Result;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE * 3;

const CIFAR10_CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// CIFAR-10 or CIFAR-100 on disk.
#[derive(Debug)]
pub struct Cifar {
    name: &'static str,
    dir: PathBuf,
    split: Split,
    files: Vec<Records>,
    labels: usize,
    classes: Vec<String>,
}

impl Cifar {
    /// CIFAR-10 in `dir` or its `cifar-10-batches-bin`: `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`.
    ///
    /// An error when a file is missing, holds a part of an image, or a label is out of range.
    pub fn open10(dir: &Path, split: Split) -> Result<Cifar> {
        let names: Vec<String> = match split {
            Split::Test => vec!["test_batch.bin".into()],
            Split::Train | Split::Unlabelled => (1..=5).map(|k| format!("data_batch_{k}.bin")).collect(),
        };
        let home = locate(dir, "cifar-10-batches-bin", &names[0])?;
        let classes = class_names(&home.join("batches.meta.txt"), 10)?;
        let classes = classes.unwrap_or_else(|| CIFAR10_CLASSES.map(String::from).to_vec());
        Cifar::open("cifar10", dir, &home, &names, 1, classes, split)
    }

    /// CIFAR-100 with its fine labels in `dir` or its `cifar-100-binary`: `train.bin` and `test.bin`.
    ///
    /// Errors as for [`Cifar::open10`]. Class names come from `fine_label_names.txt`, else they are numbers.
    pub fn open100(dir: &Path, split: Split) -> Result<Cifar> {
        let name = if split == Split::Test { "test.bin" } else { "train.bin" };
        let home = locate(dir, "cifar-100-binary", name)?;
        let classes = class_names(&home.join("fine_label_names.txt"), 100)?;
        let classes = classes.unwrap_or_else(|| (0..100).map(|k| k.to_string()).collect());
        Cifar::open("cifar100", dir, &home, &[name.into()], 2, classes, split)
    }

    fn open(
        name: &'static str,
        dir: &Path,
        home: &Path,
        files: &[String],
        labels: usize,
        classes: Vec<String>,
        split: Split,
    ) -> Result<Cifar> {
        let files: Result<Vec<Records>> =
            files.iter().map(|file| Records::open(&home.join(file), labels + PIXELS)).collect();
        let cifar = Cifar { name, dir: dir.to_path_buf(), split, files: files?, labels, classes };
        for file in &cifar.files {
            for index in 0..file.len() {
                let label = file.get(index)[labels - 1];
                if usize::from(label) >= cifar.classes.len() {
                    return Err(file
                        .file
                        .corrupt(format!("label {label} of image {index}"))
                        .expected(format!("a label below {}", cifar.classes.len())));
                }
            }
        }
        Ok(cifar)
    }

    fn record(&self, mut index: usize) -> Result<&[u8]> {
        check_index(self.name, index, self.len())?;
        for file in &self.files {
            if index < file.len() {
                return Ok(file.get(index));
            }
            index -= file.len();
        }
        unreachable!("the index is below the sum of the files' lengths")
    }
}

impl Dataset for Cifar {
    fn len(&self) -> usize {
        self.files.iter().map(Records::len).sum()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (labels, planes) = self.record(index)?.split_at(self.labels);
        let image = Bitmap::new(SIDE, SIDE, 3, interleave(planes))?;
        Ok(Sample { image, label: Some(u32::from(labels[self.labels - 1])) })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: self.name.into(),
            spec: format!("{}:{}", self.name, self.dir.display()),
            split: self.split,
            images: self.len(),
            size: Some((SIDE, SIDE)),
            channels: 3,
            classes: self.classes.clone(),
            checksum: checksum(self.files.iter().map(|records| &records.file)),
        }
    }
}
