//! [`Loader`]: batches of augmented views, prepared by background workers.
//!
//! The order of an epoch is a Philox shuffle of the indices, keyed by (seed, epoch); view v of image i draws from the
//! stream keyed by (seed, epoch, i, v). Neither knows the workers, so their number changes speed alone. A sampler may
//! give an order of its own; the r-th repetition of an image draws as view r·views + v.
//!
//! Workers take chunks of [`CHUNK`] images from a common counter, never more than [`LoaderConfig::prefetch`] batches
//! ahead of the consumer, and put results in place; the consumer waits for the next batch in order.

use crate::augment::Augment;
use crate::dataset::{Dataset, Sample};
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::philox::{Key, Purpose};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Images that a worker prepares at a time: enough to make locking negligible, few enough to share a batch.
const CHUNK: usize = 16;

/// How a [`Loader`] goes through a data set.
#[derive(Clone)]
pub struct LoaderConfig {
    /// Images per batch.
    pub batch: usize,
    /// One transform per view; each batch has as many views. They must give all images one size.
    pub views: Vec<Arc<dyn Augment>>,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// The epoch: each has its own order and augmentations.
    pub epoch: u64,
    /// Background threads; 0 prepares batches in the calling thread.
    pub workers: usize,
    /// A new order each epoch, or the order of the data set.
    pub shuffle: bool,
    /// The images of the epoch in an order of the caller's, instead of each once: a sampler's. Where an image stands
    /// again, it is augmented anew.
    pub order: Option<Arc<[usize]>>,
    /// Leaves out the last batch when it is smaller (training), or gives it (evaluation).
    pub drop_last: bool,
    /// Channels of the views: 3 repeats the channel of grey images. `None` leaves images as they are.
    pub channels: Option<usize>,
    /// The first batch to give: to resume inside an epoch.
    pub start_batch: usize,
    /// Batches that workers may run ahead.
    pub prefetch: usize,
}

impl Default for LoaderConfig {
    /// Batches of 256 in shuffled order, the last incomplete one dropped, no view yet, one worker, three channels, two
    /// batches ahead, seed and epoch 0.
    fn default() -> Self {
        LoaderConfig {
            batch: 256,
            views: Vec::new(),
            seed: 0,
            epoch: 0,
            workers: 1,
            shuffle: true,
            order: None,
            drop_last: true,
            channels: Some(3),
            start_batch: 0,
            prefetch: 2,
        }
    }
}

/// One view of every image of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels, 1 or 3.
    pub channels: usize,
    /// `[batch, height, width, channels]` in [0, 1].
    pub pixels: Vec<f32>,
}

/// A batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its number in the epoch.
    pub number: usize,
    /// One entry per transform of [`LoaderConfig::views`].
    pub views: Vec<View>,
    /// The images' indices in the data set.
    pub indices: Vec<usize>,
    /// One label per image; empty when any of them is unlabelled.
    pub labels: Vec<u32>,
}

/// The batches of one epoch, in order. After an error it ends. Dropping it stops the workers.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    next: usize,
    failed: bool,
}

/// What workers read, and the state they share.
struct Shared {
    dataset: Arc<dyn Dataset>,
    config: LoaderConfig,
    order: Vec<usize>,
    /// How often the image of each place stands before it.
    repeats: Vec<u16>,
    batches: usize,
    state: Mutex<State>,
    /// A batch is complete, or failed.
    ready: Condvar,
    /// The consumer took a batch, or left.
    room: Condvar,
}

struct State {
    /// The next chunk to hand to a worker.
    claim: ChunkId,
    /// The next batch that the consumer will take.
    wanted: usize,
    /// Chunks that are done, of batches not yet taken.
    done: BTreeMap<ChunkId, Result<Chunk>>,
    stop: bool,
}

/// Number of the batch, and of the chunk within it.
type ChunkId = (usize, usize);

/// The views of a few images.
struct Chunk {
    views: Vec<View>,
    labels: Vec<Option<u32>>,
}

