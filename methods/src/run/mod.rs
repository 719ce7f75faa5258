//! The run directory: everything one training run leaves behind.
//!
//! | file | content |
//! |---|---|
//! | `config.toml` | the resolved configuration |
//! | `manifest.json` | versions, device, seed, data checksum, commands ([`Manifest`]) |
//! | `metrics.jsonl` | one object per line ([`MetricsWriter`]) |
//! | `fingerprints.jsonl` | hashes of what every step computed ([`FingerprintWriter`]) |
//! | `events.out.tfevents.*` | the same for TensorBoard ([`EventWriter`]) |
//! | `checkpoints/` | atomic and checksummed ([`CheckpointStore`]) |
//! | `encoder.safetensors` | the trained encoder |
//! | `report.html` | one page to look at ([`report`]) |
//!
//! Clock times go into the manifest and the metrics alone; everything else is a function of configuration and data.

mod atomic;
pub mod checkpoint_store;
pub mod fingerprints;
mod lines;
pub mod manifest;
pub mod metrics;
pub mod report;
mod source;
pub mod tensorboard;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result};

pub use checkpoint_store::{Checkpoint, CheckpointStore};
pub use fingerprints::{Fingerprint, FingerprintWriter};
pub use lines::Trimmed;
pub use manifest::{Build, Configured, Manifest, Session};
pub use metrics::MetricsWriter;
pub use report::Report;
pub use source::{source_folders, source_hash};
pub use tensorboard::EventWriter;

/// What to do when the directory already holds a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Refuse.
    New,
    /// Continue it; refuse when there is none.
    Resume,
    /// Delete the run's own files (no others) and begin again.
    Replace,
}

/// The directory of one run.
///
/// The process that creates or resumes it holds a lock on it until the value is dropped (or the process ends, in
/// whatever way); [`open`](Self::open) is for readers and takes none.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// Held for its lock alone.
    _lock: Option<File>,
}

const CONFIG: &str = "config.toml";
const MANIFEST: &str = "manifest.json";
const METRICS: &str = "metrics.jsonl";
const FINGERPRINTS: &str = "fingerprints.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const ENCODER: &str = "encoder.safetensors";
const REPORT: &str = "report.html";
const LOCK: &str = ".lock";

impl RunDir {
    /// Makes `path` the directory of a run, with its parents, and locks it.
    ///
    /// Errors: `Config` when `mode` does not fit what is there or another process works on it, `Io`.
    pub fn create(path: impl Into<PathBuf>, mode: CreateMode) -> Result<RunDir> {
        let path = path.into();
        let holds_run = holds(&path, &[CONFIG, MANIFEST, METRICS, CHECKPOINTS]);
        let holds_run = holds_run.map_err(|error| atomic::write_error(&path, &error))?;
        match mode {
            CreateMode::New if holds_run => {
                return Err(Error::new(ErrorKind::Config, path.display().to_string(), "a directory that holds a run")
                    .expected("an empty or new directory")
                    .hint("continue that run with --resume, or give another --out"));
            }
            CreateMode::Resume if !holds_run => return Err(no_run(&path)),
            _ => {}
        }
        fs::create_dir_all(&path).map_err(|error| atomic::write_error(&path, &error))?;
        let run = RunDir { _lock: lock(&path)?, path };
        if mode == CreateMode::Replace {
            run.remove_own_files()?;
        }
        Ok(run)
    }

