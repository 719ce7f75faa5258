//! What a method is: [`MethodSpec`] in the registry, [`Method`] at work.

use std::ops::Range;
use std::sync::Arc;

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_data::Augment;
use selfsame_engine::{Array, Device, Error, ErrorKind, Result, nearest, ops};
use selfsame_models::backbones::Backbone;
use selfsame_models::{Ctx, Init};

use crate::config::Config;
use crate::sweep::Sweep;
use crate::trainer::Plan;

/// A published method, as the registry lists it.
pub struct MethodSpec {
    /// Name on the command line and of its file.
    pub name: &'static str,
    /// The paper: an arXiv number or other address.
    pub paper: &'static str,
    /// Authors' title of the method, for tables.
    pub title: &'static str,
    /// Its kind.
    pub family: Family,
    /// How much of the paper is there.
    pub status: Status,
    /// The augmented views of each image that it wants, in order: each an independent draw from its augmentation.
    pub views: fn(&Config) -> Result<Augmentations>,
    /// Its own keys and its changes to the trainer's defaults: flat TOML, with advice in comments.
    pub defaults: &'static str,
    /// Builds its modules from the resolved configuration, for a training of that length.
    pub build: fn(&Config, &Init, &Plan) -> Result<Box<dyn Method>>,
    /// Losses that mean something, such as the one of a collapsed encoder.
    pub facts: &'static [Fact],
}

/// The augmentation of each view.
pub type Augmentations = Vec<Arc<dyn Augment>>;

/// The kind of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Agreement of positives against negatives.
    Contrastive,
    /// Agreement of cluster assignments.
    Clustering,
    /// Agreement with a teacher, without negatives.
    Distillation,
    /// Decorrelated or bounded statistics instead of negatives.
    Redundancy,
    /// Objectives on positions instead of whole images.
    Dense,
}

impl Family {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Family::Contrastive => "contrastive",
            Family::Clustering => "clustering",
            Family::Distillation => "distillation",
            Family::Redundancy => "redundancy",
            Family::Dense => "dense",
        }
    }
}

/// How much of a paper is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of it.
    Complete,
    /// All of it, with parts whose details the paper leaves open; they can be switched one by one.
    Reconstructed,
}

impl Status {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Complete => "complete",
            Status::Reconstructed => "reconstructed",
        }
    }
}

/// A loss value with a meaning.
pub struct Fact {
    /// The value as a formula.
    pub formula: &'static str,
    /// What a run that sits there is stuck at.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    /// The value with this configuration, for a batch of `images`.
    pub value: fn(config: &Config, images: usize) -> Result<f64>,
}

