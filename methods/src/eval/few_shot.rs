//! Few-shot episodes on frozen features: some classes, a few examples of each, and a classifier by the nearest mean.
//!
//! The baseline of Wang, Chao, Weinberger, van der Maaten 2019 (SimpleShot, arXiv:1911.04623): features are centred by
//! the mean of the training set and normalised; the prototype of a class is the mean of its examples; a query gets the
//! class of the nearest prototype.

use selfsame_engine::{Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{Key, Purpose, Stream};

use super::features::Features;

/// Options of the episodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FewShot {
    /// Classes of an episode.
    pub ways: usize,
    /// Examples of each.
    pub shots: usize,
    /// Images of each to be classified.
    pub queries: usize,
    /// Episodes.
    pub episodes: usize,
    /// Seed of their draws.
    pub seed: u64,
}

impl Default for FewShot {
    /// 5 ways, 1 shot, 15 queries, 600 episodes.
    fn default() -> FewShot {
        FewShot { ways: 5, shots: 1, queries: 15, episodes: 600, seed: 0 }
    }
}

/// Accuracy over episodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episodes {
    /// Mean accuracy of an episode.
    pub mean: f64,
    /// Half the width of the 95 % confidence interval of the mean: 1.96 standard errors.
    pub half_width: f64,
}

/// Runs episodes on the classes and images of `test`, centred by the mean of `train`.
///
/// # Errors
/// `Config` when `test` is unlabelled, options are 0, or fewer classes than an episode wants have images enough;
/// `Shape` when the features have different lengths.
pub fn few_shot(train: &Features, test: &Features, options: &FewShot) -> Result<Episodes> {
    let FewShot { ways, shots, queries, episodes, seed } = *options;
    if ways == 0 || shots == 0 || queries == 0 || episodes == 0 {
        return Err(Error::new(ErrorKind::Config, "few-shot", format!("{options:?}")).expected("at least one of each"));
    }
    let classes = classes(test.labels()?, shots + queries);
    if classes.len() < ways {
        let got = format!("{} classes with {} images or more", classes.len(), shots + queries);
        return Err(Error::new(ErrorKind::Config, "few-shot", got).expected(format!("{ways}, one for each way")));
    }
    let [_, d] = test.values.dims()?;
    let centred = ops::sub(&test.values, &ops::mean(&train.values, &[0], true)?)?;
    let features: Vec<f32> = ops::l2_normalize(&centred, 1e-12)?.0.to_vec()?;
    let rows = |image: usize| &features[image * d..(image + 1) * d];
    let mut accuracies = Vec::with_capacity(episodes);
    for episode in 0..episodes {
        let mut stream = Key::new(seed, Purpose::Evaluate).stream(episode as u64, 0, 1);
        let drawn: Vec<Vec<usize>> =
            draw(&classes, ways, &mut stream).iter().map(|class| draw(class, shots + queries, &mut stream)).collect();
        let prototypes: Vec<Vec<f64>> =
            drawn.iter().map(|images| mean(images[..shots].iter().map(|image| rows(*image)), d)).collect();
        let right = drawn.iter().enumerate().flat_map(|(class, images)| {
            let prototypes = &prototypes;
            images[shots..].iter().map(move |image| nearest(prototypes, rows(*image)) == class)
        });
        accuracies.push(right.filter(|right| *right).count() as f64 / (ways * queries) as f64);
    }
    let mean = accuracies.iter().sum::<f64>() / episodes as f64;
    let squares: f64 = accuracies.iter().map(|accuracy| (accuracy - mean) * (accuracy - mean)).sum();
    let deviation = (squares / (episodes.max(2) - 1) as f64).sqrt();
    Ok(Episodes { mean, half_width: 1.96 * deviation / (episodes as f64).sqrt() })
}

/// The images of each class that has at least `least`.
fn classes(labels: &[u32], least: usize) -> Vec<Vec<usize>> {
    let count = labels.iter().max().map_or(0, |most| *most as usize + 1);
    let mut classes = vec![Vec::new(); count];
    labels.iter().enumerate().for_each(|(image, label)| classes[*label as usize].push(image));
    classes.retain(|images| images.len() >= least);
    classes
}

/// `count` of `all`, without repetition.
fn draw<T: Clone>(all: &[T], count: usize, stream: &mut Stream) -> Vec<T> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    stream.shuffle(&mut order);
    order[..count].iter().map(|at| all[*at].clone()).collect()
}

fn mean<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, d: usize) -> Vec<f64> {
    let count = rows.len() as f64;
    let mut sum = vec![0.0; d];
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sum.iter_mut().for_each(|sum| *sum /= count);
    sum
}

/// The prototype nearest to `row`; of equally near ones the first.
fn nearest(prototypes: &[Vec<f64>], row: &[f32]) -> usize {
    let distance = |prototype: &[f64]| -> f64 {
        prototype.iter().zip(row).map(|(p, x)| (p - f64::from(*x)) * (p - f64::from(*x))).sum()
    };
    let distances: Vec<f64> = prototypes.iter().map(|prototype| distance(prototype)).collect();
    (1..distances.len()).fold(0, |best, at| if distances[at] < distances[best] { at } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, Device};

    /// Six classes of twenty images: noise of a standard deviation of about a third around corners of a simplex,
    /// shifted far from the origin; or, without `signal`, noise alone.
    fn features(signal: f32) -> Features {
        let device = Device::cpu_with(1).unwrap();
        let mut stream = Key::new(5, Purpose::Check).stream(0, 0, 0);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for image in 0..120u32 {
            let class = image % 6;
            values.extend((0..6).map(|at| {
                let corner = if at == class { signal } else { 0.0 };
                100.0 + corner + stream.uniform_f32() - 0.5
            }));
            labels.push(Some(class));
        }
        Features::new(Array::from_slice(&values, &[120, 6], &device).unwrap(), labels)
    }

    #[test]
    fn separated_classes_are_told_apart_and_noise_is_not() {
        let options = FewShot { episodes: 200, ..FewShot::default() };
        let separated = features(3.0);
        let found = few_shot(&separated, &separated, &options).unwrap();
        assert!(found.mean > 0.95, "{found:?}");
        let five = few_shot(&separated, &separated, &FewShot { shots: 5, ..options }).unwrap();
        assert!(five.mean >= found.mean);
        let noise = features(0.0);
        let found = few_shot(&noise, &noise, &options).unwrap();
        assert!((found.mean - 0.2).abs() < 3.0 * found.half_width.max(0.005), "{found:?}");
        assert_eq!(few_shot(&noise, &noise, &options).unwrap(), found);
    }

    #[test]
    fn impossible_episodes_are_refused() {
        let all = features(1.0);
        for options in [
            FewShot { ways: 7, ..FewShot::default() },
            FewShot { queries: 20, ..FewShot::default() },
            FewShot { shots: 0, ..FewShot::default() },
        ] {
            assert_eq!(few_shot(&all, &all, &options).unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