impl Loader {
    /// A loader over `dataset`. An error when the batch is empty, there is no view, or fewer images than one batch
    /// while the last one is to be dropped.
    pub fn new(dataset: Arc<dyn Dataset>, config: LoaderConfig) -> Result<Loader> {
        let wrong = |what: &str, got: String, expected: &str| {
            Err(Error::new(ErrorKind::Config, format!("loader: {what}"), got).expected(expected))
        };
        let images = config.order.as_ref().map_or(dataset.len(), |order| order.len());
        if config.batch == 0 {
            return wrong("batch", "0".into(), "at least one image");
        }
        if config.views.is_empty() || config.views.len() > usize::from(u16::MAX) {
            return wrong("views", config.views.len().to_string(), "at least one transform, at most 65535");
        }
        if images == 0 || (config.drop_last && images < config.batch) {
            return wrong("batch", config.batch.to_string(), &format!("at most the {images} images of the data set"));
        }
        let batches = if config.drop_last { images / config.batch } else { images.div_ceil(config.batch) };
        let order = match &config.order {
            Some(order) => order.to_vec(),
            None => {
                let mut order: Vec<usize> = (0..images).collect();
                if config.shuffle {
                    Key::new(config.seed, Purpose::Shuffle).stream(config.epoch, 0, 0).shuffle(&mut order);
                }
                order
            }
        };
        if let Some(index) = order.iter().find(|index| **index >= dataset.len()) {
            return wrong("order", format!("image {index}"), &format!("one of the {} of the data set", dataset.len()));
        }
        let repeats = repeats(&order, dataset.len());
        let most = repeats.iter().max().map_or(1, |most| usize::from(*most) + 1);
        if most * config.views.len() > usize::from(u16::MAX) {
            return wrong("order", format!("an image {most} times"), "at most 65535 views of an image in an epoch");
        }
        let next = config.start_batch;
        let workers = config.workers;
        let state = State { claim: (next, 0), wanted: next, done: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared {
            dataset,
            config,
            order,
            repeats,
            batches,
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
        });
        let mut loader = Loader { shared, workers: Vec::with_capacity(workers), next, failed: false };
        for number in 0..workers {
            let shared = Arc::clone(&loader.shared);
            let thread = std::thread::Builder::new().name(format!("loader-{number}")).spawn(move || shared.work());
            // On failure the loader is dropped, which stops the threads that did start.
            loader.workers.push(thread.map_err(|error| {
                Error::new(ErrorKind::Io, "loader", error.to_string()).hint("fewer workers, or 0 for none")
            })?);
        }
        Ok(loader)
    }

    /// Batches in the whole epoch, those before [`LoaderConfig::start_batch`] included.
    pub fn batches(&self) -> usize {
        self.shared.batches
    }

