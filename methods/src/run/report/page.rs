//! The page itself: its sections in order, each left out when there is nothing to show.

use selfsame_engine::Result;

use super::text::{decimal, duration, escape, memory, number, percent};
use super::{Cost, Headline, Report, Setting, classes, pictures, plot};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Two equal squares, one seen through the other.
const LOGO: &str = "<svg class=\"logo\" viewBox=\"0 0 28 20\" aria-hidden=\"true\">\
    <rect x=\"1\" y=\"1\" width=\"18\" height=\"18\" rx=\"4\"/>\
    <rect x=\"9\" y=\"1\" width=\"18\" height=\"18\" rx=\"4\"/></svg>";

pub(super) fn render(report: &Report) -> Result<String> {
    let mut page = Page::default();
    if !report.curves.is_empty() {
        let figures: String = report.curves.iter().map(plot::figure).collect();
        page.section("training", "Training", &format!("<div class=\"charts\">{figures}</div>"));
    }
    if !report.neighbours.is_empty() {
        page.section("neighbours", "Nearest neighbours", &pictures::neighbours(&report.neighbours)?);
    }
    if report.map.is_some() || report.confusion.is_some() {
        let map = report.map.as_ref().map(classes::map_figure).transpose()?.unwrap_or_default();
        let confusion = report.confusion.as_ref().map(classes::confusion_figure).unwrap_or_default();
        page.section("classes", "Classes", &format!("<div class=\"pair\">{map}{confusion}</div>"));
    }
    if !report.views.is_empty() {
        let note = "<p class=\"note\">What the encoder is trained to see as the same.</p>";
        page.section("views", "Augmented views", &format!("{note}{}", pictures::views(&report.views)?));
    }
    if let Some(cost) = &report.cost {
        page.section("cost", "Time and memory", &cost_panel(cost));
    }
    if !report.configuration.is_empty() || !report.manifest.is_empty() {
        let tables = format!("{}{}", configuration(&report.configuration), manifest(&report.manifest));
        page.section("configuration", "Configuration", &format!("<div class=\"tables\">{tables}</div>"));
    }
    let title = escape(&report.title);
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n\
         <body>\n<header><p class=\"brand\">{LOGO}selfsame<span>run report</span></p>\n<h1>{title}</h1>\n\
         <p class=\"subtitle\">{}</p>\n{}<nav>{}</nav></header>\n<main>\n{}{}</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escape(&report.subtitle),
        warnings(&report.warnings),
        page.links,
        headlines(&report.headlines),
        page.sections,
    ))
}

#[derive(Default)]
struct Page {
    links: String,
    sections: String,
}

impl Page {
    fn section(&mut self, id: &str, title: &str, content: &str) {
        self.links += &format!("<a href=\"#{id}\">{title}</a>");
        self.sections += &format!("<section id=\"{id}\"><h2>{title}</h2>{content}</section>\n");
    }
}

fn warnings(warnings: &[String]) -> String {
    warnings.iter().map(|text| format!("<p class=\"warning\" role=\"note\">{}</p>\n", escape(text))).collect()
}

fn headlines(headlines: &[Headline]) -> String {
    let card = |headline: &Headline| {
        let meter = match headline.fraction {
            Some(fraction) if fraction.is_finite() => {
                format!("<b class=\"bar\"><i style=\"width:{:.1}%\"></i></b>", fraction.clamp(0.0, 1.0) * 100.0)
            }
            _ => String::new(),
        };
        format!(
            "<div class=\"card\"><h3>{}</h3><p class=\"figure\">{}</p>{meter}<p class=\"detail\">{}</p></div>",
            escape(&headline.label),
            escape(&headline.value),
            escape(&headline.detail)
        )
    };
    if headlines.is_empty() {
        return String::new();
    }
    format!("<div class=\"cards\">{}</div>\n", headlines.iter().map(card).collect::<String>())
}

fn cost_panel(cost: &Cost) -> String {
    let mut facts = vec![
        ("throughput", format!("{} images/s", number(cost.images_per_second))),
        ("training time", duration(cost.seconds)),
        ("steps", decimal(cost.steps as f64, 0, false)),
    ];
    if cost.steps > 0 {
        facts.push(("per step", format!("{} ms", decimal(cost.seconds * 1000.0 / cost.steps as f64, 1, false))));
    }
    facts.extend(cost.peak_bytes.map(|bytes| ("peak memory", memory(bytes))));
    let facts: String =
        facts.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).collect();

    let total: f64 = cost.phases.iter().map(|phase| phase.seconds).sum();
    let share = |seconds: f64| if total > 0.0 { seconds / total } else { 0.0 };
    let (mut bar, mut legend) = (String::new(), String::new());
    for (at, phase) in cost.phases.iter().enumerate() {
        let (colour, label, share) = (at % plot::COLOURS, escape(&phase.label), share(phase.seconds));
        let per_step = if cost.steps > 0 {
            format!(" · {} ms/step", decimal(phase.seconds * 1000.0 / cost.steps as f64, 1, false))
        } else {
            String::new()
        };
        bar += &format!(
            "<i class=\"k{colour}\" style=\"flex-grow:{share:.4}\" title=\"{label}: {}\"></i>",
            percent(share)
        );
        legend += &format!("<li><i class=\"k{colour}\"></i>{label}<em>{}{per_step}</em></li>", percent(share));
    }
    let split = if total > 0.0 {
        format!("<div class=\"stack\">{bar}</div><ul class=\"legend split\">{legend}</ul>")
    } else {
        String::new()
    };
    format!("<div class=\"panel\"><dl class=\"facts\">{facts}</dl>{split}</div>")
}

fn configuration(settings: &[Setting]) -> String {
    let row = |setting: &Setting| {
        let tone = if setting.source == "default" { "" } else { " class=\"set\"" };
        format!(
            "<tr{tone}><th scope=\"row\">{}</th><td>{}</td><td><span class=\"source\">{}</span></td></tr>",
            breakable(&setting.key),
            escape(&setting.value),
            escape(&setting.source)
        )
    };
    table("Settings", &settings.iter().map(row).collect::<String>())
}

/// A key of the configuration, which a narrow screen may break after its dots and underscores.
fn breakable(key: &str) -> String {
    escape(key).replace('.', ".<wbr>").replace('_', "_<wbr>")
}

fn manifest(rows: &[(String, String)]) -> String {
    let row = |(key, value): &(String, String)| {
        format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(key), escape(value))
    };
    table("Manifest", &rows.iter().map(row).collect::<String>())
}

fn table(title: &str, rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("<details class=\"panel\" open><summary>{title}</summary><table><tbody>{rows}</tbody></table></details>")
}
