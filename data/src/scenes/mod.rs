//! The built-in data set: procedural pictures of ten shape classes, made on the fly from (seed, index).
//!
//! Colour, texture, scale, tilt, position, light and background are nuisances; only the silhouette gives the class.
//! Every picture comes with its class, each object's visible mask and box, the set of classes present, and all
//! attributes ([`SceneSample`]). [`Scenes::track`] moves the objects through frames; [`Domain`] redraws the same scenes
//! as sketches, with strong noise, or without colour.
//!
//! - `shapes`: silhouettes as signed distance functions
//! - `texture`: procedural textures
//! - `layout`: what a scene consists of, and its random draw
//! - `render`: from a scene to pixels and masks
//! - `domain`: the four looks

mod domain;
mod layout;
mod render;
mod shapes;
mod texture;

pub use domain::Domain;
pub use layout::{Light, MAX_TILT, Object, Scene, Tones};
pub use shapes::Shape;
pub use texture::{Texture, TextureKind};

use crate::dataset::{Dataset, DatasetInfo, Sample, Split, check_index};
use crate::image::Bitmap;
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::philox::{Key, Purpose, Stream};

/// Counts up whenever a change of the generator changes pixels or labels; part of the checksum.
pub const GENERATOR_VERSION: u32 = 1;

/// The smallest side at which the silhouettes are told apart.
pub const MIN_SIZE: usize = 32;

/// The most pictures of a split: an epoch's order must fit into memory.
const MAX_IMAGES: usize = 100_000_000;

/// Where the numbers of test pictures begin: above every training picture, and a whole number of class blocks.
const TEST_BASE: u64 = 10 << 38;

/// The parameters of the data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenesConfig {
    /// Side of the square pictures in pixels, 32 to 4096.
    pub size: usize,
    /// Number of training pictures.
    pub train: usize,
    /// Number of test pictures, drawn apart from the training pictures.
    pub test: usize,
    /// Seed of everything.
    pub seed: u64,
    /// The look.
    pub domain: Domain,
    /// Fewest and most objects in a picture, 1 to 8. The largest gives the class.
    pub objects: (u32, u32),
}

impl Default for ScenesConfig {
    /// 4,096 training and 1,024 test pictures of 32 x 32 pixels, one object each, photo-like, seed 0.
    fn default() -> Self {
        ScenesConfig { size: 32, train: 4096, test: 1024, seed: 0, domain: Domain::Photo, objects: (1, 1) }
    }
}

impl ScenesConfig {
    /// The specification of this configuration, every option written out.
    pub fn spec(&self) -> String {
        let ScenesConfig { size, train, test, seed, domain, objects: (fewest, most) } = self;
        let domain = domain.name();
        format!("scenes:size={size},train={train},test={test},seed={seed},domain={domain},objects={fewest}..{most}")
    }

    fn check(&self) -> Result<()> {
        let wrong = |key: &str, got: String, expected: &str| {
            Err(Error::new(ErrorKind::Config, format!("scenes: {key}"), got).expected(expected))
        };
        if !(MIN_SIZE..=4096).contains(&self.size) {
            return wrong("size", self.size.to_string(), "32 to 4096 pixels");
        }
        let (fewest, most) = self.objects;
        if fewest < 1 || most < fewest || most > 8 {
            return wrong("objects", format!("{fewest}..{most}"), "a number or range A..B within 1 to 8");
        }
        for (key, images) in [("train", self.train), ("test", self.test)] {
            if !(1..=MAX_IMAGES).contains(&images) {
                return wrong(key, images.to_string(), &format!("1 to {MAX_IMAGES} images"));
            }
        }
        Ok(())
    }
}

/// A box of pixels: columns `x0..x1`, rows `y0..y1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First column.
    pub x0: usize,
    /// First row.
    pub y0: usize,
    /// One past the last column.
    pub x1: usize,
    /// One past the last row.
    pub y1: usize,
}

/// What is known about one object of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectLabel {
    /// The class.
    pub shape: Shape,
    /// `height * width` entries: whether the object is what at least half of the pixel shows.
    pub mask: Vec<bool>,
    /// The tight box of the mask; `None` when the object is hidden.
    pub bounds: Option<Bounds>,
    /// Centre (x, y) in this frame, in units of the side.
    pub centre: [f32; 2],
    /// Tilt in this frame, in radians clockwise.
    pub rotation: f32,
}

/// A picture with everything that is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneSample {
    /// The picture, RGB.
    pub image: Bitmap,
    /// Label of the dominant object, an index into [`Shape::ALL`].
    pub label: u32,
    /// One entry per object, from back to front; the last one is dominant.
    pub objects: Vec<ObjectLabel>,
    /// Which of the ten classes are visible.
    pub present: [bool; 10],
    /// The attributes: colours, textures, scales, light, and what else was drawn.
    pub scene: Scene,
}

/// The procedural data set.
#[derive(Clone, Debug)]
pub struct Scenes {
    config: ScenesConfig,
    split: Split,
    classes: Vec<String>,
}

