//! Files of one JSON object a line, appended to during a run: a crash tears at most the last line, and a resumed run
//! leaves the same lines as one that was never interrupted.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result};

use super::atomic;

/// Appends lines; each is one write.
#[derive(Debug)]
pub(super) struct LineWriter {
    path: PathBuf,
    file: File,
}

/// What resuming a file found and took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Lines that stayed.
    pub kept: usize,
    /// Whole lines of steps after the resumed one; they will be written again.
    pub later: usize,
    /// Whether the last line was torn by a crash.
    pub torn: bool,
}

impl LineWriter {
    /// Starts an empty file.
    pub(super) fn create(path: PathBuf) -> Result<LineWriter> {
        let file = File::create(&path).map_err(|error| atomic::write_error(&path, &error))?;
        Ok(LineWriter { path, file })
    }

    /// Continues a file with those of its lines that `keep` wants. A missing file counts as empty.
    pub(super) fn resume<T>(
        path: PathBuf,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
        keep: impl Fn(&T) -> bool,
    ) -> Result<(LineWriter, Vec<T>, Trimmed)> {
        let text = read_text(&path, true)?;
        let (lines, torn) = parse(&path, &text, what, read)?;
        let all = lines.len();
        let kept: Vec<(T, &str)> = lines.into_iter().filter(|(line, _)| keep(line)).collect();
        let trimmed = Trimmed { kept: kept.len(), later: all - kept.len(), torn };
        if trimmed.later > 0 || torn {
            atomic::write_with(&path, |out| kept.iter().try_for_each(|(_, line)| writeln!(out, "{line}")))?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|error| atomic::write_error(&path, &error))?;
        Ok((LineWriter { path, file }, kept.into_iter().map(|(line, _)| line).collect(), trimmed))
    }

    /// Appends `line`, which has no line break.
    pub(super) fn write(&mut self, line: &str) -> Result<()> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|error| atomic::write_error(&self.path, &error))
    }

    /// Makes all lines durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|error| atomic::write_error(&self.path, &error))
    }
}

/// All whole lines of a file; a torn last one is left out. `what` says what a line should be.
pub(super) fn read_all<T>(path: &Path, what: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let text = read_text(path, false)?;
    Ok(parse(path, &text, what, read)?.0.into_iter().map(|(line, _)| line).collect())
}

fn read_text(path: &Path, missing_is_empty: bool) -> Result<String> {
    match fs::read(path) {
        // A crash may cut a multi-byte character; the torn line goes anyway.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if missing_is_empty && error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::io(path, &error)),
    }
}

/// The whole lines with their text, and whether a torn one followed.
fn parse<'a, T>(
    path: &Path,
    text: &'a str,
    what: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<(Vec<(T, &'a str)>, bool)> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((line, after)) = rest.split_once('\n') {
        match read(line) {
            Some(value) => lines.push((value, line)),
            // Blocks may reach the disk out of order: a torn end can even hold a line break.
            None if after.is_empty() => return Ok((lines, true)),
            None => {
                let number = lines.len() + 1;
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} line {number}", path.display()),
                    line.chars().take(60).collect::<String>(),
                )
                .expected(what)
                .hint("delete that line to go on"));
            }
        }
        rest = after;
    }
    Ok((lines, !rest.is_empty()))
}
