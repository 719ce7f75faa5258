//! Every reader on small files in the published layout, and on damaged ones.

use crate::jpeg::flat_blocks;
use proptest::prelude::*;
use selfsame_data::readers::{decode, encode_png};
use selfsame_data::{Bitmap, Dataset, Split, open};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::tempdir;

fn open_at(kind: &str, dir: &Path, split: Split) -> Arc<dyn Dataset> {
    open(&format!("{kind}:{}", dir.display()), split).unwrap()
}

fn refusal(kind: &str, dir: &Path, split: Split) -> String {
    match open(&format!("{kind}:{}", dir.display()), split) {
        Ok(data) => panic!("{kind} opened with {} images", data.len()),
        Err(error) => error.sentence(),
    }
}

/// A CIFAR record whose red plane counts rows, green plane columns, and blue plane is constant.
fn cifar_record(labels: &[u8], blue: u8) -> Vec<u8> {
    let mut record = labels.to_vec();
    record.extend((0..1024).map(|k| (k / 32) as u8));
    record.extend((0..1024).map(|k| (k % 32) as u8));
    record.extend([blue; 1024]);
    record
}

#[test]
fn cifar10_reads_planes_and_files_in_order() {
    let dir = tempdir().unwrap();
    for batch in 1..=5u8 {
        let records = [cifar_record(&[batch], 10 * batch), cifar_record(&[9], 10 * batch + 1)].concat();
        fs::write(dir.path().join(format!("data_batch_{batch}.bin")), records).unwrap();
    }
    fs::write(dir.path().join("test_batch.bin"), cifar_record(&[0], 99)).unwrap();
    let train = open_at("cifar10", dir.path(), Split::Train);
    assert_eq!((train.len(), train.classes().len()), (10, 10));
    let sample = train.get(6).unwrap();
    assert_eq!(sample.label, Some(4));
    let pixel = |y: usize, x: usize| &sample.image.bytes[(y * 32 + x) * 3..][..3];
    assert_eq!(pixel(3, 7), [3, 7, 40]);
    assert_eq!(train.get(7).unwrap().image.bytes[2], 41);
    assert!(train.get(10).is_err());
    assert_eq!(open_at("cifar10", dir.path(), Split::Test).get(0).unwrap().image.bytes[2], 99);
}

#[test]
fn cifar_content_decides_the_checksum() {
    let dir = tempdir().unwrap();
    let write = |blue| fs::write(dir.path().join("test_batch.bin"), cifar_record(&[1], blue)).unwrap();
    write(5);
    let first = open_at("cifar10", dir.path(), Split::Test).describe();
    assert_eq!(open_at("cifar10", dir.path(), Split::Test).describe(), first);
    write(6);
    assert_ne!(open_at("cifar10", dir.path(), Split::Test).describe().checksum, first.checksum);
}

#[test]
fn cifar100_takes_the_fine_label() {
    let dir = tempdir().unwrap();
    let inner = dir.path().join("cifar-100-binary");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("train.bin"), cifar_record(&[3, 77], 1)).unwrap();
    let names: Vec<String> = (0..100).map(|k| format!("class_{k}")).collect();
    fs::write(inner.join("fine_label_names.txt"), names.join("\n")).unwrap();
    let train = open_at("cifar100", dir.path(), Split::Train);
    assert_eq!(train.get(0).unwrap().label, Some(77));
    assert_eq!(train.classes()[77], "class_77");
}

#[test]
fn damaged_cifar_files_are_refused_with_byte_counts() {
    let dir = tempdir().unwrap();
    assert!(refusal("cifar10", dir.path(), Split::Test).contains("test_batch.bin"));
    let path = dir.path().join("test_batch.bin");
    fs::write(&path, &cifar_record(&[0], 0)[..3000]).unwrap();
    let message = refusal("cifar10", dir.path(), Split::Test);
    assert!(message.contains("3000 bytes") && message.contains("3073") && message.contains("test_batch.bin"));
    fs::write(&path, []).unwrap();
    assert!(refusal("cifar10", dir.path(), Split::Test).contains("0 bytes"));
    fs::write(&path, cifar_record(&[10], 0)).unwrap();
    assert!(refusal("cifar10", dir.path(), Split::Test).contains("label 10 of image 0"));
    for batch in [1, 2, 3, 5] {
        fs::write(dir.path().join(format!("data_batch_{batch}.bin")), cifar_record(&[0], 0)).unwrap();
    }
    assert!(refusal("cifar10", dir.path(), Split::Train).contains("data_batch_4.bin"));
}

