//! Every primitive has a span, read from the sources: the profile of a step must not have holes.

use crate::profile::{Kind, Work};
use crate::{Array, Device, Rows, ops};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Primitives whose span is opened by the function that they call first of all.
const THROUGH: [(&str, &str); 23] = [
    ("binary_scalar", "binary"),
    ("scalar_binary", "binary"),
    ("add", "binary"),
    ("sub", "binary"),
    ("mul", "binary"),
    ("div", "binary"),
    ("sum", "reduce"),
    ("prod", "reduce"),
    ("max", "extremum"),
    ("min", "extremum"),
    ("extremum", "reduce"),
    ("logical_and", "logic"),
    ("logical_or", "logic"),
    ("argsort", "sort"),
    ("argmax", "arg_extremum"),
    ("argmin", "arg_extremum"),
    ("norms_sq", "decayed_squares"),
    ("pair_rows", "forward"),
    ("pair_rows_and_columns", "forward"),
    ("pair_rows_symmetric", "forward"),
    ("pair_rows_grad", "backward"),
    ("pair_rows_and_columns_grad", "backward"),
    ("pair_rows_symmetric_grad", "backward"),
];

/// The files of a folder and of those in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Functions of the folder by name: whether they are public, and their bodies.
fn functions() -> BTreeMap<String, (bool, String)> {
    let mut found = BTreeMap::new();
    for path in files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops"))) {
        let source = std::fs::read_to_string(path).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (at, _) in source.match_indices("fn ") {
            let line = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let is_public = &source[line..at] == "pub ";
            if !is_public && line != at {
                continue;
            }
            let text = &source[at + 3..];
            let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let end = text.find("\n}\n").unwrap_or(text.len());
            found.insert(name, (is_public, text[..end].to_string()));
        }
    }
    found
}

#[test]
fn every_primitive_has_a_span() {
    let functions = functions();
    let opens = |name: &str| functions.get(name).is_some_and(|(_, body)| body.contains("span("));
    assert!(opens("matmul") && opens("reduce"));
    let mut checked = 0;
    for (name, _) in functions.iter().filter(|(_, (is_public, body))| *is_public && body.contains("-> Result<")) {
        let mut at = name.as_str();
        while !opens(at) {
            let through = THROUGH.iter().find(|(primitive, _)| *primitive == at);
            let (_, next) = through.unwrap_or_else(|| panic!("primitive '{name}' opens no span"));
            assert!(functions[at].1.contains(next), "'{at}' does not call '{next}'");
            at = next;
        }
        checked += 1;
    }
    assert!(checked >= 70, "only {checked} primitives found");
}

/// What a recording says of `run`, by primitive.
fn recorded(run: impl FnOnce(&Device)) -> BTreeMap<&'static str, Work> {
    let device = Device::cpu_with(2).unwrap();
    device.profiler().start(None);
    run(&device);
    device.profiler().stop().of(Kind::Primitive).into_iter().map(|(name, total)| (name, total.work)).collect()
}

fn ones(shape: &[usize], device: &Device) -> Array {
    Array::full(1f32, shape, device).unwrap()
}

#[test]
fn work_is_counted_by_hand() {
    let work = recorded(|device| {
        let (a, b) = (ones(&[3, 5, 7], device), ones(&[7, 11], device));
        ops::matmul(&a, &b).unwrap();
        let (x, w) = (ones(&[2, 8, 8, 6], device), ones(&[3, 3, 3, 4], device));
        let options = ops::Conv2d { padding: [1, 1], stride: [2, 2], groups: 2, ..ops::Conv2d::default() };
        let y = ops::conv2d(&x, &w, &options).unwrap();
        ops::conv2d_input_grad(&y, &w, x.shape(), &options).unwrap();
        ops::conv2d_weight_grad(&x, &y, w.shape(), &options, Rows::of(y.shape(), 0).unwrap()).unwrap();
        ops::softmax(&b).unwrap();
        ops::sum(&b, &[1], false).unwrap();
    });
    assert_eq!(work["matmul"], Work { flop: 2 * 3 * 5 * 7 * 11, special: 0, bytes: 4 * (105 + 77 + 165) });
    // 2 * 4 * 4 * 4 outputs of 3 * 3 * 3 taps; each pass is as many.
    let (flop, bytes) = (2 * 128 * 27, 4 * (768 + 108 + 128));
    for pass in ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"] {
        assert_eq!(work[pass], Work { flop, special: 0, bytes }, "{pass}");
    }
    assert_eq!(work["softmax"], Work { flop: 3 * 77, special: 2 * 77, bytes: 8 * 77 });
    assert_eq!(work["sum"], Work { flop: 77, special: 0, bytes: 4 * (77 + 7) });
}

#[test]
fn halves_are_counted_where_they_are_computed() {
    let work = recorded(|device| {
        let x = ops::cast(&ones(&[100], device), crate::DType::BF16).unwrap();
        ops::unary(ops::Unary::Exp, &x).unwrap();
    });
    assert_eq!(work["exp"], Work { flop: 0, special: 100, bytes: 800 });
    assert_eq!(work["cast"].bytes, 3 * 600);
}
