//! Calibration: does a classifier that is 80 % sure err one time in five?

use selfsame_engine::{Array, Error, ErrorKind, Result};

/// Expected calibration error (Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599) of class probabilities `[n, classes]`
/// f32 against `labels`: predictions in `bins` equal intervals of confidence; the mean over images of the distance
/// between a bin's accuracy and its mean confidence. 0 to 1.
///
/// # Errors
/// `Shape` unless there is one label for each of at least one row; `Config` for no bins.
pub fn calibration_error(probabilities: &Array, labels: &[u32], bins: usize) -> Result<f64> {
    let [n, classes] = probabilities.dims()?;
    if n == 0 || labels.len() != n || classes == 0 {
        let got = format!("{:?} for {} labels", probabilities.shape(), labels.len());
        return Err(Error::new(ErrorKind::Shape, "calibration", got).expected("one row for each, at least one"));
    }
    if bins == 0 {
        return Err(Error::new(ErrorKind::Config, "calibration", "no bins").expected("at least one"));
    }
    let (mut confident, mut right) = (vec![0.0; bins], vec![0.0; bins]);
    for (row, &label) in probabilities.to_vec::<f32>()?.chunks(classes).zip(labels) {
        let best = (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        let confidence = f64::from(row[best]);
        // Intervals are open below and closed above, as in the paper.
        let bin = ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
        confident[bin] += confidence;
        right[bin] += if best == label as usize { 1.0 } else { 0.0 };
    }
    Ok(confident.iter().zip(&right).map(|(confident, right): (&f64, &f64)| (confident - right).abs()).sum::<f64>()
        / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    fn error(rows: &[[f32; 2]], labels: &[u32], bins: usize) -> f64 {
        let device = Device::cpu_with(1).unwrap();
        calibration_error(&Array::from_slice(&rows.concat(), &[rows.len(), 2], &device).unwrap(), labels, bins).unwrap()
    }

    #[test]
    fn small_cases_by_hand() {
        // Sure and right.
        assert_eq!(error(&[[1.0, 0.0], [0.0, 1.0]], &[0, 1], 10), 0.0);
        // Sure and wrong.
        assert_eq!(error(&[[1.0, 0.0]], &[1], 10), 1.0);
        // Three quarters sure, right three times in four.
        assert_eq!(error(&[[0.75, 0.25]; 4], &[0, 0, 0, 1], 15), 0.0);
        // Bins (0.5, 0.75] and (0.75, 1]: |0.625 - 1| and |0.875 - 0|, one image each.
        assert_eq!(error(&[[0.625, 0.375], [0.125, 0.875]], &[0, 0], 4), (0.375 + 0.875) / 2.0);
        // In one bin they make up for each other.
        assert_eq!(error(&[[0.625, 0.375], [0.125, 0.875]], &[0, 0], 1), (1.5 - 1.0) / 2.0);
    }

    #[test]
    fn rows_and_labels_must_match() {
        let device = Device::cpu_with(1).unwrap();
        let one = Array::from_slice(&[1.0f32], &[1, 1], &device).unwrap();
        assert!(calibration_error(&one, &[0, 0], 5).is_err() && calibration_error(&one, &[0], 0).is_err());
    }
}
