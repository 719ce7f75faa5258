//! Bad input: one clear sentence, the right exit status, nothing lost.

use std::fs;
use std::path::Path;

use crate::support::{SMALL, fail, run, selfsame, stderr, text};

/// Tries to train on `data` and returns the sentence; nothing may be left at the run directory.
fn refused(status: i32, data: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let sentence = fail(status, &["pretrain", "simclr", "--data", data, "--out", text(&out)]);
    assert!(!out.exists(), "a run directory for data that cannot be read");
    sentence
}

#[test]
fn names_that_do_not_exist_get_the_nearest() {
    assert!(fail(2, &["pretrain", "simcrl", "--out", "/nowhere"]).contains("'simclr'"));
    assert!(fail(2, &["show", "simclr", "temprature=1"]).contains("'temperature'"));
    assert!(fail(2, &["show", "simclr", "epochs=many"]).contains("whole number"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    for (setting, near) in [("backbone=resnet8", "resnet"), ("optimizer=sdg", "'sgd'"), ("temperature=-1", "above 0")] {
        let sentence = fail(2, &["pretrain", "simclr", "--out", text(&out), "--set", setting]);
        assert!(sentence.contains(near), "{setting}: {sentence}");
    }
    assert!(fail(2, &["loss", "ntxnet", "--input", "a", "--output", "b"]).contains("'ntxent'"));
    assert!(refused(2, "scense").contains("scenes"));
}

#[test]
fn missing_truncated_and_undecodable_data_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    assert!(refused(1, &format!("cifar10:{}", text(dir))).contains("data_batch_1.bin"));

    for number in 1..=5 {
        fs::write(dir.join(format!("data_batch_{number}.bin")), vec![0u8; 3073 * 2 - 5]).unwrap();
    }
    fs::write(dir.join("test_batch.bin"), vec![0u8; 3073]).unwrap();
    assert!(refused(1, &format!("cifar10:{}", text(dir))).contains("data_batch_1.bin"));

    let images = dir.join("images");
    for class in ["cat", "dog"] {
        fs::create_dir_all(images.join(class)).unwrap();
    }
    assert!(refused(1, &format!("folder:{}", text(&images))).contains("images"));
}

#[test]
fn an_empty_class_folder_and_a_broken_image_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path();
    write_pictures(&images.join("cat"), 40);
    fs::create_dir_all(images.join("dog")).unwrap();
    let data = format!("folder:{}", text(images));
    assert!(refused(1, &data).contains("dog"));

    write_pictures(&images.join("dog"), 40);
    fs::write(images.join("dog/broken.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    let out = folder.path().join("run");
    let mut arguments = vec!["pretrain", "simclr", "--data", &data, "--out", text(&out)];
    arguments.extend(&SMALL[2..]);
    assert!(fail(1, &arguments).contains("broken.png"));
}

/// Pictures of one colour, from the data set's own encoder's point of view nothing special.
fn write_pictures(folder: &Path, count: u8) {
    use selfsame::methods::run::report::RgbImage;
    fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let picture = RgbImage::new(32, 32, vec![number; 32 * 32 * 3]).unwrap();
        fs::write(folder.join(format!("{number:02}.png")), picture.to_png().unwrap()).unwrap();
    }
}

#[test]
fn tensors_that_do_not_fit_are_described() {
    use selfsame::engine::{Array, Device, TensorFile};
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("z.safetensors"), folder.path().join("g.safetensors"));
    let z = Array::from_slice(&[1f32; 15], &[5, 3], &Device::cpu_with(1).unwrap()).unwrap();
    let named = |name: &str| TensorFile { tensors: [(name.to_string(), z.clone())].into(), ..TensorFile::default() };
    named("z").write(&input).unwrap();
    let loss = ["loss", "ntxent", "--input", text(&input), "--output", text(&output)];
    let sentence = fail(1, &loss);
    assert!(sentence.contains("[5, 3]") && sentence.contains("[2N, D]"), "{sentence}");
    named("y").write(&input).unwrap();
    assert!(fail(2, &loss).contains("'y'"));
    fs::write(&input, "no tensors").unwrap();
    assert!(fail(1, &loss).contains("z.safetensors"));
    assert!(!output.exists());
}

#[test]
fn a_loss_that_is_not_finite_names_its_operation_and_keeps_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut arguments = vec!["pretrain", "simclr", "--out", text(&out)];
    arguments.extend(SMALL);
    arguments.extend(["--set", "lr=1e30", "--set", "lr_scaling=none", "--set", "momentum=0.0"]);
    let sentence = fail(1, &arguments);
    assert!(sentence.contains("step ") && sentence.contains("the first is in "), "{sentence}");
    let checkpoints = fs::read_dir(out.join("checkpoints")).unwrap().count();
    assert!(checkpoints >= 1);
    assert!(!out.join("encoder.safetensors").exists());
}

#[test]
fn a_run_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("config.toml"), "precious = true\n").unwrap();
    assert!(fail(2, &["pretrain", "simclr", "--out", text(&out)]).contains("--resume"));
    assert!(fail(2, &["demo", "--fast", "--out", text(&out)]).contains("--out"));
    assert_eq!(fs::read_to_string(out.join("config.toml")).unwrap(), "precious = true\n");
    let nothing = folder.path().join("nothing");
    assert!(fail(2, &["pretrain", "simclr", "--out", text(&nothing), "--resume"]).contains("no run"));
}

/// A file-size limit stands in for a full disk: both make a write fail half-way. It is set so that checkpoints fit and
/// the growing event file does not.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (probe, out) = (folder.path().join("probe"), folder.path().join("run"));
    let arguments = |out| {
        let mut arguments = vec!["pretrain", "simclr", "--out", out];
        arguments.extend(SMALL);
        arguments.extend(["--set", "eval_every=0", "--set", "checkpoint_every=10"]);
        arguments
    };
    let mut short = arguments(text(&probe));
    short.extend(["--set", "epochs=1"]);
    assert!(run(&short).status.success());
    let largest = checkpoints(&probe).iter().map(|path| fs::metadata(path).unwrap().len()).max().unwrap();

    let mut long = arguments(text(&out));
    long.extend(["--set", "epochs=300"]);
    let command = selfsame(&long);
    let words: Vec<&str> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_str().unwrap()).collect();
    // Blocks of 512 bytes.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {}", largest / 512 + 16, words.join(" "));
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.lines().any(|line| line.starts_with("selfsame: ") && line.contains("events.out")), "{said}");
    assert!(!checkpoints(&out).is_empty());

    // With room again the run goes on from there to its end.
    let resumed = run(&["pretrain", "simclr", "--out", text(&out), "--resume"]);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert!(out.join("encoder.safetensors").exists());
}

#[cfg(unix)]
fn checkpoints(out: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "ckpt")).collect()
}

#[test]
fn cuts_that_cannot_keep_the_bits_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |status, more: &[&str]| {
        let mut arguments = vec!["pretrain", "simclr", "--out", text(&out)];
        arguments.extend(SMALL);
        arguments.extend(more);
        let sentence = fail(status, &arguments);
        assert!(!out.exists(), "a run directory for a cut that was refused");
        sentence
    };
    assert!(refused(1, &["--set", "batch=64", "--micro-batch", "24"]).contains("multiples of 16"));
    assert!(refused(1, &["--set", "batch=64", "--micro-batch", "32"]).contains("statistics of the whole batch"));
    assert!(refused(2, &["--set", "batch=32", "--ranks", "3"]).contains("1 to 2"));
    assert!(refused(2, &["--set", "batch_norm=frosen"]).contains("'frozen'"));
}
