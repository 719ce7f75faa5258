//! `selfsame profile`: plans, measurements, traces, sweeps.

use std::fs;

use serde_json::Value;

use crate::support::{fail, json, succeed, text};

/// A method of a moment: small pictures, a narrow encoder.
const SMALL: [&str; 15] = [
    "profile",
    "simclr",
    "--data",
    "scenes:train=96,test=40",
    "--set",
    "backbone=resnet-small",
    "--set",
    "stem=small",
    "--set",
    "width=0.25",
    "--steps",
    "2",
    "--warmup",
    "1",
    "--threads=2",
];

fn bytes(profile: &Value, which: &str) -> f64 {
    profile[which]["bytes"].as_f64().unwrap()
}

#[test]
fn a_method_is_planned_measured_and_traced() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&SMALL[..], &["--batch", "32,64", "--out", text(folder.path())]].concat();
    let found = json(&arguments);
    let profiles = found["profiles"].as_array().unwrap();
    assert_eq!(profiles.len(), 2);
    for profile in profiles {
        let ratio = bytes(profile, "planned") / bytes(profile, "measured");
        assert!((ratio - 1.0).abs() < 0.05, "planned against measured: {ratio}");
        let owners = profile["measured"]["by_owner"].as_object().unwrap();
        let sum: f64 = owners.values().map(|bytes| bytes.as_f64().unwrap()).sum();
        assert_eq!(sum, bytes(profile, "measured"));
        assert!(owners["saved activations"].as_f64().unwrap() > 0.0);
        let share = profile["loss_share"].as_f64().unwrap();
        assert!(share > 0.0 && share < 1.0);
        let conv = profile["totals"].as_array().unwrap().iter().find(|total| total["name"] == "conv2d_weight_grad");
        let conv = conv.expect("convolutions are counted");
        assert!(conv["flop"].as_u64().unwrap() > 0 && conv["share_of_roof"].as_f64().unwrap() > 0.0);
    }
    assert!(bytes(&profiles[1], "measured") > bytes(&profiles[0], "measured"));

    // The files say the same.
    let written: Value = serde_json::from_slice(&fs::read(folder.path().join("profile.json")).unwrap()).unwrap();
    assert_eq!(written["profiles"], found["profiles"]);
    assert!(fs::read_to_string(folder.path().join("profile.svg")).unwrap().ends_with("</svg>\n"));
    assert!(fs::read_to_string(folder.path().join("report.txt")).unwrap().contains("saved activations"));
    let trace = fs::read(folder.path().join("trace.json")).unwrap();
    let events: Value = serde_json::from_slice(&trace).unwrap();
    let events = events["traceEvents"].as_array().unwrap();
    assert!(trace.len() < 100 * events.len(), "{} bytes for {} events", trace.len(), events.len());
    let lanes: Vec<&str> = events.iter().filter_map(|event| event["args"]["name"].as_str()).collect();
    for lane in ["main: operations", "loader-0: loading", "loader-0: augmentation", ": pool"] {
        assert!(lanes.iter().any(|name| name.ends_with(lane)), "no lane {lane}: {lanes:?}");
    }
    assert!(events.iter().any(|event| event["ph"] == "C" && event["name"] == "saved activations"));
}

#[test]
fn a_plan_runs_nothing_but_its_probes() {
    let arguments = [&SMALL[..], &["--batch", "1048576", "--plan"]].concat();
    let found = json(&arguments);
    let profile = &found["profiles"][0];
    // A million images of this encoder do not fit here; the data set does not even have as many.
    assert!(bytes(profile, "planned") > (1u64 << 33) as f64);
    assert!(profile.get("measured").is_none());
}

#[test]
fn forms_of_a_loss_are_shown_side_by_side() {
    let forms = ["profile", "ntxent", "ntxent:temperature=0.5", "--batch", "64,256", "--dim", "32", "--steps", "2"];
    let found = json(&forms);
    let profiles = found["profiles"].as_array().unwrap();
    let names: Vec<_> = profiles.iter().map(|profile| (&profile["name"], &profile["batch"])).collect();
    assert_eq!(names[0], (&Value::from("ntxent"), &Value::from(64)));
    assert_eq!(names[3], (&Value::from("ntxent:temperature=0.5"), &Value::from(256)));
    for profile in profiles {
        let ratio = bytes(profile, "planned") / bytes(profile, "measured");
        assert!((ratio - 1.0).abs() < 0.05, "planned against measured: {ratio}");
    }
    assert!(succeed(&forms).contains("rows/s"));
}

#[test]
fn kernels_are_counted_on_a_gpu_device() {
    let found =
        json(&["profile", "ntxent", "--batch=32", "--dim=8", "--steps=1", "--warmup=0", "--device=simt:unchecked"]);
    let totals = found["profiles"][0]["totals"].as_array().unwrap();
    let kernel = totals.iter().find(|total| total["kind"] == "kernel" && total["flop"].as_u64() > Some(0));
    assert!(kernel.is_some(), "{totals:?}");
}

#[test]
fn what_cannot_be_profiled_is_named() {
    assert!(fail(2, &["profile", "simclrr"]).contains("'simclr'"));
    assert!(fail(2, &["profile", "simclr", "ntxent"]).contains("one method, or losses"));
    assert!(fail(2, &["profile", "ntxent", "--batch", "1"]).contains("at least 2"));
    assert!(fail(2, &["profile", "ntxent:temprature=1"]).contains("'temperature'"));
}
