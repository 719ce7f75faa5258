//! `selfsame replay` and `selfsame compare` on recorded runs.

use std::path::Path;

use crate::support::{SMALL, fail, json, run, selfsame, stderr, succeed, text};
use serde_json::Value;

fn record(out: &Path, more: &[&str]) {
    let mut arguments = vec!["pretrain", "simclr", "--out", text(out)];
    arguments.extend(SMALL);
    arguments.extend(more);
    json(&arguments);
}

#[test]
fn a_replay_is_identical_or_names_the_first_difference() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    record(&first, &[]);
    let found = succeed(&["replay", text(&first), "--threads", "1", "--workers", "0"]);
    assert!(found.contains("identical through step 9: 10 fingerprints"), "{found}");
    let part = json(&["replay", text(&first), "--steps", "8..9", "--ranks", "2"]);
    assert_eq!((&part["from"], &part["through"], &part["compared"]), (&6.into(), &9.into(), &3.into()), "{part}");

    let mut flipping = selfsame(&["replay", text(&first), "--flip", "5:0:10:30", "--out", text(&second)]);
    let output = flipping.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found = String::from_utf8(output.stdout).unwrap();
    for part in ["identical through step 4", "step 5 differs in ", "entry 0, forward of conv2d in ", " (0x", "; 1 of "]
    {
        assert!(found.contains(part), "'{part}' in {found}");
    }
    // The replay that was kept is a run to compare with.
    let report = folder.path().join("both.html");
    let output = run(&["compare", text(&first), text(&second), "--report", text(&report), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&found["fingerprints"]["through"], &found["fingerprints"]["difference"]["step"]),
        (&4.into(), &5.into())
    );
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.contains("grad/norm") && page.contains("identical through step"));
}

#[test]
fn a_run_is_identical_at_every_level_that_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    record(&out, &["--set", "epochs=1", "--set", "batch=64"]);
    let found = json(&["replay", text(&out), "--levels"]);
    // Of the four leaves of the batch three ranks would have unequal shares.
    let state = |what: &str| {
        let level = found["levels"].as_array().unwrap().iter().find(|level| level["what"] == what);
        level.unwrap_or_else(|| panic!("no level '{what}' in {found}"))["state"].clone()
    };
    assert_eq!((state("3 ranks"), &found["refused"]), ("refused".into(), &1.into()), "{found}");
    for what in ["8 threads", "4 loader workers", "micro-batches of 32 of 64", "4 ranks", "CPU, portable"] {
        assert_eq!(state(what), "identical", "{what} in {found}");
    }
    assert_eq!((&found["different"], &found["differences"]), (&0.into(), &serde_json::json!([])), "{found}");

    // A run of another compiler: said first, and no difference by itself.
    let manifest = out.join("manifest.json");
    let mut object: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    object["sessions"][0]["build"]["compiler"] = "rustc 1.0.0".into();
    std::fs::write(&manifest, object.to_string()).unwrap();
    let output = run(&["replay", text(&out), "--levels", "--steps", "1..1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("differs: compiler: rustc 1.0.0"), "{}", stderr(&output));
}

#[test]
fn two_runs_that_differ_are_located() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    record(&first, &["--set", "epochs=1"]);
    record(&second, &["--set", "epochs=1", "--set", "temperature=0.25"]);
    let output = run(&["compare", text(&first), text(&second), "--locate"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let found = String::from_utf8(output.stdout).unwrap();
    // Networks and data are the same; the temperature is the objective's.
    for part in
        ["fingerprints identical through step 0", "step 1 differs in the loss", "first difference at step 1: entry"]
    {
        assert!(found.contains(part), "'{part}' in {found}");
    }
}

#[test]
fn replays_of_what_is_no_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(fail(2, &["replay", text(folder.path())]).contains("no run"));
    let bare = folder.path().join("bare");
    record(&bare, &["--set", "epochs=1", "--set", "fingerprints=off"]);
    assert!(fail(2, &["replay", text(&bare)]).contains("without fingerprints"));
    for arguments in [["--steps", "3"], ["--steps", "3..2"], ["--steps", "0..2"], ["--flip", "1:2:3"]] {
        let output = run(&["replay", text(&bare), arguments[0], arguments[1]]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    let recorded = folder.path().join("recorded");
    record(&recorded, &["--set", "epochs=1"]);
    assert!(fail(2, &["replay", text(&recorded), "--steps", "2..9"]).contains("1 to 3"));
    let file = recorded.join("fingerprints.jsonl");
    let changed = std::fs::read_to_string(&file).unwrap().replacen("\"loss\":\"4", "\"loss\":\"3", 1);
    std::fs::write(&file, changed).unwrap();
    assert!(fail(1, &["replay", text(&recorded)]).contains("does not follow"));
}
