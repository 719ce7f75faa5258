//! MIRA (Lee, Choi, Kim, Chung, NeurIPS 2022, arXiv:2211.02284), Algorithm 1.
//!
//! ```text
//! for each of N images: draw large crops and small crops
//!     q = unit(g(f(x))) C       student, every crop; C: K prototypes of length 1
//!     k = unit(g'(f'(x))) C     teacher, large crops, with the student's prototypes
//! W = the labels that stay close to softmax(k / τ_t) and tell most of the image   (30 fixed-point iterations)
//! L = mean over pairs of a large crop a and another crop v of CE(W of a, softmax(q_v / τ_s))
//! step; (f', g') ← m (f', g') + (1 - m) (f, g)
//! ```
//! The teacher is averaged before the forward of a step in the authors' code, and after the step before it here: the
//! same. m and β follow cosines. With β = 0 labels are the teacher's probabilities, and it collapses. Batch norm sees one
//! crop at a time.

use selfsame_autograd::schedule::Schedule;
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;
use selfsame_losses::{Mira as Labels, Usage, informative_labels, mean_entropy, swapped_cross_entropy};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts, OutputNorm};
use selfsame_models::layers::{Gain, WeightNormLinear};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, Teacher, UNIT_EPS};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "mira",
    paper: "arXiv:2211.02284",
    title: "Unsupervised Visual Representation Learning via Mutual Information Regularized Assignment",
    family: Family::Clustering,
    status: Status::Complete,
    views: parts::asymmetric_multi_crop,
    defaults: r#"
student_temperature = 0.1
teacher_temperature = 0.225
beta = 0.75             # weight of mutual information at the start; 0 collapses
beta_end = 0.6666666666666666 # at the end of its cosine
iterations = 30         # of the labels' solver
teacher_momentum = 0.99
teacher_momentum_end = 1.0
prototypes = 3000       # K; far fewer for small data sets
hidden = 2048           # width of the projector's two hidden layers
dim = 256               # length of the embeddings
freeze_epochs = 1.0     # epochs in which prototypes keep their first values

large_crops = 2         # crops that give labels, and predict
small_crops = 6         # crops that predict alone
small_size = 16         # side of small crops in pixels: 96 beside large ones of 224
small_crop_min = 0.05   # small crops: smallest share of the area
small_crop_max = 0.14   # the largest
crop_min = 0.14
saturation = 0.4
hue = 0.2
blur = 1.0
blur2 = 0.1             # probability of blur in the second large crop
small_blur = 0.5        # and in small ones
solarize2 = 0.2         # probability of inverting bright pixels in the second large crop

zero_init = true
optimizer = "lars"
lars_variant = "barlow-twins"
lr = 0.3
weight_decay = 1e-6
warmup_epochs = 10.0
warmup_from = 0.0625    # 0.3 of 4.8
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder = |init: &_| {
            Embedder::new(config, init, |init, features| {
                let last_bias = MlpOpts { output_norm: OutputNorm::None, ..MlpOpts::BARLOW_TWINS };
                Mlp::new(init, &[features, hidden, hidden, dim], last_bias)
            })
        };
        let (student, prototypes) = (embedder(init)?, config.at_least("prototypes", 1)?);
        let large = config.at_least("large_crops", 1)?;
        let labels = Labels {
            temperature: config.positive("teacher_temperature")?,
            beta: config.fraction("beta")?,
            iterations: config.usize("iterations")?,
        };
        Ok(Box::new(Mira {
            teacher: Teacher::of(&student, init, embedder)?,
            student,
            prototypes: WeightNormLinear::new(&init.at("prototypes"), dim, prototypes, Gain::Fixed)?,
            beta: Schedule::cosine(labels.beta, config.fraction("beta_end")?, plan.steps()),
            labels,
            temperature: config.positive("student_temperature")?,
            momentum: parts::teacher_momentum(config, plan)?,
            frozen_until: parts::epochs_in_steps(config, "freeze_epochs", plan)?,
            large,
            crops: large + config.usize("small_crops")?,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "prototypes"))],
};

struct Mira {
    student: Embedder,
    teacher: Teacher<Embedder>,
    prototypes: WeightNormLinear,
    labels: Labels,
    beta: Schedule,
    temperature: f64,
    momentum: Schedule,
    frozen_until: u64,
    large: usize,
    crops: usize,
}

impl Method for Mira {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.crops, "q", cx, |x, cx| self.student.forward(x, cx)?.l2_normalize(UNIT_EPS))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.large, "k", cx, |x, cx| self.teacher.forward(x, cx)?.l2_normalize(UNIT_EPS))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (q, k) = (parts::of_views(z, "q", 0..self.crops)?, parts::of_views(z, "k", 0..self.large)?);
        let constant = cx.clone().no_grad();
        let of_prototypes = if cx.steps_done() < self.frozen_until { &constant } else { cx };
        let logits =
            |z: &[Tensor], cx: &Ctx| z.iter().map(|z| self.prototypes.forward(z, cx)).collect::<Result<Vec<_>>>();
        let (student, teacher) = (logits(&q, of_prototypes)?, logits(&k, &constant)?);
        let o = Labels { beta: self.beta.at(cx.steps_done()), ..self.labels };
        let labels = teacher
            .iter()
            .map(|k| informative_labels(k.array(), &o, cx.ranks()).map(Tensor::constant))
            .collect::<Result<Vec<_>>>()?;
        let loss = swapped_cross_entropy(&student, &labels, self.temperature, cx.ranks())?;
        let entropy = mean_entropy(&labels, cx.ranks())?;
        let usage = Usage::of(&labels, cx.ranks())?;
        Ok(parts::log_usage(Step::new(loss).embeddings(&q[0]).scalar("labels/entropy", entropy), usage))
    }

    fn after_step(&mut self, step: u64) -> Result<()> {
        // That of the next step, whose forward the authors' code averages in front of.
        self.teacher.follow(self.momentum.at(step + 1))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.student.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.student.visit(visitor);
        self.prototypes.visit(visitor);
        self.teacher.visit(visitor);
    }
}
