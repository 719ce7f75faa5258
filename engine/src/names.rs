//! The nearest known name to one that was not found, for error hints.

/// The name of `known` closest to `name` in edit distance (insert, delete, replace, swap neighbours), ignoring
/// case and the difference between `-` and `_`.
///
/// `None` when nothing is close: more than a third of the letters, rounded up, would have to change. Of
/// equally close names the first wins.
///
/// ```
/// use selfsame_engine::nearest;
/// assert_eq!(nearest("simcrl", ["byol", "simclr"]), Some("simclr"));
/// assert_eq!(nearest("resnet", ["byol", "simclr"]), None);
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(name);
    let limit = folded.len().div_ceil(3);
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = edit_distance(&folded, &fold(candidate));
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn fold(name: &str) -> Vec<char> {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Damerau's distance with every letter edited at most once (optimal string alignment).
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_each_kind_of_edit_once() {
        let distance = |a: &str, b: &str| edit_distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "abd"), 1);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_finds_typos_and_rejects_strangers() {
        let known = ["temperature", "batch", "epochs"];
        assert_eq!(nearest("temprature", known), Some("temperature"));
        assert_eq!(nearest("EPOCH", known), Some("epochs"));
        assert_eq!(nearest("momentum", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