    /// Opens the directory of an existing run for reading.
    ///
    /// Errors: `Config` when it holds none; `Io` when that cannot be found out.
    pub fn open(path: impl Into<PathBuf>) -> Result<RunDir> {
        let path = path.into();
        if !holds(&path, &[CONFIG]).map_err(|error| Error::io(path.join(CONFIG), &error))? {
            return Err(no_run(&path));
        }
        Ok(RunDir { path, _lock: None })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the trained encoder belongs.
    pub fn encoder_path(&self) -> PathBuf {
        self.path.join(ENCODER)
    }

    /// Where the report belongs.
    pub fn report_path(&self) -> PathBuf {
        self.path.join(REPORT)
    }

    /// Where the metrics are.
    pub fn metrics_path(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Writes the resolved configuration.
    ///
    /// Errors: `Io`.
    pub fn write_config(&self, config: &toml::Table) -> Result<()> {
        atomic::write(&self.path.join(CONFIG), config.to_string().as_bytes())
    }

    /// Reads the resolved configuration.
    ///
    /// Errors: `Io`, `Corrupt` when it is no TOML.
    pub fn read_config(&self) -> Result<toml::Table> {
        let path = self.path.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(|error| Error::io(&path, &error))?;
        text.parse().map_err(|error: toml::de::Error| {
            Error::new(ErrorKind::Corrupt, path.display().to_string(), error.message().to_string())
        })
    }

    /// Writes the manifest.
    ///
    /// Errors: `Io`.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        atomic::write(&self.path.join(MANIFEST), manifest.to_json()?.as_bytes())
    }

    /// Reads the manifest.
    ///
    /// Errors: `Io`, `Corrupt`.
    pub fn read_manifest(&self) -> Result<Manifest> {
        let path = self.path.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| Error::io(&path, &error))?;
        Manifest::from_json(&path, &text)
    }

    /// Writes any other file of the run whole: after a crash it is there as before or as it should be.
    ///
    /// Errors: `Io`.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.path.join(name);
        atomic::write(&path, content)?;
        Ok(path)
    }

    /// The metrics of a new run.
    ///
    /// Errors: `Io`.
    pub fn metrics(&self) -> Result<MetricsWriter> {
        MetricsWriter::create(self.metrics_path())
    }

    /// The metrics of a run resumed after `step` steps.
    ///
    /// Errors: as [`MetricsWriter::resume`].
    pub fn resume_metrics(&self, step: u64) -> Result<(MetricsWriter, Trimmed)> {
        MetricsWriter::resume(self.metrics_path(), step)
    }

    /// Where the resolved configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// Where the checkpoints are.
    pub fn checkpoints_path(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Where the fingerprints are.
    pub fn fingerprints_path(&self) -> PathBuf {
        self.path.join(FINGERPRINTS)
    }

    /// The fingerprints of a new run.
    ///
    /// Errors: `Io`.
    pub fn fingerprints(&self) -> Result<FingerprintWriter> {
        FingerprintWriter::create(self.fingerprints_path())
    }

    /// The fingerprints of a run resumed after `step` steps.
    ///
    /// Errors: as [`FingerprintWriter::resume`].
    pub fn resume_fingerprints(&self, step: u64) -> Result<FingerprintWriter> {
        Ok(FingerprintWriter::resume(self.fingerprints_path(), step)?.0)
    }

    /// The TensorBoard events of this process; see [`EventWriter::create`] for `resumed`.
    ///
    /// Errors: `Io`.
    pub fn events(&self, resumed: Option<u64>) -> Result<EventWriter> {
        EventWriter::create(&self.path, resumed)
    }

    /// The checkpoints, of which the last `keep` good ones survive.
    ///
    /// Errors: `Io`.
    pub fn checkpoints(&self, keep: usize) -> Result<CheckpointStore> {
        CheckpointStore::open(self.path.join(CHECKPOINTS), keep)
    }

    /// Writes `report.html` and returns its path.
    ///
    /// Errors: as [`report::write`].
    pub fn write_report(&self, report: &Report) -> Result<PathBuf> {
        let path = self.report_path();
        report::write(&path, report)?;
        Ok(path)
    }

    fn remove_own_files(&self) -> Result<()> {
        let io_error = |error: io::Error| atomic::write_error(&self.path, &error);
        for entry in fs::read_dir(&self.path).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_own = [CONFIG, MANIFEST, METRICS, FINGERPRINTS, ENCODER, REPORT].contains(&name)
                || tensorboard::event_file_number(name).is_some();
            let path = entry.path();
            let removed = match name {
                CHECKPOINTS => fs::remove_dir_all(&path),
                _ if is_own => fs::remove_file(&path),
                _ => Ok(()),
            };
            removed.map_err(|error| atomic::write_error(&path, &error))?;
        }
        Ok(())
    }
}

/// Whether any of `names` is in `folder`. A folder that may not be looked into is an error, not one without them.
fn holds(folder: &Path, names: &[&str]) -> io::Result<bool> {
    names.iter().try_fold(false, |found, name| Ok(found || folder.join(name).try_exists()?))
}