    /// Images of the data set that the epoch leaves out, being fewer than a batch.
    pub fn dropped(&self) -> usize {
        if self.shared.config.drop_last { self.shared.order.len() % self.shared.config.batch } else { 0 }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.failed || self.next >= self.shared.batches {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let chunks = if self.workers.is_empty() {
            (0..self.shared.chunks(number)).map(|chunk| self.shared.prepare((number, chunk))).collect()
        } else {
            self.shared.take(number)
        };
        let batch = chunks.and_then(|chunks| self.shared.assemble(number, chunks));
        self.failed = batch.is_err();
        Some(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches panics of data sets and transforms; there is nothing left to report here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The state. A panic never leaves it half-changed: no code that may panic runs while the lock is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Positions in the epoch's order that make up a batch.
    fn positions(&self, batch: usize) -> Range<usize> {
        let start = batch * self.config.batch;
        start..self.order.len().min(start + self.config.batch)
    }

    fn chunks(&self, batch: usize) -> usize {
        self.positions(batch).len().div_ceil(CHUNK)
    }

    /// What a background thread does until the epoch ends or the loader is dropped.
    fn work(&self) {
        while let Some(id) = self.claim() {
            let chunk = self.prepare(id);
            self.lock().done.insert(id, chunk);
            self.ready.notify_one();
        }
    }

    /// The next chunk to prepare, as soon as it is less than `prefetch` batches ahead.
    fn claim(&self) -> Option<ChunkId> {
        let mut state = self.lock();
        loop {
            let (batch, chunk) = state.claim;
            if state.stop || batch >= self.batches {
                return None;
            }
            if batch < state.wanted + self.config.prefetch.max(1) {
                state.claim = if chunk + 1 < self.chunks(batch) { (batch, chunk + 1) } else { (batch + 1, 0) };
                return Some((batch, chunk));
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for all chunks of `batch` and takes them; the first error in order stands for the batch.
    fn take(&self, batch: usize) -> Result<Vec<Chunk>> {
        let count = self.chunks(batch);
        let mut state = self.lock();
        while state.done.range((batch, 0)..(batch, count)).count() < count {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let later = state.done.split_off(&(batch, count));
        let taken = std::mem::replace(&mut state.done, later);
        state.wanted = batch + 1;
        drop(state);
        self.room.notify_all();
        taken.into_values().collect()
    }

    /// The views of one chunk. A panic of the data set or a transform becomes an error.
    fn prepare(&self, id: ChunkId) -> Result<Chunk> {
        catch_unwind(AssertUnwindSafe(|| self.render(id))).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Corrupt, "loader", format!("a panic while preparing batch {}", id.0)))
        })
    }

    fn render(&self, (batch, chunk): ChunkId) -> Result<Chunk> {
        let positions = self.positions(batch);
        let start = positions.start + chunk * CHUNK;
        let indices = &self.order[start..positions.end.min(start + CHUNK)];
        let mut views: Vec<View> = Vec::with_capacity(self.config.views.len());
        let mut labels = Vec::with_capacity(indices.len());
        for (&index, &repeat) in indices.iter().zip(&self.repeats[start..]) {
            let Sample { image, label } = self.dataset.get(index)?;
            labels.push(label);
            let source = match self.config.channels {
                Some(3) => image.into_rgb().to_image(),
                _ => image.to_image(),
            };
            for (number, transform) in self.config.views.iter().enumerate() {
                let key = Key::new(self.config.seed, Purpose::Augment);
                let mut view = source.clone();
                let draw = repeat * self.config.views.len() as u16 + number as u16;
                transform.apply(&mut view, &mut key.stream(self.config.epoch, index as u64, draw))?;
                let shape = [view.height, view.width, view.channels];
                if number == views.len() {
                    let [height, width, channels] = shape;
                    let pixels = Vec::with_capacity(indices.len() * view.pixels.len());
                    views.push(View { batch: 0, height, width, channels, pixels });
                }
                views[number].push(shape, &view.pixels, 1, index)?;
            }
        }
        Ok(Chunk { views, labels })
    }

    fn assemble(&self, number: usize, chunks: Vec<Chunk>) -> Result<Batch> {
        let indices = self.order[self.positions(number)].to_vec();
        let mut labels = Vec::with_capacity(indices.len());
        let mut views: Vec<View> = Vec::with_capacity(self.config.views.len());
        let mut done = 0;
        for chunk in chunks {
            let first = indices[done];
            done += chunk.labels.len();
            labels.extend(chunk.labels);
            if views.is_empty() {
                views = chunk.views;
                for view in &mut views {
                    view.pixels.reserve_exact(view.pixels.len() / view.batch * (indices.len() - view.batch));
                }
                continue;
            }
            for (view, part) in views.iter_mut().zip(chunk.views) {
                view.push([part.height, part.width, part.channels], &part.pixels, part.batch, first)?;
            }
        }
        let labels = labels.into_iter().collect::<Option<Vec<u32>>>().unwrap_or_default();
        Ok(Batch { number, views, indices, labels })
    }
}

/// For each place of `order` how often its image, one of `images`, stands before it.
fn repeats(order: &[usize], images: usize) -> Vec<u16> {
    let mut seen = vec![0u16; images];
    let place = |index: &usize| {
        let repeat = seen[*index];
        seen[*index] = repeat.saturating_add(1);
        repeat
    };
    order.iter().map(place).collect()
}

impl View {
    /// Appends `images` images of the given shape; `index` names the first in an error.
    fn push(&mut self, shape: [usize; 3], pixels: &[f32], images: usize, index: usize) -> Result<()> {
        let own = [self.height, self.width, self.channels];
        if shape != own {
            return Err(Error::new(ErrorKind::Shape, "loader", format!("view {shape:?} of image {index}"))
                .expected(format!("{own:?}, as of the images before it in the batch"))
                .hint("a view's transform must crop or resize to one size"));
        }
        self.pixels.extend_from_slice(pixels);
        self.batch += images;
        Ok(())
    }
}
