//! Text of the page: escaping, and numbers as people read them.

/// `text` for HTML content and quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// `value` as JSON that may stand inside a `<script>` element: no `<` is left in it.
pub(super) fn script_json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// Four significant digits, without trailing zeros; thousands separated; powers of ten outside 0.001 .. 10 million.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".into();
    }
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        return format!("{value:.2e}").replace('-', "−");
    }
    let decimals = match size {
        _ if size >= 1000.0 => 0,
        _ if size >= 100.0 => 1,
        _ if size >= 10.0 => 2,
        _ if size >= 1.0 => 3,
        _ => 4,
    };
    decimal(value, decimals, true)
}

/// `value` with so many decimals, thousands separated, a true minus sign; `trim` drops trailing zeros.
pub(super) fn decimal(value: f64, decimals: usize, trim: bool) -> String {
    let plain = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let fraction = if trim { fraction.trim_end_matches('0') } else { fraction };
    let is_zero = plain.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let mut text = String::from(if value < 0.0 && !is_zero { "−" } else { "" });
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// `42.1 s`, `3 min 07 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// `812 MiB`, `1.50 GiB`.
pub(super) fn memory(bytes: u64) -> String {
    let mebibytes = bytes as f64 / (1u64 << 20) as f64;
    if mebibytes < 1024.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.2} GiB", mebibytes / 1024.0) }
}

/// A share of a whole as `12.3 %`.
pub(super) fn percent(fraction: f64) -> String {
    if fraction.is_finite() { format!("{:.1} %", fraction * 100.0) } else { "–".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (-0.00001, "−1.00e−5"),
            (0.0625, "0.0625"),
            (4.2304, "4.23"),
            (-71.25, "−71.25"),
            (1234.5, "1,234"),
            (9_876_543.0, "9,876,543"),
            (2.5e9, "2.50e9"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(decimal(-0.001, 1, false), "0.0");
        assert_eq!(decimal(1000.0, 2, false), "1,000.00");
    }

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!([42.13, 59.96, 187.0, 7500.0].map(duration), ["42.1 s", "1 min 00 s", "3 min 07 s", "2 h 05 min"]);
        assert_eq!(memory(812 << 20), "812 MiB");
        assert_eq!(memory(3 << 29), "1.50 GiB");
        assert_eq!(percent(0.7131), "71.3 %");
    }

    #[test]
    fn script_json_cannot_close_the_script() {
        let value = serde_json::json!({ "label": "</script><!--" });
        let text = script_json(&value);
        assert!(!text.contains('<'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
