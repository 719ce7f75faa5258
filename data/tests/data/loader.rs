//! The loader: order, bits, errors, and the life of its workers.

use selfsame_data::augment::{Compose, CropFlip, EvalTransform, SimclrAugment};
use selfsame_data::scenes::{Scenes, ScenesConfig};
use selfsame_data::{Augment, Batch, Bitmap, Dataset, DatasetInfo, Loader, LoaderConfig, Sample, Split};
use selfsame_engine::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn scenes(train: usize) -> Arc<dyn Dataset> {
    Arc::new(Scenes::new(ScenesConfig { train, ..Default::default() }, Split::Train).unwrap())
}

fn two_views() -> Vec<Arc<dyn Augment>> {
    vec![Arc::new(SimclrAugment::cifar(16)), Arc::new(CropFlip::new(24))]
}

fn plain() -> Vec<Arc<dyn Augment>> {
    vec![Arc::new(EvalTransform::new(2))]
}

fn batches(dataset: &Arc<dyn Dataset>, config: LoaderConfig) -> Vec<Batch> {
    Loader::new(dataset.clone(), config).unwrap().collect::<Result<_>>().unwrap()
}

/// Grey pictures whose value is their index; counts how many were asked for, and may fail or panic at one of them.
struct Counting {
    images: usize,
    asked: AtomicUsize,
    fails_at: Option<usize>,
    panics_at: Option<usize>,
    odd_at: Option<usize>,
}

impl Counting {
    fn new(images: usize) -> Counting {
        Counting { images, asked: AtomicUsize::new(0), fails_at: None, panics_at: None, odd_at: None }
    }
}

impl Dataset for Counting {
    fn len(&self) -> usize {
        self.images
    }

    fn get(&self, index: usize) -> Result<Sample> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.fails_at == Some(index) {
            return Err(Error::new(ErrorKind::Corrupt, format!("image_{index}.png"), "rubbish"));
        }
        assert!(self.panics_at != Some(index), "a broken data set");
        let side = if self.odd_at == Some(index) { 3 } else { 2 };
        let image = Bitmap::new(side, side, 1, vec![index as u8; side * side])?;
        Ok(Sample { image, label: None })
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> DatasetInfo {
        DatasetInfo {
            name: "counting".into(),
            spec: "counting".into(),
            split: Split::Train,
            images: self.images,
            size: None,
            channels: 1,
            classes: Vec::new(),
            checksum: 0,
        }
    }
}

#[test]
fn workers_change_nothing() {
    let dataset = scenes(150);
    let config = |workers| LoaderConfig {
        batch: 40,
        views: two_views(),
        seed: 3,
        workers,
        drop_last: false,
        ..Default::default()
    };
    let inline = batches(&dataset, config(0));
    assert_eq!(inline.len(), 4);
    for workers in [1, 2, 4] {
        assert!(batches(&dataset, config(workers)) == inline, "{workers} workers give other bytes");
    }
}

#[test]
fn an_epoch_visits_every_image_once_and_the_next_in_another_order() {
    let dataset = scenes(100);
    let order = |seed, epoch| -> Vec<usize> {
        let config = LoaderConfig { batch: 30, views: plain(), seed, epoch, drop_last: false, ..Default::default() };
        batches(&dataset, config).into_iter().flat_map(|batch| batch.indices).collect()
    };
    let first = order(1, 0);
    assert!(first != order(1, 1) && first != order(2, 0));
    assert_eq!(first, order(1, 0));
    let mut sorted = first;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
}

#[test]
fn pixels_depend_on_seed_epoch_index_and_view_not_on_the_batch() {
    let dataset = scenes(64);
    let views =
        || -> Vec<Arc<dyn Augment>> { vec![Arc::new(SimclrAugment::cifar(8)), Arc::new(SimclrAugment::cifar(8))] };
    let by_index = |batch, seed, epoch, shuffle| {
        let config = LoaderConfig { batch, views: views(), seed, epoch, shuffle, ..Default::default() };
        let mut images = vec![[Vec::new(), Vec::new()]; 64];
        for batch in batches(&dataset, config) {
            for (k, &index) in batch.indices.iter().enumerate() {
                images[index] = [0, 1].map(|v| batch.views[v].pixels[k * 192..(k + 1) * 192].to_vec());
            }
        }
        images
    };
    let base = by_index(32, 1, 0, false);
    assert_eq!(base, by_index(8, 1, 0, true));
    assert!(base.iter().all(|[a, b]| a != b));
    assert_ne!(base, by_index(32, 1, 1, false));
    assert_ne!(base, by_index(32, 2, 0, false));
}

#[test]
fn a_loader_resumes_at_any_batch() {
    let dataset = scenes(90);
    let config = |workers, start_batch| LoaderConfig {
        batch: 20,
        views: two_views(),
        workers,
        start_batch,
        ..Default::default()
    };
    let whole = batches(&dataset, config(0, 0));
    for start in 0..=5 {
        for workers in [0, 2] {
            let rest = batches(&dataset, config(workers, start));
            assert!(rest == whole[start.min(4)..], "resumed at {start} with {workers} workers");
        }
    }
}

