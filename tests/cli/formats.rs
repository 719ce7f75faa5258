//! Every format of images that is read, from files to a trained and evaluated encoder.

use std::fs;
use std::path::Path;

use selfsame::data::Bitmap;
use selfsame::data::readers::encode_png;
use serde_json::Value;

use crate::support::{json, text};

/// Images for training, by two classes in turn, and for tests.
const IMAGES: [usize; 2] = [40, 10];

/// A picture of class 0, a gradient from left to right, or 1, from top to bottom; pictures differ in their brightness.
fn pixel(number: usize, side: usize, y: usize, x: usize, channel: usize) -> u8 {
    let along = if number.is_multiple_of(2) { x } else { y };
    (20 * channel + 2 * number + 100 * along / side) as u8
}

/// The picture in planes, row by row, or, as STL-10 has it, column by column.
fn planes(number: usize, side: usize, by_column: bool) -> Vec<u8> {
    let place = |i: usize| if by_column { (i % side, i / side) } else { (i / side, i % side) };
    let value = |channel: usize, (y, x)| pixel(number, side, y, x, channel);
    (0..3).flat_map(|channel| (0..side * side).map(move |i| value(channel, place(i)))).collect()
}

fn png(number: usize, side: usize) -> Vec<u8> {
    let bytes = (0..side * side * 3).map(|i| pixel(number, side, i / 3 / side, i / 3 % side, i % 3)).collect();
    encode_png(&Bitmap::new(side, side, 3, bytes).unwrap()).unwrap()
}

/// Trains for one epoch on a folder that `write` fills; with labels also measures the encoder.
fn trains(kind: &str, is_labelled: bool, write: impl Fn(&Path)) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("run"));
    fs::create_dir(&data).unwrap();
    write(&data);
    let spec = format!("{kind}:{}", data.display());
    let mut arguments = vec!["pretrain", "simclr", "--data", &spec, "--out", text(&out)];
    let settings = ["size=16", "backbone=resnet-small", "stem=small", "width=0.25", "batch=16", "epochs=1"];
    for setting in settings.into_iter().chain(["warmup_epochs=0", "eval_every=0"]) {
        arguments.extend(["--set", setting]);
    }
    let found = json(&arguments);
    assert_eq!(found["steps"], 2, "{kind}: {found}");
    if is_labelled {
        let knn = json(&["eval", "knn", "--run", text(&out), "--data", &spec, "--k", "5"]);
        // The two classes are told apart by their shape alone; an untrained encoder would do.
        assert!(knn["accuracy"].as_f64().unwrap() > 0.5, "{kind}: {knn}");
        let linear = json(&["eval", "linear", "--run", text(&out), "--data", &spec, "--epochs", "2"]);
        assert!((0.0..=1.0).contains(&linear["accuracy"].as_f64().unwrap()), "{kind}: {linear}");
    }
    found
}

#[test]
fn cifar_10() {
    let record = |number: usize| [vec![(number % 2) as u8], planes(number, 32, false)].concat();
    trains("cifar10", true, |data| {
        for batch in 0..5 {
            let records: Vec<u8> = (8 * batch..8 * (batch + 1)).flat_map(record).collect();
            fs::write(data.join(format!("data_batch_{}.bin", batch + 1)), records).unwrap();
        }
        fs::write(data.join("test_batch.bin"), (0..IMAGES[1]).flat_map(record).collect::<Vec<u8>>()).unwrap();
    });
}

#[test]
fn stl_10_with_unlabelled_images() {
    trains("stl10", true, |data| {
        for (part, count) in [("train", 10), ("test", IMAGES[1]), ("unlabeled", IMAGES[0])] {
            let images: Vec<u8> = (0..count).flat_map(|number| planes(number, 96, true)).collect();
            fs::write(data.join(format!("{part}_X.bin")), images).unwrap();
        }
        for (part, count) in [("train", 10), ("test", IMAGES[1])] {
            let labels: Vec<u8> = (0..count).map(|number| 1 + (number % 2) as u8).collect();
            fs::write(data.join(format!("{part}_y.bin")), labels).unwrap();
        }
    });
}

#[test]
fn idx_of_grey_images() {
    let idx = |axes: &[u32], values: Vec<u8>| {
        let head = [0, 0, 8, axes.len() as u8].into_iter().chain(axes.iter().flat_map(|axis| axis.to_be_bytes()));
        head.chain(values).collect::<Vec<u8>>()
    };
    trains("idx", true, |data| {
        for (part, count) in [("train", IMAGES[0]), ("t10k", IMAGES[1])] {
            let pixels = (0..count).flat_map(|number| planes(number, 28, false).into_iter().take(28 * 28)).collect();
            let labels = (0..count).map(|number| (number % 2) as u8).collect();
            fs::write(data.join(format!("{part}-images-idx3-ubyte")), idx(&[count as u32, 28, 28], pixels)).unwrap();
            fs::write(data.join(format!("{part}-labels-idx1-ubyte")), idx(&[count as u32], labels)).unwrap();
        }
    });
}

#[test]
fn a_folder_of_images_of_many_sizes() {
    trains("folder", true, |data| {
        for number in 0..50 {
            let class = data.join(["across", "down"][number % 2]);
            fs::create_dir_all(&class).unwrap();
            fs::write(class.join(format!("{number:02}.png")), png(number, 16 + number)).unwrap();
        }
    });
}

#[test]
fn a_folder_without_classes() {
    trains("folder", false, |data| {
        for number in 0..IMAGES[0] {
            fs::write(data.join(format!("{number:02}.png")), png(number, 24)).unwrap();
        }
    });
}
