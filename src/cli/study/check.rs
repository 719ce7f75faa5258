//! Whether results are those of a page that was written before, by this machine or another.

use std::collections::BTreeMap;

/// Columns that need not agree: of the machine, of the code's text, and of which other arms are on the page.
const OF_THE_RUN: [&str; 4] = ["s", "MiB", "found", "key"];

/// The cells of a row by column, under its arm and seed.
type Rows<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<&'a str, &'a str>>;

/// What was found of a row that is on both pages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) arm: String,
    pub(super) seed: String,
    /// The columns that differ, as `column here, not there`; none when the row is the same.
    pub(super) differences: Vec<String>,
}

/// Compares the rows that both pages have, in all columns of results that both have.
pub(super) fn compared(own: &str, published: &str) -> Vec<Compared> {
    let (own, published) = (rows(own), rows(published));
    let on_both = own.iter().filter_map(|(row, cells)| Some((row, cells, published.get(row)?)));
    on_both
        .map(|((arm, seed), cells, there)| {
            let results = cells.iter().filter(|(column, _)| !OF_THE_RUN.contains(column));
            let differences = results.filter_map(|(column, cell)| {
                let other = there.get(column)?;
                (cell != other).then(|| format!("{column} {cell}, not {other}"))
            });
            Compared { arm: arm.to_string(), seed: seed.to_string(), differences: differences.collect() }
        })
        .collect()
}

/// The rows of the page's table of arms.
fn rows(page: &str) -> Rows<'_> {
    let cells = |line| -> Vec<&str> { str::trim_matches(line, ['|', ' ']).split('|').map(str::trim).collect() };
    let mut table =
        page.lines().skip_while(|line| !line.starts_with("| arm |")).take_while(|line| line.starts_with('|'));
    let columns = table.next().map(cells).unwrap_or_default();
    let row = |line| -> BTreeMap<&str, &str> { columns.iter().copied().zip(cells(line)).collect() };
    // After a line of dashes.
    table.skip(1).map(row).filter_map(|row| Some(((*row.get("arm")?, *row.get("seed")?), row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: &str = "# Page\n\n| arm | seed | kNN % | s | key |\n|---|---|---|---|---|\n\
                             | a | 0 | 50.1 | 12 | 01 |\n| a | 1 | 50.2 | 13 | 02 |\n\nText.\n\n| method | mean |\n";

    #[test]
    fn results_are_compared_and_times_are_not() {
        let own = "| arm | seed | kNN % | s | key | weights |\n|---|---|---|---|---|---|\n\
                   | a | 0 | 50.1 | 99 | 03 | ff |\n| a | 1 | 50.3 | 13 | 02 | fe |\n| b | 0 | 1.0 | 1 | 04 | fd |\n";
        let found = compared(own, PUBLISHED);
        let row = |seed: &str, differences: Vec<String>| Compared { arm: "a".into(), seed: seed.into(), differences };
        assert_eq!(found, [row("0", vec![]), row("1", vec!["kNN % 50.3, not 50.2".into()])]);
    }

    #[test]
    fn a_page_without_the_table_has_no_rows() {
        assert!(compared("nothing", PUBLISHED).is_empty());
    }
}
