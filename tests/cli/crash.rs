//! Crash safety of real runs: killed at any moment, out of disk, damaged files. What a run ends with is what a run that
//! nothing happened to ends with.
//!
//! `SELFSAME_KILLS=30 cargo test --test cli crash -- --nocapture` kills a run thirty times and prints a log.

#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{SMALL, fail, json, run, selfsame, stderr, succeed, text};
use selfsame::data::Bitmap;
use selfsame::data::readers::encode_png;
use serde_json::Value;

/// Kills of a run in continuous integration.
const KILLS: u64 = 4;

/// More steps than [`SMALL`] has, so that kills come in all of them, and a checkpoint after every epoch of three.
const LONGER: [&str; 4] = ["--set", "epochs=8", "--set", "eval_every=0"];

fn arguments(out: &Path) -> Vec<&str> {
    let mut arguments = vec!["pretrain", "simclr", "--out", text(out)];
    arguments.extend(SMALL);
    arguments.extend(LONGER);
    arguments
}

/// A run that nothing happens to: its directory and its weights.
fn undisturbed(folder: &Path) -> (PathBuf, Value) {
    let out = folder.join("undisturbed");
    let hash = json(&arguments(&out))["weights_hash"].clone();
    (out, hash)
}

/// Begins the run in `out`, or goes on with it.
fn begin(out: &Path) -> Child {
    let command = if out.join("config.toml").exists() {
        selfsame(&["pretrain", "simclr", "--out", text(out), "--resume"])
    } else {
        selfsame(&arguments(out))
    };
    let mut command = command;
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(mut child: Child) {
    // SIGKILL; it may have ended just now.
    let _ = child.kill();
    child.wait().unwrap();
}

/// Steps of the newest checkpoint whose name stands.
fn saved(out: &Path) -> u64 {
    let names = fs::read_dir(out.join("checkpoints")).into_iter().flatten().filter_map(|entry| entry.ok());
    let step = |name: String| name.strip_prefix("step-")?.strip_suffix(".ckpt")?.parse().ok();
    names.filter_map(|entry| step(entry.file_name().into_string().ok()?)).max().unwrap_or(0)
}

/// Finishes the run in `out` and compares everything that a run leaves with the undisturbed one.
fn expect_same_end(out: &Path, (straight, hash): &(PathBuf, Value)) {
    let resumed = json(&["pretrain", "simclr", "--out", text(out), "--resume"]);
    assert_eq!(&resumed["weights_hash"], hash);
    assert!(succeed(&["compare", text(straight), text(out)]).contains("identical through step 24"));
    let fingerprints = |run: &Path| fs::read(run.join("fingerprints.jsonl")).unwrap();
    assert!(fingerprints(out) == fingerprints(straight), "fingerprints of the same lines");
    let encoder = |run: &Path| fs::read(run.join("encoder.safetensors")).unwrap();
    assert!(encoder(out) == encoder(straight), "encoders of the same bytes");
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let straight = undisturbed(folder.path());
    let whole = started.elapsed();
    let kills = std::env::var("SELFSAME_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    // Weyl's sequence of the golden ratio: moments that spread over a run, for any number of kills.
    let mut moments = (1..).map(|number| whole.mul_f64((f64::from(number) * 0.618_033_988_75).fract() * 0.6));
    // At least one kill must leave a checkpoint to go on from, or nothing was resumed.
    let (mut killed, mut resumable, mut run) = (0, 0, 0);
    while killed < kills || resumable == 0 {
        run += 1;
        let out = folder.path().join(format!("killed-{run}"));
        let mut before = 0;
        while (killed < kills || resumable == 0) && !out.join("encoder.safetensors").exists() {
            let wait = moments.next().expect("it goes on for ever");
            let mut child = begin(&out);
            std::thread::sleep(wait);
            if child.try_wait().unwrap().is_some() {
                break;
            }
            kill(child);
            killed += 1;
            let now = saved(&out);
            println!("kill {killed}, run {run}: after {:.2} s, checkpoint of step {now}", wait.as_secs_f64());
            assert!(now >= before, "a good checkpoint was lost: step {before}, then {now}");
            before = now;
            resumable += u64::from(now > 0);
        }
        if !out.join("config.toml").exists() {
            begin(&out).wait().unwrap();
        }
        expect_same_end(&out, &straight);
    }
    println!("{run} runs ended with the bits of the undisturbed one; {resumable} of {killed} kills left a checkpoint");
}

/// Kills while the temporary file of a checkpoint is there.
#[test]
fn a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let straight = undisturbed(folder.path());
    let is_writing = |out: &Path| {
        let names = fs::read_dir(out.join("checkpoints")).into_iter().flatten().filter_map(|entry| entry.ok());
        names.into_iter().any(|entry| entry.path().extension().is_some_and(|ending| ending == "partial"))
    };
    let mut torn = 0;
    // A kill may come too late; then the next run gets some.
    for number in 0.. {
        let out = folder.path().join(format!("killed-{number}"));
        for _ in 0..6 {
            let mut child = begin(&out);
            let started = Instant::now();
            while !is_writing(&out) && child.try_wait().unwrap().is_none() {
                assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint within two minutes");
            }
            kill(child);
            torn += usize::from(is_writing(&out));
            if out.join("encoder.safetensors").exists() {
                break;
            }
        }
        if !out.join("config.toml").exists() {
            begin(&out).wait().unwrap();
        }
        expect_same_end(&out, &straight);
        if torn > 0 {
            break;
        }
    }
    println!("{torn} checkpoints were torn");
}

/// A limit on the size of files stands for a full disk: the write of a checkpoint fails in its middle.
#[test]
fn a_run_that_cannot_write_says_so_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let straight = undisturbed(folder.path());
    let out = folder.path().join("full");
    let size = fs::metadata(straight.0.join("checkpoints/step-000000000024.ckpt")).unwrap().len();
    // Blocks of 512 bytes: the first checkpoint fits not, and later not either.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", size / 512 / 2);
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, env!("CARGO_BIN_EXE_selfsame")]).args(arguments(&out));
    let failed = limited.output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", stderr(&failed));
    assert!(stderr(&failed).contains("selfsame: ") && stderr(&failed).contains(".ckpt"), "{}", stderr(&failed));
    assert!(!stderr(&failed).contains("panicked"), "{}", stderr(&failed));
    let left = fs::read_dir(out.join("checkpoints")).unwrap().count();
    assert_eq!(left, 0, "no half-written file stays");
    expect_same_end(&out, &straight);
}

