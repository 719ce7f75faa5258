//! A share of the labels, class by class: the 1 % and 10 % of semi-supervised protocols.

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::philox::{Key, Purpose};

/// The images whose labels are kept, in ascending order: of each class a share of `fraction`, rounded, and at least one
/// image, drawn at random. Smaller fractions of one seed are parts of larger ones.
///
/// # Errors
/// `Config` unless `fraction` is above 0 and at most 1.
pub fn labelled_share(labels: &[u32], fraction: f64, seed: u64) -> Result<Vec<usize>> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::new(ErrorKind::Config, "share of labels", fraction.to_string())
            .expected("above 0 and at most 1, such as 0.01 or 0.1"));
    }
    let classes = labels.iter().max().map_or(0, |most| *most as usize + 1);
    let mut of_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(image, label)| of_class[*label as usize].push(image));
    let mut kept = Vec::new();
    for (class, images) in of_class.iter_mut().enumerate() {
        Key::new(seed, Purpose::Evaluate).stream(class as u64, 0, 3).shuffle(images);
        let count = ((fraction * images.len() as f64).round() as usize).max(1).min(images.len());
        kept.extend_from_slice(&images[..count]);
    }
    kept.sort_unstable();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_balanced_nested_and_never_empty() {
        let labels: Vec<u32> = (0..1000).map(|image| if image < 5 { 0 } else { 1 + image % 3 }).collect();
        let share = |fraction| labelled_share(&labels, fraction, 7).unwrap();
        let counts = |kept: &[usize]| -> Vec<usize> {
            (0..4).map(|class| kept.iter().filter(|image| labels[**image] == class).count()).collect()
        };
        assert_eq!(counts(&share(0.01)), [1, 3, 3, 3]);
        assert_eq!(share(1.0), (0..1000).collect::<Vec<_>>());
        let (small, large) = (share(0.01), share(0.1));
        assert!(small.iter().all(|image| large.contains(image)));
        assert!(labelled_share(&labels, 0.0, 7).is_err() && labelled_share(&labels, f64::NAN, 7).is_err());
    }
}
