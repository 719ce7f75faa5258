//! `selfsame study`: arms, what is kept, the page.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{fail, run, succeed, text};

const BOTH: &str = "byol,byol-no-predictor";

/// A study of seconds.
fn arguments<'a>(arms: &'a str, out: &'a Path, page: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let arguments = [
        "study",
        "methods",
        "--arms",
        arms,
        "--set",
        "data=scenes:train=96,test=40",
        "--set",
        "epochs=1",
        "--set",
        "batch=32",
        "--set",
        "hidden=32",
        "--threads=2",
        "--out",
        text(out),
        "--page",
        text(page),
    ];
    [&arguments, more].concat()
}

#[test]
fn arms_are_trained_once_kept_under_their_key_and_written_as_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let (out, page) = (folder.path().join("study"), folder.path().join("results.md"));
    let row = |arm: &str| fs::read_to_string(out.join(arm).join("row.json"));

    let plan = succeed(&arguments(BOTH, &out, &page, &["--plan"]));
    assert_eq!(plan.matches("to do").count(), 2, "{plan}");
    assert!(!page.exists() && !out.exists(), "a plan runs nothing");

    let said = succeed(&arguments(BOTH, &out, &page, &[]));
    assert!(said.contains("byol seed 0") && said.contains("byol-no-predictor seed 0"), "{said}");
    let first = [row("byol-0").unwrap(), row("byol-no-predictor-0").unwrap()];
    let written = fs::read_to_string(&page).unwrap();
    for arm in ["| byol | 0 |", "| byol-no-predictor | 0 |"] {
        assert!(written.contains(arm), "{arm} in\n{written}");
    }
    assert!(!written.contains(", out of date |") && written.contains("threads of an arm: "), "{written}");

    let said = succeed(&arguments(BOTH, &out, &page, &[]));
    assert_eq!(said, "", "nothing is left to do");
    assert_eq!([row("byol-0").unwrap(), row("byol-no-predictor-0").unwrap()], first);

    // The results of a page are found again, and a changed one is named.
    let check = |page: &Path| run(&arguments(BOTH, &out, &folder.path().join("copy.md"), &["--check", text(page)]));
    let same = check(&page);
    assert!(String::from_utf8_lossy(&same.stdout).contains("2 of 2 rows have the same results"), "{same:?}");
    let weights = serde_json::from_str::<Value>(&first[0]).unwrap()["weights_hash"].as_str().unwrap()[..8].to_owned();
    let changed = folder.path().join("changed.md");
    fs::write(&changed, written.replace(&weights, "00000000")).unwrap();
    let differs = check(&changed);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    let named = format!("weights {weights}, not 00000000");
    assert!(String::from_utf8_lossy(&differs.stdout).contains(&named), "{differs:?}");

    // Other settings are another key: what is there is out of date, and only that arm is trained again.
    let changed = ["--set", "hidden=48"];
    let plan = succeed(&arguments(BOTH, &out, &page, &[&changed[..], &["--plan"]].concat()));
    assert_eq!(plan.matches("out of date").count(), 2, "{plan}");
    succeed(&arguments("byol", &out, &page, &changed));
    assert_ne!(row("byol-0").unwrap(), first[0]);
    assert_eq!(row("byol-no-predictor-0").unwrap(), first[1]);
}

#[test]
fn an_unknown_arm_is_one_sentence_with_the_nearest() {
    let sentence = fail(2, &["study", "methods", "--arms", "byl"]);
    assert!(sentence.contains("'byl'") && sentence.contains("'byol'"), "{sentence}");
}
