//! What a method is: [`MethodSpec`] in the registry, [`Method`] at work.

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_models::backbones::Backbone;
use selfsame_models::{Ctx, Init};

use crate::config::Config;

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
    /// The augmented views of each image that it wants.
    pub views: ViewPlan,
    /// Its own keys and its changes to the trainer's defaults: flat TOML, with advice in comments.
    pub defaults: &'static str,
    /// Builds its modules from the resolved configuration.
    pub build: fn(&Config, &Init) -> Result<Box<dyn Method>>,
    /// Losses that mean something, such as the one of a collapsed encoder.
    pub facts: &'static [Fact],
}

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

/// The augmented views of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewPlan {
    /// That many views, each an independent draw from the augmentation that the configuration describes.
    Alike(usize),
}

impl ViewPlan {
    /// Views per image.
    pub fn count(self) -> usize {
        match self {
            ViewPlan::Alike(views) => views,
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
    /// The value for a batch of `images`.
    pub value: fn(images: usize) -> f64,
}

/// A method at work: its modules and how they turn views into a loss.
pub trait Method: Send {
    /// The loss of one batch.
    ///
    /// # Errors
    /// Those of its operations.
    fn loss(&mut self, views: &Views, cx: &Ctx) -> Result<Step>;

    /// Runs after the optimiser's step `step` (the first is 0): momentum encoders, queues, centres.
    ///
    /// # Errors
    /// Those of its operations.
    fn after_step(&mut self, step: u64) -> Result<()> {
        let _ = step;
        Ok(())
    }

    /// The part that downstream tasks use: `[n, h, w, c]` to features `[n, d]`.
    fn encoder(&self) -> &dyn Backbone;

    /// Shows every parameter and buffer to `visitor`.
    fn visit(&self, visitor: &mut dyn ParamVisitor);
}

/// The views of one batch.
pub struct Views(Vec<Tensor>);

impl Views {
    /// Views in plan order, each `[n, h, w, c]` with the same images in the same order.
    pub fn new(views: Vec<Tensor>) -> Views {
        Views(views)
    }

    /// View `i`, `[n, h, w, c]`.
    ///
    /// # Errors
    /// `Config` when the plan has fewer views.
    #[track_caller]
    pub fn view(&self, i: usize) -> Result<&Tensor> {
        self.0.get(i).ok_or_else(|| {
            Error::new(ErrorKind::Config, "views", format!("view {i}")).expected(format!("one of {}", self.0.len()))
        })
    }

    /// All views, in plan order.
    pub fn iter(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter()
    }

    /// Images in the batch.
    ///
    /// # Errors
    /// `Config` when there is no view.
    pub fn images(&self) -> Result<usize> {
        Ok(self.view(0)?.shape().first().copied().unwrap_or(0))
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