/// A method at work: its modules and how they turn views into a loss.
///
/// A step is networks, then an objective. [`embed`](Method::embed) and [`targets`](Method::targets) are the networks:
/// they see any part of the batch, a micro-batch or a rank's share. [`objective`](Method::objective) sees the whole
/// batch (with ranks: this rank's share, and the others through [`Ctx::ranks`]). Everything that a large batch needs
/// follows from that split: gradient caching, micro-batches in lockstep, ranks.
///
/// | method | `embed` | `targets` | `objective` |
/// |---|---|---|---|
/// | SimCLR, Barlow Twins | z of each view | | loss of the z |
/// | SimSiam | z and p = h(z) of each view | | p against the detached z |
/// | BYOL | p of each view | the teacher's z | p against z |
/// | MoCo | queries | keys of the momentum encoder | queries against keys and queue; returns the new queue |
/// | SwAV | z of each crop | | scores z·C, Sinkhorn, cross-entropies; returns the new queue |
/// | DINO | student's bottleneck of each crop | teacher's | last layer, centre; returns the new centre |
///
/// What makes embeddings wide, such as prototypes or DINO's last layer, belongs into the objective.
pub trait Method: Send + Sync {
    /// What the objective needs of these images, with its gradient. Under gradient caching it runs twice; randomness
    /// comes from the keys of `cx`, and each view has its own [`Ctx::view`].
    ///
    /// # Errors
    /// Those of its operations; `Numerics` from a method that is [`indivisible`](Method::indivisible).
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let _ = (views, cx);
        Err(self.undivided())
    }

    /// What the objective needs of these images without a gradient: a teacher's outputs. `cx` hands parameters out as
    /// constants. Runs once.
    ///
    /// # Errors
    /// Those of its operations.
    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let _ = (views, cx);
        Ok(Embeddings::default())
    }

    /// The loss from embeddings and targets. With ranks it holds this rank's images, every rank returns the same loss,
    /// and the ranks' parameter gradients add up. New values of queues and centres go to [`Ctx::update`].
    ///
    /// # Errors
    /// As for [`Method::embed`].
    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let _ = (z, cx);
        Err(self.undivided())
    }

    /// The loss of one batch in one graph: networks, then objective.
    ///
    /// # Errors
    /// Those of its operations.
    fn loss(&self, views: &Views, cx: &Ctx) -> Result<Step> {
        let z = self.embed(views, cx)?;
        let z = z.and(self.targets(views, &cx.clone().no_grad())?)?;
        let _loss = z.iter().next().map(|(_, z)| z.device().region("loss"));
        self.objective(&z, cx)
    }

    /// Why this method cannot be split into networks and an objective; it then gives [`Method::loss`] itself, and
    /// micro-batches are refused.
    fn indivisible(&self) -> Option<&'static str> {
        None
    }

    /// The error for a micro-batch of an [`indivisible`](Method::indivisible) method.
    fn undivided(&self) -> Error {
        let why = self.indivisible().unwrap_or("its networks and its objective are not told apart");
        Error::new(ErrorKind::Numerics, "micro-batches of this method", why)
            .expected("the whole batch of a rank at once: micro_batch = 0")
    }

    /// Runs once before the first step of each epoch, and may look at the whole training set: clustering, pseudo-labels,
    /// filling a memory bank. What it finds goes into buffers, so that a run that is resumed inside the epoch has it.
    /// Returns the paths of parameters that it has set anew; the optimiser forgets its state of them.
    ///
    /// # Errors
    /// Those of its operations.
    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        let _ = (epoch, sweep);
        Ok(Vec::new())
    }

    /// Which images the steps of `epoch` see, by their place in the training set and in this order, as long as the
    /// training set; `None` for each image once in an order of the loader's. Runs after
    /// [`before_epoch`](Method::before_epoch), and when a run is resumed inside an epoch: it depends on the method's
    /// buffers and the epoch alone.
    ///
    /// # Errors
    /// Those of its operations.
    fn begin_epoch(&mut self, epoch: u64) -> Result<Option<Vec<usize>>> {
        let _ = epoch;
        Ok(None)
    }

    /// Runs after the optimiser's step `step` (the first is 0): momentum encoders.
    ///
    /// # Errors
    /// Those of its operations.
    fn after_step(&mut self, step: u64) -> Result<()> {
        let _ = step;
        Ok(())
    }

    /// The part that downstream tasks use: `[n, h, w, c]` to features `[n, d]`.
    fn encoder(&self) -> &dyn Backbone;

    /// Where [`Method::encoder`] lies among the parameters: `teacher.encoder` for a method that exports its teacher.
    fn encoder_path(&self) -> &'static str {
        "encoder"
    }

    /// An encoder of that shape whose parameters can be trained, and where it lies: the same one, or the student's for a
    /// method that exports its teacher. Fine-tuning starts from it, with the exported weights.
    fn trainable_encoder(&self) -> (&dyn Backbone, &'static str) {
        (self.encoder(), self.encoder_path())
    }

    /// Shows every parameter and buffer to `visitor`.
    fn visit(&self, visitor: &mut dyn ParamVisitor);
}

/// The views of one batch.
pub struct Views {
    views: Vec<Tensor>,
    indices: Vec<usize>,
}

impl Views {
    /// Views in the method's order, each `[n, h, w, c]` with the same images in the same order: `indices` are their
    /// places in the training set.
    ///
    /// # Errors
    /// `Shape` unless every view has one image per index.
    pub fn new(views: Vec<Tensor>, indices: Vec<usize>) -> Result<Views> {
        match views.iter().find(|view| view.shape().first() != Some(&indices.len())) {
            Some(view) => Err(Error::new(ErrorKind::Shape, "views", format!("a view {:?}", view.shape()))
                .expected(format!("[{}, h, w, c]: one image per index", indices.len()))),
            None => Ok(Views { views, indices }),
        }
    }

    /// View `i`, `[n, h, w, c]`.
    ///
    /// # Errors
    /// `Config` when there are fewer views.
    #[track_caller]
    pub fn view(&self, i: usize) -> Result<&Tensor> {
        self.views.get(i).ok_or_else(|| {
            Error::new(ErrorKind::Config, "views", format!("view {i}")).expected(format!("one of {}", self.views.len()))
        })
    }

    /// All views, in the method's order.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.views.iter()
    }

    /// The place of each image in the training set.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// [`Views::indices`] as a constant `[n]` i64, for the objective: it goes among the targets.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn index_tensor(&self, device: &Device) -> Result<Tensor> {
        let indices: Vec<i64> = self.indices.iter().map(|index| *index as i64).collect();
        Ok(Tensor::constant(Array::from_slice(&indices, &[indices.len()], device)?))
    }

    /// The images `images` of every view, for the threads of `device`.
    ///
    /// # Errors
    /// `Shape` when there are fewer.
    pub fn part(&self, images: &Range<usize>, device: &Device) -> Result<Views> {
        let part =
            |view: &Tensor| Ok(Tensor::constant(view.array().slice(0, images.start, images.end)?.to_device(device)?));
        let indices = self.indices.get(images.clone()).ok_or_else(|| {
            Error::new(ErrorKind::Shape, "views", format!("images {images:?}"))
                .expected(format!("at most {}", self.indices.len()))
        })?;
        Ok(Views { views: self.iter().map(part).collect::<Result<_>>()?, indices: indices.to_vec() })
    }

    /// Images in the batch.
    pub fn images(&self) -> usize {
        self.indices.len()
    }
}

