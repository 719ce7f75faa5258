//! `metrics.jsonl`: one JSON object a line, `{"step": 12, "loss": 4.81, ...}`.
//!
//! Keys are paths (`loss`, `grad/norm`, `eval/knn`, `time/data`). A number that is not finite is written as `null`,
//! since JSON has no other word for it. Lines of the kind `{"step": 12, "warning": "..."}` carry text.

use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

use super::lines::{self, LineWriter, Trimmed};

/// What a line should be, for errors.
const LINE: &str = "a JSON object with a whole-number `step`";

/// Appends lines to `metrics.jsonl`; each line is one write, so that a crash tears at most the last one.
#[derive(Debug)]
pub struct MetricsWriter(LineWriter);

/// One line, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Training steps done.
    pub step: u64,
    /// Keys and values in the order of the line; `null` reads as NaN.
    pub values: Vec<(String, f64)>,
    /// The text of a warning line.
    pub warning: Option<String>,
}

impl MetricsWriter {
    /// Starts an empty file at `path`.
    ///
    /// Errors: `Io`.
    pub fn create(path: impl Into<PathBuf>) -> Result<MetricsWriter> {
        LineWriter::create(path.into()).map(MetricsWriter)
    }

    /// Continues the file at `path` after `step` steps: drops a torn last line and the lines of later steps, so
    /// that a resumed run leaves the same lines as one that was never interrupted. A missing file counts as empty.
    ///
    /// Errors: `Io`, `Corrupt` when a line before the last is no metrics line.
    pub fn resume(path: impl Into<PathBuf>, step: u64) -> Result<(MetricsWriter, Trimmed)> {
        let (writer, _, trimmed) =
            LineWriter::resume(path.into(), LINE, parse_line, |record: &Record| record.step <= step)?;
        Ok((MetricsWriter(writer), trimmed))
    }

    /// Writes one line of numbers. The key `step` is taken by the step itself and must not be among `values`.
    ///
    /// Errors: `Io`, `Config` for a reserved key.
    pub fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::with_capacity(values.len() + 1);
        line.insert("step".into(), step.into());
        for &(key, value) in values {
            if matches!(key, "step" | "warning") {
                return Err(Error::new(ErrorKind::Config, "metrics", format!("a value named {key:?}"))
                    .expected("another name: each line has `step`, and `warning` is for text"));
            }
            line.insert(key.into(), value.into());
        }
        self.write_line(line)
    }

    /// Writes one line of text, such as what a stuck loss is stuck at.
    ///
    /// Errors: `Io`.
    pub fn warn(&mut self, step: u64, text: &str) -> Result<()> {
        self.write_line(Map::from_iter([("step".into(), step.into()), ("warning".into(), text.into())]))
    }

    /// Makes all lines durable; to be called before the checkpoint of the same step is saved.
    ///
    /// Errors: `Io`.
    pub fn sync(&mut self) -> Result<()> {
        self.0.sync()
    }

    fn write_line(&mut self, line: Map<String, Value>) -> Result<()> {
        self.0.write(&Value::Object(line).to_string())
    }
}

/// Reads all whole lines of a metrics file; a torn last line is left out.
///
/// Errors: `Io`, `Corrupt` when a line before the last is no metrics line.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    lines::read_all(path, LINE, parse_line)
}

/// The points `[step, value]` of one key, in the order of the file.
pub fn series(records: &[Record], key: &str) -> Vec<[f64; 2]> {
    let value_of = |record: &Record| record.values.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
    records.iter().filter_map(|record| Some([record.step as f64, value_of(record)?])).collect()
}

fn parse_line(line: &str) -> Option<Record> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { return None };
    let mut record = Record { step: object.get("step")?.as_u64()?, values: Vec::new(), warning: None };
    for (key, value) in object {
        match value {
            Value::Number(number) if key != "step" => record.values.push((key, number.as_f64()?)),
            Value::Null => record.values.push((key, f64::NAN)),
            Value::String(text) if key == "warning" => record.warning = Some(text),
            _ => {}
        }
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file_of(steps: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for step in 1..=steps {
            writer.write(step, &[("loss", 5.0 / step as f64), ("grad/norm", 1.5)]).unwrap();
        }
        writer.sync().unwrap();
        (folder, path)
    }

    #[test]
    fn lines_read_back_exactly() {
        let (_folder, path) = file_of(3);
        let (mut writer, _) = MetricsWriter::resume(&path, 3).unwrap();
        writer.write(4, &[("loss", f64::NAN), ("eval/knn", 0.1 + 0.2)]).unwrap();
        writer.warn(4, "loss is \"stuck\"\nat ln K").unwrap();
        let records = read(&path).unwrap();
        assert_eq!(records.len(), 5);
        assert_eq!(series(&records[..3], "loss"), [[1.0, 5.0], [2.0, 2.5], [3.0, 5.0 / 3.0]]);
        assert!(records[3].values[0].1.is_nan());
        assert_eq!(series(&records, "eval/knn"), [[4.0, 0.1 + 0.2]]);
        assert_eq!(records[4].warning.as_deref(), Some("loss is \"stuck\"\nat ln K"));
        assert!(writer.write(5, &[("step", 1.0)]).is_err());
    }

    #[test]
    fn resume_at_any_cut_leaves_whole_lines_only() {
        let (_folder, path) = file_of(4);
        let whole = fs::read(&path).unwrap();
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let lines = whole[..len].iter().filter(|&&byte| byte == b'\n').count();
            let (mut writer, trimmed) = MetricsWriter::resume(&path, 100).unwrap();
            assert_eq!(trimmed, Trimmed { kept: lines, later: 0, torn: len > 0 && whole[len - 1] != b'\n' });
            writer.write(101, &[]).unwrap();
            assert_eq!(read(&path).unwrap().len(), lines + 1);
        }
    }

    #[test]
    fn resumed_file_equals_an_uninterrupted_one() {
        let (_folder, straight) = file_of(9);
        let (_other, path) = file_of(7);
        let (mut writer, trimmed) = MetricsWriter::resume(&path, 5).unwrap();
        assert_eq!(trimmed, Trimmed { kept: 5, later: 2, torn: false });
        for step in 6..=9 {
            writer.write(step, &[("loss", 5.0 / step as f64), ("grad/norm", 1.5)]).unwrap();
        }
        assert_eq!(fs::read(path).unwrap(), fs::read(straight).unwrap());
    }

    #[test]
    fn damaged_middle_is_named() {
        let (_folder, path) = file_of(3);
        let text = fs::read_to_string(&path).unwrap().replacen("\"step\":2", "\"step\":?", 1);
        fs::write(&path, text).unwrap();
        let error = MetricsWriter::resume(&path, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.sentence().contains("line 2"), "{}", error.sentence());
    }

    #[test]
    fn missing_file_resumes_empty_and_reads_as_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(MetricsWriter::resume(&path, 0).unwrap().1, Trimmed::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_is_an_io_error_with_advice() {
        let mut writer = MetricsWriter::create("/dev/full").unwrap();
        let error = writer.write(1, &[("loss", 1.0)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.sentence().contains("/dev/full") && error.sentence().contains("free some space"));
    }
}