#[test]
fn damaged_files_are_survived_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let straight = undisturbed(folder.path());
    let copy = |name: &str| {
        let out = folder.path().join(name);
        let copied = Command::new("cp").args(["-r", text(&straight.0), text(&out)]).status().unwrap();
        assert!(copied.success());
        fs::remove_file(out.join("encoder.safetensors")).unwrap();
        out
    };
    // The newest checkpoint with one bit flipped, at places all over it: the one before serves.
    let newest = "checkpoints/step-000000000024.ckpt";
    let good = fs::read(straight.0.join(newest)).unwrap();
    for part in 0..4 {
        let out = copy(&format!("flipped-{part}"));
        let mut bytes = good.clone();
        let at = part * (bytes.len() - 1) / 3;
        bytes[at] ^= 1 << (part * 2);
        fs::write(out.join(newest), bytes).unwrap();
        expect_same_end(&out, &straight);
    }
    // A kill while the newest was written: half of it, under the name that it has until it is whole.
    let out = copy("torn");
    fs::remove_file(out.join(newest)).unwrap();
    fs::write(out.join(format!("{newest}.partial")), &good[..good.len() / 2]).unwrap();
    expect_same_end(&out, &straight);
    // Metrics and fingerprints cut in the middle of a line.
    let out = copy("cut");
    for name in ["metrics.jsonl", "fingerprints.jsonl"] {
        let bytes = fs::read(out.join(name)).unwrap();
        fs::write(out.join(name), &bytes[..bytes.len() - 25]).unwrap();
    }
    fs::remove_file(out.join(newest)).unwrap();
    expect_same_end(&out, &straight);
    // No good checkpoint at all.
    let out = copy("none");
    for entry in fs::read_dir(out.join("checkpoints")).unwrap() {
        fs::write(entry.unwrap().path(), b"").unwrap();
    }
    let sentence = fail(1, &["pretrain", "simclr", "--out", text(&out), "--resume"]);
    assert!(sentence.contains("none of which is intact"), "{sentence}");
}

/// Trains on `data`, has it changed, and expects that neither a resumed run nor a replay takes the one for the other.
fn expect_noticed(out: &Path, data: &str, change: impl FnOnce()) {
    let mut all = vec!["pretrain", "simclr", "--out", text(out), "--data", data];
    all.extend(&SMALL[2..]);
    json(&all);
    change();
    let sentence = fail(2, &["pretrain", "simclr", "--out", text(out), "--resume"]);
    assert!(sentence.contains("other images") && sentence.contains("checksum"), "{sentence}");
    let replayed = run(&["replay", text(out)]);
    assert_eq!(replayed.status.code(), Some(1), "{}", stderr(&replayed));
    assert!(stderr(&replayed).contains(&format!("differs: data {data}:")), "{}", stderr(&replayed));
}

/// Packed again from other pictures, under the same names.
#[test]
fn a_changed_data_file_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    succeed(&["data", "pack", "scenes:train=96,test=40", "--out", text(&shards)]);
    expect_noticed(&folder.path().join("run"), &format!("shards:{}", text(&shards)), || {
        fs::remove_dir_all(&shards).unwrap();
        succeed(&["data", "pack", "scenes:train=97,test=40", "--out", text(&shards)]);
    });
}

/// One byte of one file, whose name and size stay.
#[test]
fn an_image_changed_in_its_place_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    let picture = |number: u8, grey: u8| {
        let png = encode_png(&Bitmap::new(8, 8, 1, vec![grey; 64]).unwrap()).unwrap();
        fs::write(photos.join(format!("{number:02}.png")), &png).unwrap();
        png.len()
    };
    let sizes: Vec<usize> = (0..96).map(|number| picture(number, number)).collect();
    expect_noticed(&folder.path().join("run"), &format!("folder:{}", text(&photos)), || {
        assert_eq!(picture(40, 200), sizes[40]);
    });
}
