//! Features of a data set: each image through a frozen encoder in evaluation mode, the last batch kept.

use std::sync::Arc;

use selfsame_autograd::Tensor;
use selfsame_data::{Augment, Dataset, Loader, LoaderConfig, View};
use selfsame_engine::{Array, Device, Error, ErrorKind, Result, ops};
use selfsame_models::{Ctx, Module};

/// One feature vector per image, in the order of the data set.
#[derive(Clone)]
pub struct Features {
    /// `[images, length]`.
    pub values: Array,
    labels: Option<Vec<u32>>,
}

impl Features {
    /// Those of some images, in that order.
    ///
    /// # Errors
    /// `Config` for an image that is not there.
    pub fn of_images(&self, images: &[usize]) -> Result<Features> {
        let rows: Vec<i64> = images.iter().map(|image| *image as i64).collect();
        let values =
            ops::index_select(&self.values, 0, &Array::from_slice(&rows, &[rows.len()], self.values.device())?)?;
        let labels = self.labels.as_ref().map(|labels| images.iter().map(|image| labels[*image]).collect());
        Ok(Features { values, labels })
    }

    /// Features with one label each; a single missing one makes the set unlabelled.
    pub fn new(values: Array, labels: Vec<Option<u32>>) -> Features {
        Features { values, labels: labels.into_iter().collect() }
    }

    /// The labels.
    ///
    /// # Errors
    /// `Config` when the data set is unlabelled.
    pub fn labels(&self) -> Result<&[u32]> {
        self.labels.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Config, "evaluation", "a data set without labels").expected("one label per image")
        })
    }
}

/// How images are fed.
#[derive(Clone)]
pub struct Feed {
    /// Makes an image into the encoder's input.
    pub transform: Arc<dyn Augment>,
    /// Images at a time. Does not change a bit of the features.
    pub batch: usize,
    /// Background threads that prepare images.
    pub workers: usize,
    /// Only the first that many images.
    pub limit: usize,
}

/// Features of `dataset` by `encoder`, `[images, h, w, c]` to `[images, length]`.
///
/// # Errors
/// Those of the data set and the encoder.
pub fn extract(encoder: &dyn Module, dataset: &Arc<dyn Dataset>, feed: &Feed, device: &Device) -> Result<Features> {
    let cx = Ctx::eval().no_grad();
    collect(dataset, feed.loader(), feed.limit, |view| {
        let x = Tensor::constant(to_array(view, device)?);
        Ok(encoder.forward(&x, &cx)?.array().clone())
    })
}

/// The pixels themselves as features, `[images, h * w * c]`: what any encoder has to beat.
///
/// # Errors
/// Those of the data set.
pub fn raw_pixels(dataset: &Arc<dyn Dataset>, feed: &Feed, device: &Device) -> Result<Features> {
    collect(dataset, feed.loader(), feed.limit, |view| {
        let pixels = view.height * view.width * view.channels;
        Array::from_slice(&view.pixels, &[view.batch, pixels], device)
    })
}

/// A view as `[images, h, w, c]`.
///
/// # Errors
/// `OutOfMemory`.
pub fn to_array(view: &View, device: &Device) -> Result<Array> {
    Array::from_slice(&view.pixels, &[view.batch, view.height, view.width, view.channels], device)
}

impl Feed {
    fn loader(&self) -> LoaderConfig {
        LoaderConfig {
            batch: self.batch,
            views: vec![Arc::clone(&self.transform)],
            workers: self.workers,
            ..LoaderConfig::default()
        }
    }
}

/// What `map` makes of the first `limit` images in the order of the data set, all of them where there are fewer;
/// `config` says how they are prepared.
///
/// # Errors
/// Those of the data set and of `map`.
pub(crate) fn collect(
    dataset: &Arc<dyn Dataset>,
    config: LoaderConfig,
    limit: usize,
    mut map: impl FnMut(&View) -> Result<Array>,
) -> Result<Features> {
    let config = LoaderConfig { shuffle: false, drop_last: false, ..config };
    let images = dataset.len().min(limit);
    let (mut parts, mut labels, mut done) = (Vec::new(), Vec::with_capacity(images), 0);
    for batch in Loader::new(Arc::clone(dataset), config)? {
        let batch = batch?;
        let part = map(&batch.views[0])?;
        let kept = (images - done).min(batch.indices.len());
        parts.push(if kept < batch.indices.len() { part.slice(0, 0, kept)? } else { part });
        match batch.labels.as_slice() {
            [] => labels.resize(labels.len() + kept, None),
            found => labels.extend(found[..kept].iter().copied().map(Some)),
        }
        done += kept;
        if done == images {
            break;
        }
    }
    Ok(Features::new(ops::concat(&parts.iter().collect::<Vec<_>>(), 0)?, labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_data::augment::EvalTransform;
    use selfsame_data::{Split, open};

    fn pixels(batch: usize, workers: usize, limit: usize) -> (Vec<f32>, Vec<u32>) {
        let dataset = open("scenes:train=21", Split::Train).unwrap();
        let feed = Feed { transform: Arc::new(EvalTransform::new(32)), batch, workers, limit };
        let features = raw_pixels(&dataset, &feed, &Device::cpu_with(1).unwrap()).unwrap();
        (features.values.to_vec().unwrap(), features.labels().unwrap().to_vec())
    }

    #[test]
    fn batch_and_workers_do_not_matter_and_the_last_batch_is_kept() {
        let (values, labels) = pixels(8, 1, usize::MAX);
        assert_eq!((values.len(), labels.len()), (21 * 32 * 32 * 3, 21));
        assert_eq!(pixels(5, 0, usize::MAX), (values.clone(), labels.clone()));
        let (some, some_labels) = pixels(8, 2, 10);
        assert_eq!((some.as_slice(), some_labels.as_slice()), (&values[..10 * 32 * 32 * 3], &labels[..10]));
    }
}
