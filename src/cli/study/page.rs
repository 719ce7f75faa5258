//! The results as a page of Markdown.

use super::arms::{Arm, Claim};
use super::row::Row;

/// An accuracy above the untrained encoder's by this much is clearly above.
const CLEARLY: f64 = 0.05;

/// Collapsed: an effective rank, a standard deviation or a share of prototypes in use below this share of the method's own.
const COLLAPSED: f64 = 0.5;

/// The page of `rows`, each with its arm and whether it is up to date.
pub(super) fn page(rows: &[(&Arm, bool, Row)]) -> String {
    let mut text = String::from(
        "# Every method on small scenes\n\n\
         Written by `selfsame study methods`. All arms share data, encoder, augmentation and optimiser\n\
         (`configs/small/common.toml`); each method adds its own keys (`configs/small/METHOD.toml`). Accuracies are of the\n\
         frozen encoder on test images. The recipes are meant for a minute of training, not for the best that a method can\n\
         do: compare a row with its ablation and with the untrained encoder, not methods with each other.\n\n",
    );
    if let Some((_, _, row)) = rows.first() {
        text.push_str(&format!(
            "Untrained encoder: kNN {:.1} %. Raw pixels: kNN {:.1} %.\n\n",
            100.0 * row.knn_untrained,
            100.0 * row.knn_pixels
        ));
    }
    text.push_str(
        "| arm | seed | kNN % | untrained % | linear % | embedding std | embedding rank | feature rank | in use | \
         s | MiB | expected | found | key |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (arm, fresh, row) in rows {
        let whole =
            rows.iter().find(|(of, _, of_row)| of.name == arm.method && of_row.seed == 0).map(|(_, _, row)| row);
        let optional = |value: Option<f64>, digits| value.map_or("-".into(), |value| format!("{value:.digits$}"));
        text.push_str(&format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} | {} | {:.1} | {} | {:.0} | {:.0} | {} | {} | {}{} |\n",
            arm.name,
            row.seed,
            100.0 * row.knn,
            100.0 * row.knn_untrained,
            100.0 * row.linear,
            optional(row.embedding_std, 3),
            optional(row.embedding_rank, 1),
            row.feature_rank,
            optional(row.usage, 2),
            row.seconds,
            row.peak_bytes as f64 / (1024.0 * 1024.0),
            arm.claim.name(),
            found(arm.claim, row, whole),
            row.key.short(),
            if *fresh { "" } else { ", out of date" },
        ));
    }
    text.push_str(
        "\n\"Found\" says whether an arm does what is expected: *learns* is a kNN accuracy at least five points above the\n\
         untrained encoder's; *collapses* is an embedding std, an embedding rank or a share of prototypes in use below half\n\
         of the method's own; *loses* gives the points of kNN accuracy against the method with seed 0. The key stands for\n\
         the code and the configuration: a row of another key is out of date.\n",
    );
    text
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
