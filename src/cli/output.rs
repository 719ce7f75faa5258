//! Standard output, as text or as one JSON object.

use std::io::{self, ErrorKind as IoErrorKind, Write};

use selfsame_engine::{Error, Result};
use serde_json::Value;

/// Where results go.
pub(crate) struct Output {
    writer: Box<dyn Write>,
    closed: bool,
}

impl Output {
    /// The standard output of this process.
    pub(crate) fn stdout() -> Output {
        Output { writer: Box::new(io::stdout()), closed: false }
    }

    /// Whether the reader went away (`selfsame … | head`); what was wanted has been delivered then.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes `text`, ending the line if it does not.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let written = write!(self.writer, "{text}{end}").and_then(|()| self.writer.flush());
        written.map_err(|error| {
            self.closed = error.kind() == IoErrorKind::BrokenPipe;
            Error::io("standard output", &error)
        })
    }

    /// Writes one JSON object on one line.
    pub(crate) fn json(&mut self, object: &Value) -> Result<()> {
        self.text(&object.to_string())
    }
}

/// Columns under headings, two spaces apart; a column is right-aligned when `numeric` says so.
pub(crate) fn table(headings: &[&str], numeric: &[bool], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = widths[column];
                if numeric[column] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headings);
    for row in rows {
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}