impl Scenes {
    /// The `split` of the data set that `config` describes, or an error that names the wrong parameter.
    pub fn new(config: ScenesConfig, split: Split) -> Result<Scenes> {
        config.check()?;
        let classes = Shape::ALL.iter().map(|shape| shape.name().to_string()).collect();
        Ok(Scenes { config, split, classes })
    }

    /// The parameters.
    pub fn config(&self) -> &ScenesConfig {
        &self.config
    }

    /// Picture `index` with all its labels.
    pub fn sample(&self, index: usize) -> Result<SceneSample> {
        self.track(index, 0)
    }

    /// Frame `frame` of the track that starts at picture `index`: the objects move, the background stands still.
    pub fn track(&self, index: usize, frame: u32) -> Result<SceneSample> {
        check_index("scenes", index, self.len())?;
        let id = self.id(index);
        let scene = self.scene(id);
        let mut rendered = render::render(&scene, frame, self.config.size, self.config.domain);
        self.config.domain.sense(&mut rendered.image, &mut stream(self.config.seed, Part::Grain, frame, id));
        let objects: Vec<ObjectLabel> =
            scene.objects.iter().zip(&rendered.visible).map(|(object, seen)| self.label(object, frame, seen)).collect();
        let mut present = [false; 10];
        for object in objects.iter().filter(|object| object.bounds.is_some()) {
            present[object.shape.label() as usize] = true;
        }
        let label = scene.dominant().shape.label();
        Ok(SceneSample { image: rendered.image.to_bitmap(), label, objects, present, scene })
    }

    /// The number that a picture's random draws are keyed by: test pictures count on from [`TEST_BASE`].
    fn id(&self, index: usize) -> u64 {
        index as u64 + if self.split == Split::Test { TEST_BASE } else { 0 }
    }

    fn scene(&self, id: u64) -> Scene {
        Scene::draw(&self.config, id, &mut stream(self.config.seed, Part::Layout, 0, id))
    }

    fn label(&self, object: &Object, frame: u32, visible: &[f32]) -> ObjectLabel {
        let mask: Vec<bool> = visible.iter().map(|&share| share >= 0.5).collect();
        let (centre, rotation) = object.pose(frame);
        ObjectLabel { shape: object.shape, bounds: tight_box(&mask, self.config.size), mask, centre, rotation }
    }
}

/// The smallest box around the pixels of a mask of `width` columns.
fn tight_box(mask: &[bool], width: usize) -> Option<Bounds> {
    let mut bounds: Option<Bounds> = None;
    for (y, row) in mask.chunks_exact(width).enumerate() {
        for x in (0..width).filter(|&x| row[x]) {
            let b = bounds.get_or_insert(Bounds { x0: x, y0: y, x1: x + 1, y1: y + 1 });
            *b = Bounds { x0: b.x0.min(x), y0: b.y0, x1: b.x1.max(x + 1), y1: y + 1 };
        }
    }
    bounds
}

/// The independent draws behind a picture; the discriminant takes the place of the view in the stream's name.
#[derive(Clone, Copy)]
enum Part {
    /// Everything that [`Scene`] holds.
    Layout = 0,
    /// The order of the classes in a block of ten pictures.
    ClassOrder = 1,
    /// Sensor noise, anew in each frame.
    Grain = 2,
}

fn stream(seed: u64, part: Part, frame: u32, id: u64) -> Stream {
    Key::new(seed, Purpose::Scenes).stream(u64::from(frame), id, part as u16)
}

/// The class of picture `id`: blocks of ten consecutive pictures hold each class once, in a shuffled order.
fn draw_order(seed: u64, id: u64) -> usize {
    let classes = Shape::ALL.len();
    let mut order: Vec<usize> = (0..classes).collect();
    stream(seed, Part::ClassOrder, 0, id / classes as u64).shuffle(&mut order);
    order[(id % classes as u64) as usize]
}

impl Dataset for Scenes {
    fn len(&self) -> usize {
        match self.split {
            Split::Test => self.config.test,
            Split::Train | Split::Unlabelled => self.config.train,
        }
    }

    fn get(&self, index: usize) -> Result<Sample> {
        check_index("scenes", index, self.len())?;
        let id = self.id(index);
        let scene = self.scene(id);
        let mut image = render::render(&scene, 0, self.config.size, self.config.domain).image;
        self.config.domain.sense(&mut image, &mut stream(self.config.seed, Part::Grain, 0, id));
        Ok(Sample { image: image.to_bitmap(), label: Some(scene.dominant().shape.label()) })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> DatasetInfo {
        let spec = self.config.spec();
        let identity = format!("{spec} split={} generator={GENERATOR_VERSION}", self.split.name());
        DatasetInfo {
            name: "scenes".into(),
            checksum: xxhash_rust::xxh3::xxh3_64(identity.as_bytes()),
            spec,
            split: self.split,
            images: self.len(),
            size: Some((self.config.size, self.config.size)),
            channels: 3,
            classes: self.classes.clone(),
        }
    }
}
