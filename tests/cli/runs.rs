//! Training runs through the binary: the same bits however they are run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{SMALL, fail, json, run, selfsame, stderr, succeed, text};
use serde_json::Value;

fn pretrain(out: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["pretrain", "simclr", "--out", text(out)];
    arguments.extend(SMALL);
    arguments.extend(more);
    json(&arguments)
}

#[test]
fn a_run_leaves_its_files_and_can_be_measured_and_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    let found = pretrain(&first, &["--threads", "1"]);
    for name in ["config.toml", "manifest.json", "metrics.jsonl", "encoder.safetensors", "report.html", "checkpoints"] {
        assert!(first.join(name).exists(), "{name}");
    }
    let events = fs::read_dir(&first).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    assert_eq!(events.filter(|name| name.starts_with("events.out.tfevents")).count(), 1);

    let knn = json(&["eval", "knn", "--run", text(&first)]);
    assert_eq!(knn["accuracy"], found["knn"]);
    let encoder = first.join("encoder.safetensors");
    let eval = |protocol: &[&str]| {
        let subject = ["--weights", text(&encoder), "--data", "scenes:train=200,test=120"];
        json(&[&["eval"], protocol, &subject].concat())
    };
    let figure = |found: &Value, key: &str| found[key].as_f64().unwrap_or_else(|| panic!("{key} in {found}"));
    assert!(figure(&eval(&["linear"]), "accuracy") > 0.05);
    let logistic = eval(&["logistic", "--penalties", "0.01,1", "--labels", "0.5"]);
    assert!([0.01, 1.0].contains(&figure(&logistic, "penalty")) && figure(&logistic, "calibration_error") <= 1.0);
    let episodes = eval(&["few-shot", "--ways", "3", "--shots", "1", "--queries", "4", "--episodes", "20"]);
    assert!(figure(&episodes, "accuracy") > 0.0 && figure(&episodes, "half_width") < 0.5);
    let clusters = eval(&["clusters", "--runs", "2"]);
    assert!(figure(&clusters, "matched_accuracy") >= 0.1 && figure(&clusters, "nmi") <= 1.0);
    let geometry = eval(&["geometry"]);
    assert!(figure(&geometry, "effective_rank") >= 1.0 && figure(&geometry, "uniformity") <= 0.0);
    let tuned = eval(&["finetune", "--epochs", "1", "--labels", "0.2"]);
    assert_eq!(tuned["protocol"], "finetune");
    assert!((0.0..=1.0).contains(&figure(&tuned, "accuracy")));

    // Two threads and three loader threads change nothing.
    let again = pretrain(&second, &["--threads", "2", "--workers", "3"]);
    assert_eq!(again["weights_hash"], found["weights_hash"]);
    assert!(succeed(&["compare", text(&first), text(&second)]).contains("the same to the bit"));
    // Neither does feeding the written configuration back.
    let config = first.join("config.toml");
    let fed_back = json(&["pretrain", "simclr", "--config", text(&config), "--out", text(&third)]);
    assert_eq!(fed_back["weights_hash"], found["weights_hash"]);
}

#[test]
fn the_weights_of_an_exported_teacher_can_be_fine_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dino");
    let head = ["outputs=16", "hidden=16", "bottleneck=8", "small_crops=1", "epochs=1", "warmup_epochs=0"];
    let settings: Vec<&str> = head.iter().flat_map(|setting| ["--set", setting]).collect();
    let arguments = [&["pretrain", "dino", "--out", text(&out)], &SMALL[..], &settings].concat();
    json(&arguments);
    let tuned = json(&["eval", "finetune", "--run", text(&out), "--epochs", "1", "--labels", "0.2"]);
    assert!((0.0..=1.0).contains(&tuned["accuracy"].as_f64().unwrap()), "{tuned}");
}

#[test]
fn another_seed_differs_and_compare_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    let one = pretrain(&first, &["--set", "epochs=1"]);
    let two = pretrain(&second, &["--set", "epochs=1", "--seed", "5"]);
    assert_ne!(one["weights_hash"], two["weights_hash"]);
    let output = run(&["compare", text(&first), text(&second), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["first_difference"]["step"], 1);
    assert_eq!(found["configuration"][0]["key"], "seed");
}