#[track_caller]
fn no_run(path: &Path) -> Error {
    Error::new(ErrorKind::Config, path.display().to_string(), "no run in this directory")
        .expected(format!("a run directory with its {CONFIG}"))
        .hint("check the path; to begin a run there, leave out --resume")
}

/// Two processes that write one run would destroy it. `None` where the file system knows no locks.
fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| atomic::write_error(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Config, folder.display().to_string(), "a run that another process works on")
                .hint("wait for it to end, or give another --out"))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(seed: i64) -> toml::Table {
        toml::Table::from_iter([("seed".to_string(), toml::Value::Integer(seed))])
    }

    #[test]
    fn new_refuses_a_directory_that_holds_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/first");
        let run = RunDir::create(&path, CreateMode::New).unwrap();
        run.write_config(&config(3)).unwrap();
        drop(run);
        let error = RunDir::create(&path, CreateMode::New).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.sentence().contains("--resume"), "{}", error.sentence());
        assert_eq!(RunDir::create(&path, CreateMode::Resume).unwrap().read_config().unwrap(), config(3));
    }

    #[test]
    fn new_accepts_a_directory_with_other_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        RunDir::create(folder.path(), CreateMode::New).unwrap();
    }

    #[test]
    fn resume_and_open_refuse_a_directory_without_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none");
        for error in [RunDir::create(&missing, CreateMode::Resume).unwrap_err(), RunDir::open(&missing).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Config);
        }
        assert!(!missing.exists(), "a refused directory is not created");
    }

    /// Permissions do not bind every user; a link to itself can be followed by nobody.
    #[cfg(unix)]
    #[test]
    fn a_directory_that_cannot_be_looked_into_is_an_io_error() {
        let folder = tempfile::tempdir().unwrap();
        let (run, file) = (folder.path().join("run"), folder.path().join("plain"));
        fs::create_dir(&run).unwrap();
        std::os::unix::fs::symlink(CONFIG, run.join(CONFIG)).unwrap();
        fs::write(&file, "a file").unwrap();
        for (path, name) in [(&run, "run"), (&file, "plain"), (&file.join("below"), "plain")] {
            for error in [RunDir::open(path).unwrap_err(), RunDir::create(path, CreateMode::Resume).unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert!(error.sentence().contains(name), "{error}");
            }
        }
    }

    #[test]
    fn replace_removes_the_run_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), CreateMode::New).unwrap();
        run.write_config(&config(3)).unwrap();
        run.metrics().unwrap().write(1, &[("loss", 1.0)]).unwrap();
        run.events(None).unwrap();
        run.checkpoints(2).unwrap().save(1, b"state").unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        drop(run);
        let run = RunDir::create(folder.path(), CreateMode::Replace).unwrap();
        let mut names: Vec<String> =
            fs::read_dir(run.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [LOCK, "notes.txt"]);
    }

    #[test]
    fn second_writer_is_refused_and_readers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), CreateMode::New).unwrap();
        run.write_config(&config(1)).unwrap();
        let error = RunDir::create(folder.path(), CreateMode::Resume).unwrap_err();
        assert!(error.sentence().contains("another process"), "{}", error.sentence());
        RunDir::open(folder.path()).unwrap();
        drop(run);
        RunDir::create(folder.path(), CreateMode::Resume).unwrap();
    }

    #[test]
    fn manifest_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), CreateMode::New).unwrap();
        let manifest = Manifest {
            version: "0.1.0".into(),
            method: "simclr".into(),
            configuration: vec![],
            seed: u64::MAX,
            numerics: "strict".into(),
            data: "scenes".into(),
            data_checksum: None,
            weights_hash: Some("00ff".into()),
            sessions: vec![
                Session::begin(0, "cpu", "avx2", 2, vec![vec![16, 8]]),
                Session::begin(120, "cpu", "avx2", 1, vec![vec![24]]),
            ],
        };
        run.write_manifest(&manifest).unwrap();
        assert_eq!(run.read_manifest().unwrap(), manifest);
        assert!(manifest.rows().contains(&("resumed at step".into(), "120".into())));
        fs::write(folder.path().join(MANIFEST), "{").unwrap();
        assert_eq!(run.read_manifest().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn path_below_a_file_is_an_io_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plain");
        fs::write(&file, "a file").unwrap();
        let error = RunDir::create(file.join("run"), CreateMode::New).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.sentence().contains("plain"), "{}", error.sentence());
    }
}
