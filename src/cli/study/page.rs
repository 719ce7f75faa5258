//! The results as a page of Markdown.

use std::collections::BTreeSet;

use selfsame_methods::run::{Build, Session};

use super::arms::{ARMS, Arm, Claim};
use super::commit;
use super::row::Row;

/// An accuracy above the untrained encoder's by this much is clearly above.
const CLEARLY: f64 = 0.05;

/// Collapsed: an effective rank, a standard deviation or a share of prototypes in use below this share of the method's own.
const COLLAPSED: f64 = 0.5;

/// The result of an arm, as the page shows it.
pub(super) struct Entry {
    pub(super) arm: &'static Arm,
    /// Whether it is that of this code and configuration.
    pub(super) is_fresh: bool,
    pub(super) row: Row,
    /// Where it was computed; of a run that was resumed, where it ended.
    pub(super) session: Session,
}

/// The page of `entries`.
pub(super) fn page(entries: &[Entry]) -> String {
    let mut text = String::from(
        "# Every method on small scenes\n\n\
         Written by `selfsame study methods`. All arms start from the same data, encoder, augmentation and optimiser\n\
         (`configs/small/common.toml`); `configs/small/METHOD.toml` has what a method changes. Accuracies are of the\n\
         frozen encoder on test images. The recipes are meant for a minute of training, not for the best that a method can\n\
         do: compare a row with its ablation and with the untrained encoder, not methods with each other.\n\n",
    );
    if let Some(Entry { row, .. }) = entries.first() {
        text.push_str(&format!("Raw pixels: kNN {:.1} %.\n\n", 100.0 * row.knn_pixels));
    }
    text.push_str(
        "| arm | seed | kNN % | untrained % | linear % | embedding std | embedding rank | feature rank | in use | \
         steps | s | MiB | expected | found | weights | key |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for Entry { arm, is_fresh, row, .. } in entries {
        let whole = row_of(entries, arm.method, row.seed);
        let optional = |value: Option<f64>, digits| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        text.push_str(&format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} | {} | {:.1} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {}{} |\n",
            arm.name,
            row.seed,
            100.0 * row.knn,
            100.0 * row.knn_untrained,
            100.0 * row.linear,
            optional(row.embedding_std, 3),
            optional(row.embedding_rank, 1),
            row.feature_rank,
            optional(row.usage, 2),
            row.steps,
            row.seconds,
            row.peak_bytes as f64 / (1024.0 * 1024.0),
            arm.claim.name(),
            found(arm.claim, row, whole),
            row.weights_hash.get(..8).unwrap_or_default(),
            row.key.short(),
            if *is_fresh { "" } else { ", out of date" },
        ));
    }
    text.push_str(
        "\n\"Found\" says whether an arm does what is expected: *learns* is a kNN accuracy at least five points above the\n\
         untrained encoder's; *collapses* is an embedding std, an embedding rank or a share of prototypes in use below half\n\
         of the method's own; *loses* gives the points of kNN accuracy against the method with the same seed. \"Weights\"\n\
         begins the hash of the trained weights. The key stands for the code and the configuration: a row of another key\n\
         is out of date. `selfsame study methods --check` compares results with those of this page.\n",
    );
    text.push_str(&gains(entries));
    text.push_str(&origins(entries));
    text
}

/// What the rows were computed by, and on.
fn origins(entries: &[Entry]) -> String {
    let of = |Entry { row, session, .. }: &Entry| {
        let Build { version, source, compiler, .. } = &row.key.build;
        let Session { device, isa, threads, platform, .. } = session;
        let what = format!("selfsame {version}, source {source}");
        let by = format!("{compiler}, on {platform}, {device}, {isa}, threads of an arm: {threads}");
        (source.clone(), what, by)
    };
    let line = |(source, what, by): (String, String, String)| {
        let commit = commit::of_source(&source).map_or(String::new(), |commit| format!(" (commit {commit})"));
        format!("- {what}{commit}, {by}\n")
    };
    let origins: BTreeSet<_> = entries.iter().map(of).collect();
    match origins.is_empty() {
        true => String::new(),
        false => format!("\n## Computed by\n\n{}", origins.into_iter().map(line).collect::<String>()),
    }
}

/// The row of the arm called `name` with that seed.
fn row_of<'a>(entries: &'a [Entry], name: &str, seed: u32) -> Option<&'a Row> {
    entries.iter().map(|entry| &entry.row).find(|row| row.arm == name && row.seed == seed)
}

/// What the parts gain that the arms of [`Claim::Loses`] are without: means over seeds, or nothing where no arm has two.
fn gains(entries: &[Entry]) -> String {
    let mut text = String::new();
    for arm in ARMS.iter().filter(|arm| arm.claim == Claim::Loses) {
        let differences: Vec<f64> = (0..arm.seeds())
            .filter_map(|seed| {
                Some(100.0 * (row_of(entries, arm.method, seed)?.knn - row_of(entries, arm.name, seed)?.knn))
            })
            .collect();
        if let Some((mean, half_width)) = interval(&differences) {
            let seeds = differences.len();
            text.push_str(&format!("| {} | {} | {mean:+.1} | {half_width:.1} | {seeds} |\n", arm.method, arm.name));
        }
    }
    match text.is_empty() {
        true => text,
        false => format!(
            "\n## What the parts gain\n\n\
             Points of kNN accuracy of the method above the arm without the part, over seeds that both share: the mean, and\n\
             half the width of its 95 % confidence interval (Student's t). The sign is reported, not required.\n\n\
             | method | against | mean | ± | seeds |\n|---|---|---|---|---|\n{text}"
        ),
    }
}

/// Mean and half the width of its 95 % confidence interval; `None` for fewer than two or more than three values.
fn interval(values: &[f64]) -> Option<(f64, f64)> {
    // Student's t at 97.5 % for one and two degrees of freedom.
    let t = match values.len() {
        2 => 12.706,
        3 => 4.303,
        _ => return None,
    };
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (n - 1.0);
    Some((mean, t * (variance / n).sqrt()))
}

/// What became of the claim; `whole` is the method itself.
fn found(claim: Claim, row: &Row, whole: Option<&Row>) -> String {
    match (claim, whole) {
        (Claim::Learns, _) => yes_or_no(row.knn >= row.knn_untrained + CLEARLY),
        (_, None) => "the method itself is not there".into(),
        (Claim::Collapses, Some(whole)) => {
            let below = |of: fn(&Row) -> Option<f64>| match (of(row), of(whole)) {
                (Some(own), Some(whole)) => own < COLLAPSED * whole,
                _ => false,
            };
            yes_or_no(below(|row| row.embedding_std) || below(|row| row.embedding_rank) || below(|row| row.usage))
        }
        (Claim::Loses, Some(whole)) => format!("{:+.1} points", 100.0 * (row.knn - whole.knn)),
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "**no**" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_by_hand() {
        // Deviations -1, 0, 1: variance 1.
        let (mean, half_width) = interval(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(mean, 2.0);
        assert!((half_width - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert!(interval(&[1.0]).is_none());
    }

    #[test]
    fn both_sides_of_a_comparison_have_the_same_seeds() {
        for arm in ARMS.iter().filter(|arm| arm.claim == Claim::Loses) {
            let method = ARMS.iter().find(|other| other.name == arm.method).unwrap();
            assert_eq!((arm.seeds(), method.seeds()), (3, 3), "{}", arm.name);
        }
    }
}