#[test]
fn shards_train_like_what_was_packed() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    succeed(&["data", "pack", "scenes:train=96,test=40", "--out", text(&shards), "--shard-size", "50"]);
    let packed = format!("shards:{}", text(&shards));
    let direct = pretrain(&folder.path().join("a"), &["--set", "epochs=1"]);
    let from_shards = pretrain(&folder.path().join("b"), &["--set", "epochs=1", "--set", &format!("data={packed}")]);
    // --data is given in SMALL and wins over --set; take the packed one by its own run.
    assert_eq!(direct["weights_hash"], from_shards["weights_hash"]);
    let mut arguments = vec!["pretrain", "simclr", "--data", &packed, "--set", "epochs=1"];
    let out = folder.path().join("c");
    arguments.extend(["--out", text(&out)]);
    arguments.extend(&SMALL[2..10]);
    arguments.extend(["--set", "eval_every=2", "--set", "warmup_epochs=1"]);
    assert_eq!(json(&arguments)["weights_hash"], direct["weights_hash"]);
}

/// Ctrl-C in the middle, then --resume: the end is that of a run that was left alone.
#[cfg(unix)]
#[test]
fn an_interrupted_run_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
    let more = ["--set", "epochs=12", "--set", "checkpoint_every=3"];
    let expected = pretrain(&straight, &more);

    let mut arguments = vec!["pretrain", "simclr", "--out", text(&broken)];
    arguments.extend(SMALL);
    arguments.extend(more);
    let child = selfsame(&arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let metrics = broken.join("metrics.jsonl");
    let started = Instant::now();
    let lines = || fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    while lines() < 4 {
        assert!(started.elapsed() < Duration::from_secs(120), "no step within two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("--resume"), "{}", stderr(&output));
    assert!(broken.join("report.html").exists());
    assert!(!broken.join("encoder.safetensors").exists());
    assert!(fail(1, &["eval", "knn", "--run", text(&broken)]).contains("not finished"));

    let resumed = json(&["pretrain", "simclr", "--out", text(&broken), "--resume"]);
    assert_eq!(resumed["weights_hash"], expected["weights_hash"]);
    assert!(succeed(&["compare", text(&straight), text(&broken)]).contains("the same to the bit"));
}

#[test]
fn the_fast_demo_learns() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let found = json(&["demo", "--fast", "--out", text(&out)]);
    let figure = |key: &str| found[key].as_f64().unwrap_or_else(|| panic!("{key} in {found}"));
    assert!(figure("knn") >= figure("knn_untrained") + 0.08, "{found}");
    assert!(figure("knn") > figure("knn_pixels"), "{found}");
    assert!(figure("linear") > 0.0);
    assert!(Path::new(found["report"].as_str().unwrap()).exists());
    assert_eq!(found["weights_hash"].as_str().unwrap().len(), 16);
}

#[test]
fn training_through_kernels_has_the_bits_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let train = |name: &str, device: &str| {
        let out = folder.path().join(name);
        let tiny = ["backbone=resnet-small", "stem=small", "width=0.125", "size=16", "batch=16", "epochs=1", "dim=16"];
        let mut arguments = vec!["pretrain", "simclr", "--data", "scenes:train=32,test=16", "--device", device];
        arguments.extend(tiny.iter().flat_map(|setting| ["--set", *setting]));
        arguments.extend(["--set", "eval_every=0", "--out", text(&out)]);
        (json(&arguments), fs::read_to_string(out.join("metrics.jsonl")).unwrap())
    };
    let losses = |metrics: &str| -> Vec<Value> {
        let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| !line["loss"].is_null()).map(|line| line["loss"].clone()).collect()
    };
    let (cpu, cpu_metrics) = train("cpu", "cpu");
    let (simt, simt_metrics) = train("simt", "simt");
    assert_eq!(losses(&cpu_metrics).len(), 2);
    assert_eq!(losses(&cpu_metrics), losses(&simt_metrics));
    assert_eq!(cpu["weights_hash"], simt["weights_hash"]);
}

#[test]
fn micro_batches_leave_the_weights_of_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let mut arguments = vec!["--set", "epochs=1", "--set", "batch=48"];
        arguments.extend(more);
        pretrain(&folder.path().join(name), &arguments)["weights_hash"].clone()
    };
    let whole = run("whole", &[]);
    assert_eq!(run("lockstep", &["--micro-batch", "32", "--set", "grad_cache=false"]), whole);
    let frozen = ["--set", "batch_norm=frozen"];
    assert_eq!(run("cached", &[&frozen[..], &["--micro-batch", "16"]].concat()), run("frozen", &frozen));
    let manifest = fs::read_to_string(folder.path().join("lockstep").join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["sessions"][0]["micro_batches"], serde_json::json!([[32, 16]]));
    let two = pretrain(&folder.path().join("ranks"), &["--set", "epochs=1", "--set", "batch=32", "--ranks", "2"]);
    assert!(two["weights_hash"].is_string());
}
