//! Packing and reading shards.

use selfsame_data::scenes::{Scenes, ScenesConfig};
use selfsame_data::shards::pack;
use selfsame_data::{Bitmap, Dataset, DatasetInfo, Sample, Split, open};
use selfsame_engine::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

fn scenes(split: Split) -> Scenes {
    Scenes::new(ScenesConfig { train: 10, test: 4, ..Default::default() }, split).unwrap()
}

fn refusal(dir: &Path) -> String {
    match open(&format!("shards:{}", dir.display()), Split::Train) {
        Ok(_) => panic!("damaged shards opened"),
        Err(error) => error.sentence(),
    }
}

/// Images of different shapes, some unlabelled; image 5 may fail.
struct Mixed {
    fails: bool,
}

impl Dataset for Mixed {
    fn len(&self) -> usize {
        6
    }

    fn get(&self, index: usize) -> Result<Sample> {
        if self.fails && index == 5 {
            return Err(Error::new(ErrorKind::Corrupt, "broken.png", "rubbish"));
        }
        let (height, width, channels) = (index + 1, 2, if index < 3 { 1 } else { 3 });
        let image = Bitmap::new(height, width, channels, vec![index as u8; height * width * channels])?;
        Ok(Sample { image, label: (index > 2).then_some(0) })
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: "mixed".into(),
            spec: "mixed".into(),
            split: Split::Train,
            images: 6,
            size: None,
            channels: 3,
            classes: vec!["only".into()],
            checksum: 1,
        }
    }
}

#[test]
fn packing_changes_no_pixel_and_no_label() {
    let dir = tempdir().unwrap();
    let files = pack(&scenes(Split::Train), dir.path(), 4).unwrap();
    assert_eq!(files.len(), 3);
    pack(&scenes(Split::Test), dir.path(), 100).unwrap();
    let spec = format!("shards:{}", dir.path().display());
    for split in [Split::Train, Split::Test] {
        let (packed, source) = (open(&spec, split).unwrap(), scenes(split));
        assert_eq!((packed.len(), packed.classes()), (source.len(), source.classes()));
        for k in 0..packed.len() {
            assert_eq!(packed.get(k).unwrap(), source.get(k).unwrap());
        }
        assert_eq!(packed.describe().size, Some((32, 32)));
    }
    assert_eq!(open(&spec, Split::Unlabelled).unwrap().len(), 10);
    assert!(
        fs::read_dir(dir.path())
            .unwrap()
            .all(|entry| { entry.unwrap().file_name().to_str().unwrap().ends_with(".shard") })
    );
}

#[test]
fn images_of_many_shapes_keep_them() {
    let dir = tempdir().unwrap();
    pack(&Mixed { fails: false }, dir.path(), 4).unwrap();
    let packed = open(&format!("shards:{}", dir.path().display()), Split::Train).unwrap();
    for k in 0..6 {
        assert_eq!(packed.get(k).unwrap(), Mixed { fails: false }.get(k).unwrap());
    }
    assert_eq!((packed.describe().size, packed.describe().channels), (None, 3));
    assert!(packed.get(6).is_err());
}

#[test]
fn a_failed_pack_leaves_nothing_behind() {
    let dir = tempdir().unwrap();
    let error = pack(&Mixed { fails: true }, dir.path(), 2).unwrap_err();
    assert!(error.sentence().contains("broken.png"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn old_shards_are_never_overwritten() {
    let dir = tempdir().unwrap();
    pack(&scenes(Split::Train), dir.path(), 4).unwrap();
    assert!(pack(&scenes(Split::Train), dir.path(), 5).unwrap_err().sentence().contains("exists already"));
    assert!(pack(&scenes(Split::Test), dir.path(), 0).is_err());
}

#[test]
fn damaged_and_missing_shards_are_named() {
    let dir = tempdir().unwrap();
    assert!(refusal(dir.path()).contains("no train-*.shard files"));
    let files: Vec<PathBuf> = pack(&scenes(Split::Train), dir.path(), 4).unwrap();
    let whole = fs::read(&files[1]).unwrap();
    for bytes in [&whole[..whole.len() - 1], &whole[..20], &[], &[&whole[..], &[0]].concat()] {
        fs::write(&files[1], bytes).unwrap();
        assert!(refusal(dir.path()).contains("train-00001-of-00003.shard"));
    }
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    fs::write(&files[1], flipped).unwrap();
    assert!(refusal(dir.path()).contains("checksum"));
    fs::remove_file(&files[1]).unwrap();
    assert!(refusal(dir.path()).contains("is a file missing?"));
    fs::write(&files[1], whole).unwrap();
    fs::remove_file(&files[2]).unwrap();
    assert!(refusal(dir.path()).contains("2 shards"));
}
