//! Rows of pictures: augmented views, nearest neighbours.

use selfsame_engine::Result;

use super::text::{decimal, escape};
use super::{NeighbourRow, RgbImage, ViewRow};

fn picture(image: &RgbImage, class: &str, alt: &str) -> Result<String> {
    // Small pictures are shown as the squares they are; smoothing would invent detail.
    let pixelated = if image.width() <= 64 { " pixelated" } else { "" };
    Ok(format!("<img class=\"{class}{pixelated}\" alt=\"{}\" src=\"{}\">", escape(alt), image.to_data_uri()?))
}

/// One strip for each source image: the image, then its views.
pub(super) fn views(rows: &[ViewRow]) -> Result<String> {
    let mut strips = String::new();
    for row in rows {
        let mut strip = format!(
            "<figure>{}<figcaption>source</figcaption></figure>",
            picture(&row.source, "source", "source image")?
        );
        strip += "<span class=\"arrow\" aria-hidden=\"true\">→</span>";
        for (at, view) in row.views.iter().enumerate() {
            let name = format!("view {}", at + 1);
            strip += &format!("<figure>{}<figcaption>{name}</figcaption></figure>", picture(view, "view", &name)?);
        }
        strips += &format!("<div class=\"strip\">{strip}</div>");
    }
    Ok(format!("<div class=\"panel strips\">{strips}</div>"))
}

/// One row for each query: the query, then what was found, framed and marked by whether the class is the same.
pub(super) fn neighbours(rows: &[NeighbourRow]) -> Result<String> {
    let mut body = String::new();
    for row in rows {
        let mut cells = format!(
            "<figure class=\"query\">{}<figcaption><b>{}</b><span>query</span></figcaption></figure>",
            picture(&row.query, "", "query")?,
            escape(&row.class)
        );
        for neighbour in &row.neighbours {
            let (tone, mark) = match neighbour.class == row.class {
                _ if row.class.is_empty() => ("", ""),
                true => ("same", "<i class=\"mark\" aria-hidden=\"true\">✓</i>"),
                false => ("other", "<i class=\"mark\" aria-hidden=\"true\">✕</i>"),
            };
            cells += &format!(
                "<figure class=\"{tone}\">{}{mark}<figcaption><b>{}</b><span>{}</span></figcaption></figure>",
                picture(&neighbour.image, "", "neighbour")?,
                escape(&neighbour.class),
                decimal(neighbour.similarity, 3, false)
            );
        }
        body += &format!("<div class=\"row\">{cells}</div>");
    }
    let labelled = rows.iter().filter(|row| !row.class.is_empty());
    let verdicts: Vec<bool> =
        labelled.flat_map(|row| row.neighbours.iter().map(|neighbour| neighbour.class == row.class)).collect();
    let mut note = String::from("The number is the cosine similarity.");
    if !verdicts.is_empty() {
        let same = verdicts.iter().filter(|&&same| same).count();
        note = format!("{same} of {} neighbours shown are of the query's class. {note}", verdicts.len());
    }
    Ok(format!("<p class=\"note\">{note}</p><div class=\"panel rows\">{body}</div>"))
}