#[test]
fn stl10_is_column_major_and_labels_count_from_one() {
    let dir = tempdir().unwrap();
    // Column by column: entry k of a plane is row k % 96 of column k / 96.
    let mut image: Vec<u8> = (0..9216).map(|k| (k % 96) as u8).collect();
    image.extend((0..9216).map(|k| (k / 96) as u8));
    image.extend([200; 9216]);
    fs::write(dir.path().join("train_X.bin"), &image).unwrap();
    fs::write(dir.path().join("train_y.bin"), [10]).unwrap();
    fs::write(dir.path().join("unlabeled_X.bin"), [&image[..], &image[..]].concat()).unwrap();
    let train = open_at("stl10", dir.path(), Split::Train);
    let sample = train.get(0).unwrap();
    assert_eq!(sample.label, Some(9));
    assert_eq!(sample.image.bytes[(20 * 96 + 70) * 3..][..3], [20, 70, 200]);
    let unlabelled = open_at("stl10", dir.path(), Split::Unlabelled);
    assert_eq!((unlabelled.len(), unlabelled.get(1).unwrap().label), (2, None));
    assert!(unlabelled.classes().is_empty());

    fs::write(dir.path().join("train_y.bin"), [0]).unwrap();
    assert!(refusal("stl10", dir.path(), Split::Train).contains("label 0 of image 0"));
    fs::write(dir.path().join("train_y.bin"), [1, 2]).unwrap();
    assert!(refusal("stl10", dir.path(), Split::Train).contains("2 labels"));
    fs::write(dir.path().join("train_X.bin"), &image[1..]).unwrap();
    assert!(refusal("stl10", dir.path(), Split::Train).contains("27648"));
}

fn idx(axes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, axes.len() as u8];
    axes.iter().for_each(|axis| bytes.extend(axis.to_be_bytes()));
    bytes.extend(values);
    bytes
}

#[test]
fn idx_reads_grey_and_colour_images() {
    let dir = tempdir().unwrap();
    let values: Vec<u8> = (0..2 * 3 * 4).collect();
    fs::write(dir.path().join("train-images-idx3-ubyte"), idx(&[2, 3, 4], &values)).unwrap();
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[2], &[1, 3])).unwrap();
    let train = open_at("idx", dir.path(), Split::Train);
    let sample = train.get(1).unwrap();
    assert_eq!(sample.image, Bitmap::new(3, 4, 1, values[12..].to_vec()).unwrap());
    assert_eq!((sample.label, train.classes().len()), (Some(3), 4));

    fs::write(dir.path().join("t10k-images.idx4-ubyte"), idx(&[1, 2, 2, 3], &values[..12])).unwrap();
    fs::write(dir.path().join("t10k-labels.idx1-ubyte"), idx(&[1], &[0])).unwrap();
    assert_eq!(open_at("idx", dir.path(), Split::Test).get(0).unwrap().image.bytes, values[..12]);
}

#[test]
fn damaged_idx_files_are_refused() {
    let dir = tempdir().unwrap();
    let images = dir.path().join("train-images-idx3-ubyte");
    fs::write(dir.path().join("train-images-idx3-ubyte.gz"), [0x1f, 0x8b]).unwrap();
    assert!(refusal("idx", dir.path(), Split::Train).contains("gunzip"));
    let good = idx(&[2, 3, 4], &[5; 24]);
    for bytes in [&good[..39], &[&good[..], &[0]].concat(), &good[..10], &idx(&[0, 3, 4], &[]), &idx(&[24], &[5; 24])] {
        fs::write(&images, bytes).unwrap();
        fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[2], &[0, 1])).unwrap();
        assert!(refusal("idx", dir.path(), Split::Train).contains("train-images-idx3-ubyte"));
    }
    fs::write(&images, idx(&[u32::MAX, 4096, 4096], &[])).unwrap();
    assert!(refusal("idx", dir.path(), Split::Train).contains("16 bytes"));
    fs::write(&images, &good).unwrap();
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[3], &[0, 1, 0])).unwrap();
    assert!(refusal("idx", dir.path(), Split::Train).contains("train-labels-idx1-ubyte"));
}

fn flat_png(side: usize, value: u8) -> Vec<u8> {
    encode_png(&Bitmap::new(side, side + 1, 3, vec![value; side * (side + 1) * 3]).unwrap()).unwrap()
}

