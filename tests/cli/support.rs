//! Runs the binary and looks at what comes out.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command with its arguments, not started.
pub(crate) fn selfsame(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsame"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    selfsame(arguments).output().expect("the binary starts")
}

/// Runs it, expects success, and returns standard output.
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs it with `--json` and returns the object.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let text = succeed(&arguments);
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// Runs it, expects exit status `status` and one sentence on standard error, and returns that sentence.
pub(crate) fn fail(status: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    let sentences: Vec<&str> = text.lines().filter(|line| line.starts_with("selfsame: ")).collect();
    assert_eq!(sentences.len(), 1, "one sentence: {text}");
    sentences[0].to_string()
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

/// Arguments of a training run of seconds: 96 small pictures, a narrow encoder, two threads.
pub(crate) const SMALL: [&str; 16] = [
    "--data",
    "scenes:train=96,test=40",
    "--set",
    "backbone=resnet-small",
    "--set",
    "stem=small",
    "--set",
    "width=0.25",
    "--set",
    "batch=32",
    "--set",
    "epochs=3",
    "--set",
    "eval_every=2",
    "--set",
    "warmup_epochs=1",
];