#[test]
fn a_samplers_order_is_kept_and_repetitions_are_augmented_anew() {
    let dataset = scenes(20);
    let config = |order: &[usize]| LoaderConfig {
        batch: 4,
        views: vec![Arc::new(SimclrAugment::cifar(8))],
        order: Some(order.into()),
        ..Default::default()
    };
    let batch = &batches(&dataset, config(&[3, 5, 3, 19]))[0];
    assert_eq!(batch.indices, [3, 5, 3, 19]);
    let image = |k: usize| &batch.views[0].pixels[k * 192..(k + 1) * 192];
    assert_ne!(image(0), image(2));
    // The first time it is the view of any other order.
    let plain = &batches(&dataset, config(&[19, 3, 0, 1]))[0];
    assert_eq!(&plain.views[0].pixels[192..384], image(0));
    let error = Loader::new(dataset, config(&[0, 1, 2, 20])).map(drop).unwrap_err();
    assert!(error.sentence().contains("image 20"), "{}", error.sentence());
}

#[test]
fn the_last_batch_is_dropped_or_kept() {
    let dataset: Arc<dyn Dataset> = Arc::new(Counting::new(50));
    let config =
        |drop_last| LoaderConfig { batch: 20, views: plain(), drop_last, shuffle: false, ..Default::default() };
    let loader = Loader::new(dataset.clone(), config(true)).unwrap();
    assert_eq!((loader.batches(), loader.dropped()), (2, 10));
    let kept = batches(&dataset, config(false));
    assert_eq!(kept.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>(), [20, 20, 10]);
    assert_eq!(kept[2].views[0].batch, 10);
    assert_eq!(kept[2].views[0].pixels.len(), 10 * 2 * 2 * 3);
    assert!(kept[2].labels.is_empty());
}

#[test]
fn views_are_channels_last_and_in_order() {
    let dataset: Arc<dyn Dataset> = Arc::new(Counting::new(20));
    for (channels, expected) in [(Some(3), 3), (None, 1)] {
        let config = LoaderConfig { batch: 20, views: plain(), shuffle: false, channels, ..Default::default() };
        let view = &batches(&dataset, config)[0].views[0];
        assert_eq!((view.batch, view.height, view.width, view.channels), (20, 2, 2, expected));
        for (k, image) in view.pixels.chunks_exact(4 * expected).enumerate() {
            assert!(image.iter().all(|&value| value == k as f32 / 255.0));
        }
    }
}

#[test]
fn errors_reach_the_consumer_in_order_and_end_the_epoch() {
    for workers in [0, 1, 4] {
        let dataset: Arc<dyn Dataset> = Arc::new(Counting { fails_at: Some(45), ..Counting::new(80) });
        let config = LoaderConfig { batch: 20, views: plain(), workers, shuffle: false, ..Default::default() };
        let mut loader = Loader::new(dataset, config).unwrap();
        assert!(loader.next().unwrap().is_ok() && loader.next().unwrap().is_ok());
        assert!(loader.next().unwrap().unwrap_err().sentence().contains("image_45.png"));
        assert!(loader.next().is_none());
    }
}

#[test]
fn a_panic_of_a_data_set_is_an_error() {
    for workers in [0, 2] {
        let dataset: Arc<dyn Dataset> = Arc::new(Counting { panics_at: Some(3), ..Counting::new(20) });
        let config = LoaderConfig { batch: 20, views: plain(), workers, ..Default::default() };
        assert!(Loader::new(dataset, config).unwrap().next().unwrap().is_err());
    }
}

#[test]
fn views_of_different_sizes_are_refused() {
    let dataset: Arc<dyn Dataset> = Arc::new(Counting { odd_at: Some(18), ..Counting::new(40) });
    let nothing: Arc<dyn Augment> = Arc::new(Compose::default());
    for workers in [0, 2] {
        let config =
            LoaderConfig { batch: 40, views: vec![nothing.clone()], workers, shuffle: false, ..Default::default() };
        let message = Loader::new(dataset.clone(), config).unwrap().next().unwrap().unwrap_err().sentence();
        assert!(message.contains("[3, 3, 3] of image 18"), "{message}");
    }
}

#[test]
fn dropping_the_loader_stops_its_workers() {
    let dataset = Arc::new(Counting::new(200_000));
    let config = LoaderConfig { batch: 100, views: plain(), workers: 3, prefetch: 1000, ..Default::default() };
    let mut loader = Loader::new(dataset.clone(), config).unwrap();
    loader.next().unwrap().unwrap();
    drop(loader);
    // The workers held the data set; they have ended, and have not gone through all of it.
    assert_eq!(Arc::strong_count(&dataset), 1);
    assert!(dataset.asked.load(Ordering::SeqCst) < 200_000);
}

#[test]
fn workers_never_run_further_ahead_than_asked() {
    let dataset = Arc::new(Counting::new(2000));
    let config = LoaderConfig { batch: 50, views: plain(), workers: 4, prefetch: 3, ..Default::default() };
    let mut loader = Loader::new(dataset.clone(), config).unwrap();
    for taken in 1..=10 {
        loader.next().unwrap().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let asked = dataset.asked.load(Ordering::SeqCst);
        assert!((taken * 50..=(taken + 3) * 50).contains(&asked), "{asked} images for {taken} batches");
    }
}

#[test]
fn impossible_configurations_are_refused() {
    let dataset = scenes(10);
    for config in [
        LoaderConfig { batch: 0, views: plain(), ..Default::default() },
        LoaderConfig { batch: 4, ..Default::default() },
        LoaderConfig { batch: 11, views: plain(), ..Default::default() },
    ] {
        assert!(Loader::new(dataset.clone(), config).is_err());
    }
}