#[test]
fn a_folder_without_splits_holds_out_one_image_in_five() {
    let dir = tempdir().unwrap();
    for class in ["zebra", "ant"] {
        fs::create_dir(dir.path().join(class)).unwrap();
        for k in 0..7u8 {
            fs::write(dir.path().join(class).join(format!("{k}.PNG")), flat_png(4, k)).unwrap();
        }
        fs::write(dir.path().join(class).join("notes.txt"), "not an image").unwrap();
    }
    let train = open_at("folder", dir.path(), Split::Train);
    assert_eq!(train.classes(), ["ant", "zebra"]);
    let values = |data: &dyn Dataset| -> Vec<(u8, u32)> {
        (0..data.len()).map(|k| data.get(k).unwrap()).map(|s| (s.image.bytes[0], s.label.unwrap())).collect()
    };
    let expected = [0, 1, 2, 3, 5, 6];
    assert_eq!(values(&*train), [expected.map(|k| (k, 0)), expected.map(|k| (k, 1))].concat());
    assert_eq!(values(&*open_at("folder", dir.path(), Split::Test)), [(4, 0), (4, 1)]);
    assert_eq!((train.get(0).unwrap().image.height, train.get(0).unwrap().image.width), (4, 5));
}

#[test]
fn folders_train_and_test_are_the_splits_and_share_labels() {
    let dir = tempdir().unwrap();
    for (folder, class) in [("train", "a"), ("train", "b"), ("val", "b")] {
        let folder = dir.path().join(folder).join(class);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("1.jpeg"), flat_blocks(&[&[77]])).unwrap();
    }
    assert_eq!(open_at("folder", dir.path(), Split::Train).len(), 2);
    let test = open_at("folder", dir.path(), Split::Test);
    assert_eq!((test.get(0).unwrap().label, test.classes().len()), (Some(1), 2));
    fs::create_dir(dir.path().join("val/c")).unwrap();
    fs::write(dir.path().join("val/c/1.png"), flat_png(2, 0)).unwrap();
    assert!(refusal("folder", dir.path(), Split::Test).contains("class c"));
}

#[test]
fn flat_folders_are_unlabelled() {
    let dir = tempdir().unwrap();
    assert!(refusal("folder", dir.path(), Split::Train).contains("no images"));
    fs::write(dir.path().join("b.png"), flat_png(3, 2)).unwrap();
    fs::write(dir.path().join("a.jpg"), flat_blocks(&[&[200]])).unwrap();
    let data = open_at("folder", dir.path(), Split::Train);
    assert_eq!((data.len(), data.get(0).unwrap().label, data.get(0).unwrap().image.bytes[0]), (2, None, 200));
    assert!(data.classes().is_empty());
    assert!(refusal("folder", dir.path(), Split::Test).contains("unlabelled"));
}

/// More files than are read at a time.
#[test]
fn folder_content_names_and_labels_decide_the_checksum() {
    let dir = tempdir().unwrap();
    let path = |class: &str, k: u8| dir.path().join(class).join(format!("{k:02}.png"));
    for class in ["ant", "zebra"] {
        fs::create_dir(dir.path().join(class)).unwrap();
        for k in 0..20 {
            fs::write(path(class, k), [class.len() as u8, k]).unwrap();
        }
    }
    let checksum = || open_at("folder", dir.path(), Split::Train).describe().checksum;
    let first = checksum();
    let (a, b) = (path("ant", 0), path("zebra", 18));
    let change = |write: &dyn Fn(), undo: &dyn Fn()| {
        write();
        assert_ne!(checksum(), first);
        undo();
        assert_eq!(checksum(), first);
    };
    // Of the same size; two files for one another; the same content under another name, and in another class.
    change(&|| fs::write(&a, [3, 99]).unwrap(), &|| fs::write(&a, [3, 0]).unwrap());
    let swap = || {
        let [left, right] = [&a, &b].map(|path| fs::read(path).unwrap());
        fs::write(&a, right).unwrap();
        fs::write(&b, left).unwrap();
    };
    change(&swap, &swap);
    for other in [dir.path().join("ant/00.jpg"), dir.path().join("zebra/00b.png")] {
        change(&|| fs::rename(&a, &other).unwrap(), &|| fs::rename(&other, &a).unwrap());
    }
}

/// No image is that long: the file is not read, and counts by its size.
#[test]
fn a_file_too_long_for_an_image_is_not_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("long.png");
    let checksum = |size: u64, first: u8| {
        fs::write(&path, [first]).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
        let data = open_at("folder", dir.path(), Split::Train);
        assert!(data.get(0).unwrap_err().sentence().contains("at most 1073741824 bytes"));
        data.describe().checksum
    };
    let limit = 1 << 30;
    assert_eq!(checksum(limit + 1, 0), checksum(limit + 1, 1));
    assert_ne!(checksum(limit + 1, 0), checksum(limit + 2, 0));
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused() {
    let dir = tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("a.png")).unwrap();
    let message = refusal("folder", dir.path(), Split::Train);
    assert!(message.contains("a.png: not a file"), "{message}");
}