/// The values of [`Embeddings`].
pub(crate) type NamedArrays = Vec<(String, Array)>;

/// Named tensors whose axis 0 counts the images of a part of the batch, in order.
#[derive(Clone, Default)]
pub struct Embeddings(Vec<(String, Tensor)>);

impl Embeddings {
    /// With one more, of a name of its own.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, z: Tensor) -> Embeddings {
        self.0.push((name.into(), z));
        self
    }

    /// The one called `name`.
    ///
    /// # Errors
    /// `Config` when there is none.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, z)| z).ok_or_else(|| {
            let known: Vec<&str> = self.iter().map(|(name, _)| name).collect();
            Error::new(ErrorKind::Config, "embeddings", format!("'{name}'")).expected(known.join(", "))
        })
    }

    /// All of them with their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, z)| (name.as_str(), z))
    }

    /// These and those.
    ///
    /// # Errors
    /// `Config` when two have one name.
    pub fn and(mut self, others: Embeddings) -> Result<Embeddings> {
        self.0.extend(others.0);
        let mut names: Vec<&str> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::new(ErrorKind::Config, "embeddings", format!("'{}' twice", pair[0]))
                .expected("a name of its own for each")),
            None => Ok(self),
        }
    }

    /// The values, which must be of `images` images.
    pub(crate) fn arrays(&self, images: usize) -> Result<NamedArrays> {
        let array = |(name, z): (&str, &Tensor)| {
            if z.shape().first() != Some(&images) {
                return Err(Error::new(ErrorKind::Shape, format!("embedding '{name}'"), format!("{:?}", z.shape()))
                    .expected(format!("[{images}, …]: axis 0 counts the images of the micro-batch")));
            }
            Ok((name.to_string(), z.array().clone()))
        };
        self.iter().map(array).collect()
    }

    /// Those of consecutive parts as one, made tensors by `tensor`.
    pub(crate) fn concat(parts: &[NamedArrays], tensor: fn(Array) -> Tensor) -> Result<Embeddings> {
        let Some(first) = parts.first() else { return Ok(Embeddings::default()) };
        let mut all = Embeddings::default();
        for (i, (name, _)) in first.iter().enumerate() {
            let mut same = Vec::new();
            for part in parts {
                match part.get(i) {
                    Some((other, array)) if other == name && part.len() == first.len() => same.push(array),
                    _ => {
                        return Err(Error::new(ErrorKind::Config, "embeddings", "others in another micro-batch")
                            .expected(format!("'{name}' as number {i} of {} in each", first.len())));
                    }
                }
            }
            all = all.with(name, tensor(ops::concat(&same, 0)?));
        }
        Ok(all)
    }
}

/// What a method makes of a batch.
pub struct Step {
    /// The scalar to minimise.
    pub loss: Tensor,
    /// More numbers for the log; keys are paths such as `loss/ibot`.
    pub scalars: Vec<(String, f64)>,
    /// Embeddings `[n, d]` of one view, watched for collapse.
    pub embeddings: Option<Tensor>,
}

impl Step {
    /// A step of that loss.
    pub fn new(loss: Tensor) -> Step {
        Step { loss, scalars: Vec::new(), embeddings: None }
    }

    /// With the embeddings to watch.
    #[must_use]
    pub fn embeddings(mut self, embeddings: &Tensor) -> Step {
        self.embeddings = Some(embeddings.detach());
        self
    }

    /// With one more number for the log.
    #[must_use]
    pub fn scalar(mut self, key: &str, value: f64) -> Step {
        self.scalars.push((key.to_string(), value));
        self
    }
}

/// The method called `name` among `methods`.
///
/// # Errors
/// `Config`, naming the nearest.
pub fn find<'a>(name: &str, methods: &[&'a MethodSpec]) -> Result<&'a MethodSpec> {
    methods.iter().find(|spec| spec.name == name).copied().ok_or_else(|| {
        let names: Vec<&str> = methods.iter().map(|spec| spec.name).collect();
        let error = Error::new(ErrorKind::Config, format!("method '{name}'"), "no such method");
        match nearest(name, names.iter().copied()) {
            Some(known) => error.hint(format!("is '{known}' meant?")),
            None => error.expected(names.join(", ")),
        }
    })
}
