//! IDX files as of MNIST (LeCun, Cortes, Burges), Fashion-MNIST, KMNIST, EMNIST.
//!
//! Big-endian header: two zero bytes, a type byte (8: unsigned bytes), the number of axes, one u32 per axis; then the
//! values. Images have axes (image, row, column) or (image, row, column, 3); labels have one axis.

use super::records::{Records, checksum};
use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use crate::image::{Bitmap, check_shape};
use crate::mapped::MappedFile;
use selfsame_engine::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// A data set of IDX files.
#[derive(Debug)]
pub struct Idx {
    dir: PathBuf,
    split: Split,
    images: Records,
    labels: Records,
    height: usize,
    width: usize,
    channels: usize,
    classes: Vec<String>,
}

impl Idx {
    /// The data set in `dir`: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or the same with `t10k`
    /// (also written with a dot before `idx`). Classes are named by their number.
    ///
    /// An error when a file is missing or packed, its header is wrong, or its length is not what the header says.
    pub fn open(dir: &Path, split: Split) -> Result<Idx> {
        let part = if split == Split::Test { "t10k" } else { "train" };
        let (axes, images) = open_idx(&locate(dir, part, "images", &["idx3", "idx4"])?)?;
        let (height, width, channels) = match axes[..] {
            [_, height, width] => (height, width, 1),
            [_, height, width, 3] => (height, width, 3),
            _ => {
                return Err(images
                    .file
                    .corrupt(format!("axes {axes:?}"))
                    .expected("(image, row, column) or (image, row, column, 3)"));
            }
        };
        let (label_axes, labels) = open_idx(&locate(dir, part, "labels", &["idx1"])?)?;
        if label_axes != [images.len()] {
            return Err(labels
                .file
                .corrupt(format!("axes {label_axes:?}"))
                .expected(format!("[{}], one label for each image", images.len())));
        }
        let most = (0..labels.len()).map(|index| labels.get(index)[0]).max().unwrap_or(0);
        let classes = (0..=most).map(|label| label.to_string()).collect();
        Ok(Idx { dir: dir.to_path_buf(), split, images, labels, height, width, channels, classes })
    }
}

/// The file of one part and role, under any of its customary names.
fn locate(dir: &Path, part: &str, role: &str, kinds: &[&str]) -> Result<PathBuf> {
    let names: Vec<String> = kinds
        .iter()
        .flat_map(|kind| [format!("{part}-{role}-{kind}-ubyte"), format!("{part}-{role}.{kind}-ubyte")])
        .collect();
    if let Some(name) = names.iter().find(|name| dir.join(name).is_file()) {
        return Ok(dir.join(name));
    }
    let error = Error::new(ErrorKind::Io, dir.display().to_string(), format!("no file {}", names[0]));
    let packed = names.iter().map(|name| format!("{name}.gz")).find(|name| dir.join(name).is_file());
    Err(match packed {
        Some(packed) => error.hint(format!("unpack {packed} with gunzip")),
        None => error.expected(names.join(" or ")),
    })
}

/// Axes and records (one per entry of the first axis) of an IDX file of unsigned bytes.
fn open_idx(path: &Path) -> Result<(Vec<usize>, Records)> {
    let file = MappedFile::open(path)?;
    let axes = parse_header(file.bytes())
        .map_err(|got| file.corrupt(got).expected("an IDX file of unsigned bytes (first bytes 0, 0, 8, axes)"))?;
    let (skip, len) = (4 + 4 * axes.len(), axes[0]);
    if let [_, height, width, ..] = axes[..] {
        check_shape(height, width, 1).map_err(|error| file.corrupt(error.sentence()))?;
    }
    if len == 0 {
        return Err(file.corrupt("no entries").expected("at least one"));
    }
    // At most MAX_PIXELS times a channel axis, which `open` restricts to 3: no overflow on 64 bits, checked elsewhere.
    let record = axes[1..].iter().try_fold(1usize, |product, &axis| product.checked_mul(axis));
    let record = record.ok_or_else(|| file.corrupt(format!("axes {axes:?}")))?;
    Ok((axes, Records::with_header(file, skip, record, len)?))
}

/// The axes that a header announces, or what is wrong with it.
fn parse_header(bytes: &[u8]) -> std::result::Result<Vec<usize>, String> {
    let &[a, b, kind, rank, ref rest @ ..] = bytes else {
        return Err(format!("{} bytes", bytes.len()));
    };
    if (a, b, kind) != (0, 0, 8) || !(1..=4).contains(&rank) {
        return Err(format!("first bytes {a}, {b}, {kind}, {rank}"));
    }
    let (axes, _) = rest.as_chunks::<4>();
    if axes.len() < usize::from(rank) {
        return Err(format!("{} bytes, with a header of {}", bytes.len(), 4 + 4 * usize::from(rank)));
    }
    Ok(axes[..usize::from(rank)].iter().map(|&axis| u32::from_be_bytes(axis) as usize).collect())
}

impl Dataset for Idx {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        check_index("idx", index, self.len())?;
        let image = Bitmap::new(self.height, self.width, self.channels, self.images.get(index).to_vec())?;
        Ok(Sample { image, label: Some(u32::from(self.labels.get(index)[0])) })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: "idx".into(),
            spec: format!("idx:{}", self.dir.display()),
            split: self.split,
            images: self.len(),
            size: Some((self.height, self.width)),
            channels: self.channels,
            classes: self.classes.clone(),
            checksum: checksum([&self.images.file, &self.labels.file]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_read_as_published() {
        assert_eq!(parse_header(&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 1, 0]), Ok(vec![2, 28, 256]));
        assert!(parse_header(&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 1]).is_err());
        assert!(parse_header(&[0x1f, 0x8b, 8, 0]).is_err());
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(axes) = parse_header(&bytes) {
                prop_assert!((1..=4).contains(&axes.len()) && bytes.len() >= 4 + 4 * axes.len());
            }
        }
    }
}