#[test]
fn empty_classes_and_damaged_images_are_named() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("cat")).unwrap();
    fs::create_dir(dir.path().join("dog")).unwrap();
    fs::write(dir.path().join("cat/1.png"), b"\x89PNG\r\n\x1a\nrubbish").unwrap();
    let message = refusal("folder", dir.path(), Split::Train);
    assert!(message.contains("dog") && message.contains("no images"), "{message}");
    fs::remove_dir(dir.path().join("dog")).unwrap();
    let message = open_at("folder", dir.path(), Split::Train).get(0).unwrap_err().sentence();
    assert!(message.contains("cat") && message.contains("1.png"), "{message}");
}

#[test]
fn jpeg_pixels_are_those_encoded() {
    let grey = decode(&flat_blocks(&[&[200], &[50], &[50], &[255]]), Path::new("x")).unwrap();
    assert_eq!((grey.height, grey.width, grey.channels), (8, 32, 3));
    for (k, &byte) in grey.bytes.iter().enumerate() {
        assert_eq!(byte, [200, 50, 50, 255][k / 3 % 32 / 8]);
    }
    let [y, cb, cr] = [120.0f32, 90.0, 180.0];
    let colour = decode(&flat_blocks(&[&[y as u8, cb as u8, cr as u8]]), Path::new("x")).unwrap();
    let expected =
        [y + 1.402 * (cr - 128.0), y - 0.344_136 * (cb - 128.0) - 0.714_136 * (cr - 128.0), y + 1.772 * (cb - 128.0)];
    for (k, &byte) in colour.bytes.iter().enumerate() {
        assert!((f32::from(byte) - expected[k % 3]).abs() <= 1.0, "{byte} is not {}", expected[k % 3]);
    }
}

#[test]
fn truncated_and_foreign_images_are_refused() {
    let jpeg = flat_blocks(&[&[200], &[50], &[120], &[9]]);
    let png = flat_png(9, 3);
    for (name, bytes) in [("a.jpg", &jpeg), ("a.png", &png)] {
        assert!(decode(bytes, Path::new(name)).is_ok());
        for cut in 0..bytes.len() {
            let error = decode(&bytes[..cut], Path::new(name)).expect_err(&format!("{name} cut at {cut}"));
            assert!(error.sentence().contains(name));
        }
    }
    assert!(decode(b"GIF89a", Path::new("a.gif")).is_err());
    let mut damaged = png.clone();
    damaged[45] ^= 0x10;
    assert!(decode(&damaged, Path::new("a.png")).is_err());
}

#[test]
fn announced_sizes_are_checked_before_memory_is_taken() {
    let mut jpeg = flat_blocks(&[&[200]]);
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert!(decode(&jpeg, Path::new("huge.jpg")).is_err());
    // Within what a picture may have, and more than a file of this length can hold.
    jpeg[frame + 5..frame + 9].copy_from_slice(&[8_000u16.to_be_bytes(), 8_000u16.to_be_bytes()].concat());
    let sentence = decode(&jpeg, Path::new("huge.jpg")).unwrap_err().sentence();
    assert!(sentence.contains(&format!("{} bytes long", jpeg.len())), "{sentence}");
}

#[test]
fn png_goes_there_and_back() {
    for channels in [1, 3] {
        let bytes: Vec<u8> = (0..7 * 5 * channels).map(|k| (k * 29 % 256) as u8).collect();
        let bitmap = Bitmap::new(7, 5, channels, bytes).unwrap();
        assert_eq!(decode(&encode_png(&bitmap).unwrap(), Path::new("x")).unwrap(), bitmap.into_rgb());
    }
}

proptest! {
    #[test]
    fn any_damage_is_decoded_or_refused(kind: bool, at: usize, with: u8, cut: usize) {
        let mut bytes = if kind { flat_blocks(&[&[200, 90, 140], &[50, 128, 128]]) } else { flat_png(6, 9) };
        let at = at % bytes.len();
        bytes[at] = with;
        let kept = bytes.len() - cut % 4;
        if let Ok(bitmap) = decode(&bytes[..kept], Path::new("x")) {
            prop_assert_eq!(bitmap.bytes.len(), bitmap.height * bitmap.width * 3);
        }
    }

    #[test]
    fn any_bytes_after_a_signature_are_decoded_or_refused(
        kind: bool,
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let head: &[u8] = if kind { &[0xff, 0xd8, 0xff] } else { b"\x89PNG\r\n\x1a\n" };
        prop_assert!(decode(&[head, &tail].concat(), Path::new("x")).is_err());
    }
}
