//! What is said class by class: the embedding map, the confusion matrix, the accuracy of each class.

use selfsame_engine::Result;

use super::plot::{Axis, COLOURS, svg_text};
use super::text::{escape, percent, script_json};
use super::{Confusion, EmbeddingMap, RgbImage};

/// More classes than this make neither a legible matrix nor a legend.
const LEGIBLE: usize = 20;
/// Of many classes, so many of the best and so many of the worst are listed.
const LISTED: usize = 8;

/// Width and height of the map in its own units, and the margin around its points.
const MAP: [f64; 2] = [520.0, 460.0];
const MARGIN: f64 = 14.0;
/// Thumbnails in one row of the sheet that holds them all.
const SHEET_COLUMNS: usize = 40;

/// The points of `map`, its legend, and the sheet of thumbnails for the pointer.
pub(super) fn map_figure(map: &EmbeddingMap) -> Result<String> {
    let finite = || map.points.iter().filter(|point| point[0].is_finite() && point[1].is_finite());
    let axis = |at: usize| Axis::over(finite().map(|point| f64::from(point[at])), 5, false);
    let axes = [axis(0), axis(1)];
    let place = |at: usize, value: f32| MARGIN + (MAP[at] - 2.0 * MARGIN) * axes[at].at(f64::from(value));
    let mut dots = String::new();
    for (index, (point, class)) in map.points.iter().zip(&map.classes).enumerate() {
        if point[0].is_finite() && point[1].is_finite() {
            let (x, y) = (place(0, point[0]), MAP[1] - place(1, point[1]));
            dots += &format!(
                "<circle class=\"c{}\" data-i=\"{index}\" data-k=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>",
                class % COLOURS
            );
        }
    }
    let names = &map.class_names;
    let key = |(class, name): (usize, &String)| {
        format!(
            "<button type=\"button\" data-k=\"{class}\"><i class=\"k{}\"></i>{}</button>",
            class % COLOURS,
            escape(name)
        )
    };
    let legend: String =
        if names.len() <= LEGIBLE { names.iter().enumerate().map(key).collect() } else { String::new() };
    let (sheet, cell) = match RgbImage::sheet(&map.thumbnails, SHEET_COLUMNS) {
        Some(sheet) => (sheet.to_data_uri()?, [map.thumbnails[0].width(), map.thumbnails[0].height()]),
        None => (String::new(), [0, 0]),
    };
    let columns = SHEET_COLUMNS.min(map.thumbnails.len());
    let sheet = if sheet.is_empty() { sheet } else { format!("<img class=\"sheet\" alt=\"\" hidden src=\"{sheet}\">") };
    let data = script_json(&serde_json::json!({ "names": names, "cell": cell, "columns": columns }));
    Ok(format!(
        "<figure class=\"panel map\"><figcaption><h3>Embedding map</h3></figcaption>\
         <p class=\"note\">{}</p><div class=\"legend keys\">{legend}</div>\
         <svg class=\"scatter\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"Embedding map\">{dots}</svg>\
         {sheet}<script type=\"application/json\">{data}</script></figure>",
        escape(&map.note),
        MAP[0],
        MAP[1]
    ))
}

/// The confusion matrix where it is legible, and the share of each class that was predicted right.
pub(super) fn confusion_figure(confusion: &Confusion) -> String {
    let classes = confusion.class_names.len();
    let rows: Vec<&[u64]> = confusion.counts.chunks(classes.max(1)).collect();
    let matrix = if classes <= LEGIBLE { matrix(confusion, &rows) } else { String::new() };
    let recall = |class: usize| {
        let total: u64 = rows[class].iter().sum();
        rows[class][class] as f64 / total as f64
    };
    let mut order: Vec<usize> = (0..classes).collect();
    if classes > LEGIBLE {
        order.sort_by(|&a, &b| recall(b).total_cmp(&recall(a)));
        order.drain(LISTED..classes - LISTED);
    }
    let bar = |class: usize| {
        let share = recall(class);
        let width = if share.is_finite() { share * 100.0 } else { 0.0 };
        format!(
            "<li><span>{}</span><b class=\"bar\"><i style=\"width:{width:.1}%\"></i></b><em>{}</em></li>",
            escape(&confusion.class_names[class]),
            percent(share)
        )
    };
    let heading = if classes > LEGIBLE { "Best and worst classes" } else { "Accuracy by class" };
    let bars: String = order.into_iter().map(bar).collect();
    let note = escape(&confusion.predictor);
    format!(
        "{matrix}<figure class=\"panel wide\"><figcaption><h3>{heading}</h3></figcaption>\
         <p class=\"note\">{note}</p><ul class=\"bars\">{bars}</ul></figure>"
    )
}

fn matrix(confusion: &Confusion, rows: &[&[u64]]) -> String {
    const CELL: f64 = 40.0;
    const LABELS: f64 = 84.0;
    let names = &confusion.class_names;
    let size = CELL * names.len() as f64;
    let short = |name: &str| {
        let mut letters = name.chars();
        let head: String = letters.by_ref().take(11).collect();
        if letters.next().is_some() { format!("{head}…") } else { head }
    };
    let mut body = String::new();
    for (truth, row) in rows.iter().enumerate() {
        let total = row.iter().sum::<u64>().max(1);
        let y = CELL * truth as f64;
        body += &svg_text(LABELS - 8.0, y + CELL / 2.0 + 4.0, "end", &short(&names[truth]));
        for (predicted, &count) in row.iter().enumerate() {
            let share = count as f64 / total as f64;
            let x = LABELS + CELL * predicted as f64;
            let tone = match count {
                0 => "none",
                _ if truth == predicted => "right",
                _ => "wrong",
            };
            body += &format!(
                "<rect class=\"{tone}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{2}\" height=\"{2}\" rx=\"3\" \
                 fill-opacity=\"{3:.3}\"><title>{4} taken for {5}: {count} ({6})</title></rect>",
                x + 1.0,
                y + 1.0,
                CELL - 2.0,
                if count == 0 { 1.0 } else { 0.08 + 0.92 * share },
                escape(&names[truth]),
                escape(&names[predicted]),
                percent(share)
            );
            if count > 0 {
                let class = if share > 0.5 { "mid inverse" } else { "mid" };
                body += &svg_text(x + CELL / 2.0, y + CELL / 2.0 + 4.0, class, &count.to_string());
            }
        }
    }
    for (predicted, name) in names.iter().enumerate() {
        let (x, y) = (LABELS + CELL * (predicted as f64 + 0.5), size + 12.0);
        body += &format!(
            "<text class=\"end\" transform=\"translate({x:.1} {y:.1}) rotate(-40)\">{}</text>",
            escape(&short(name))
        );
    }
    format!(
        "<figure class=\"panel\"><figcaption><h3>Confusion matrix</h3></figcaption>\
         <p class=\"note\">{}. Rows: true class; columns: predicted class; shade: share of the row.</p>\
         <svg class=\"matrix\" viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"Confusion matrix\">{body}</svg>\
         </figure>",
        escape(&confusion.predictor),
        LABELS + size,
        size + 70.0
    )
}
