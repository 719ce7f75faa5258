//! The commands that end in a moment.

use std::fs;

use crate::support::{fail, json, run, succeed, text};

#[test]
fn help_and_version_are_no_errors_and_nonsense_is() {
    assert!(succeed(&["--help"]).contains("pretrain"));
    assert!(succeed(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["pretrian"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn methods_are_listed_in_three_forms() {
    assert!(succeed(&["methods"]).contains("simclr"));
    assert!(succeed(&["methods", "--markdown"]).lines().any(|line| line.starts_with("| simclr |")));
    let listed = json(&["methods"]);
    assert_eq!(listed["methods"][0]["name"], "simclr");
    assert_eq!(listed["methods"][0]["paper"], "arXiv:2002.05709");
}

#[test]
fn show_tells_where_values_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "epochs = 7\n").unwrap();
    let shown = json(&["show", "simclr", "temperature=0.25", "--config", text(&file)]);
    let configuration = &shown["configuration"];
    assert_eq!(configuration["temperature"]["value"], 0.25);
    assert_eq!(configuration["temperature"]["source"], "command line");
    assert_eq!(configuration["epochs"]["value"], 7);
    assert_eq!(configuration["epochs"]["source"], text(&file));
    assert_eq!(configuration["momentum"]["source"], "defaults of trainer");
    // What is shown as text is itself a configuration file.
    let shown = succeed(&["show", "simclr", "temperature=0.25"]);
    fs::write(&file, shown).unwrap();
    let again = json(&["show", "simclr", "--config", text(&file)]);
    assert_eq!(again["configuration"]["temperature"]["value"], 0.25);
}

#[test]
fn loss_of_equal_embeddings_is_the_log_of_the_others() {
    use selfsame::engine::{Array, Device, TensorFile};
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("z.safetensors"), folder.path().join("g.safetensors"));
    let device = Device::cpu_with(1).unwrap();
    let z = Array::from_slice(&[0.6f64, -0.8, 0.1].repeat(16), &[16, 3], &device).unwrap();
    TensorFile { tensors: [("z".to_string(), z)].into(), ..TensorFile::default() }.write(&input).unwrap();
    let found =
        json(&["loss", "ntxent", "--input", text(&input), "--output", text(&output), "--set", "temperature=0.5"]);
    let expected = 15f64.ln();
    assert!((found["loss"].as_f64().unwrap() - expected).abs() < 1e-12, "{found}");
    let outputs = TensorFile::read(&output, &device).unwrap().tensors;
    assert!((outputs["loss"].item::<f64>().unwrap() - expected).abs() < 1e-12);
    let gradient = outputs["grad_z"].to_vec::<f64>().unwrap();
    assert!(gradient.len() == 48 && gradient.iter().all(|value| value.abs() < 1e-12));
}

#[test]
fn gradcheck_checks_one_or_names_the_nearest() {
    let found = json(&["gradcheck", "matmul", "--cases", "4"]);
    assert_eq!(found["failed"], 0);
    assert_eq!(found["checks"][0]["name"], "matmul");
    assert_eq!(json(&["gradcheck", "ntxent", "--cases", "4"])["failed"], 0);
    assert!(fail(2, &["gradcheck", "matmull"]).contains("'matmul'"));
}

#[test]
fn data_info_describes_every_split() {
    let found = json(&["data", "info", "scenes:train=20,test=10"]);
    assert_eq!(found["classes"].as_array().unwrap().len(), 10);
    let images: Vec<_> = found["splits"].as_array().unwrap().iter().map(|split| split["images"].clone()).collect();
    assert_eq!(images, [20, 10]);
}

#[test]
fn doctor_finds_the_same_bits_everywhere() {
    let found = json(&["doctor"]);
    assert_eq!(found["bits_agree"], true);
    assert!(found["bits"].as_array().unwrap().len() >= 2);
}

#[test]
fn bench_times_what_it_is_asked_for() {
    let found = json(&["bench", "augment", "--repetitions", "1"]);
    let timings = found["timings"].as_array().unwrap();
    assert!(timings.iter().all(|timing| timing["name"].as_str().unwrap().starts_with("augment")));
    assert!(timings[0]["median_s"].as_f64().unwrap() > 0.0);
}
