//! DINO (Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, ICCV 2021, arXiv:2104.14294), Algorithm 1.
//!
//! ```text
//! for each of N images: draw large crops and small crops
//!     s = h(f(x))               student, every crop
//!     t = h'(f'(x))             teacher, large crops
//!     p_t = softmax((t - c) / τ_t), p_s = softmax(s / τ_s)
//! L = mean over pairs of a large crop a and another crop v of CE(p_t of a, p_s of v)
//! c ← 0.9 c + 0.1 mean t;  step;  (f', h') ← m (f', h') + (1 - m) (f, h), m by a cosine to 1
//! ```
//! The last layer gets no gradient in the first epoch. Without centring one output wins, without sharpening all are
//! equal. Batch norms of the teacher see their own batches. Batch norm sees one crop at a time; the authors' code runs
//! crops of one size together. The authors evaluate the teacher; the encoder that is exported is chosen by `export`.

use selfsame_autograd::schedule::Schedule;
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Array, DType, Result};
use selfsame_losses::state::Centre;
use selfsame_losses::{Usage, centred_targets, mean_entropy, swapped_cross_entropy};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{DinoHead, DinoHeadOpts};
use selfsame_models::layers::Gain;
use selfsame_models::{Ctx, Init, Module};

use crate::config::Config;
use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Teacher};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "dino",
    paper: "arXiv:2104.14294",
    title: "Emerging Properties in Self-Supervised Vision Transformers",
    family: Family::Distillation,
    status: Status::Complete,
    views: parts::asymmetric_multi_crop,
    defaults: r#"
student_temperature = 0.1
teacher_temperature = 0.04 # at the start; stay there with few outputs and small batches
teacher_temperature_end = 0.04 # after its warm-up; 0.07 in the best recipes of ViT-S
teacher_warmup_epochs = 30 # epochs in which the teacher's temperature rises
teacher_momentum = 0.996 # 0.9995 for a batch of 256
teacher_momentum_end = 1.0
centring = true         # false: the teacher's outputs are not centred, and one of them wins
centre_momentum = 0.9
freeze_epochs = 1.0     # epochs in which the last layer keeps its first values
outputs = 65536         # K; 1024 to 4096 for small data sets
hidden = 2048           # width of the head's hidden layers
bottleneck = 256        # length of the vectors of length 1 before the last layer
head_norm = false       # true: batch norm in the head, for convolutional encoders
last_gain = false       # true: lengths of the last layer's weights are learned
export = "teacher"      # encoder that evaluation sees and that is exported: teacher or student

large_crops = 2         # crops that the teacher sees as well
small_crops = 8         # crops that the student alone sees
small_size = 16         # side of small crops in pixels: 96 beside large ones of 224
small_crop_min = 0.05   # small crops: smallest share of the area
small_crop_max = 0.4    # the largest
crop_min = 0.4          # 0.14 without small crops
saturation = 0.4
hue = 0.2
blur = 1.0
blur2 = 0.1             # probability of blur in the second large crop
small_blur = 0.5        # and in small ones
solarize2 = 0.2         # probability of inverting bright pixels in the second large crop

optimizer = "adamw"
lr = 5e-4
lr_end = 0.002          # 1e-6 of 5e-4
weight_decay = 0.04
weight_decay_end = 10.0 # 0.4
clip = 3.0
warmup_epochs = 10.0
"#,
    build: |config, init, plan| {
        let student = Network::new(config, init, parts::backbone)?;
        let outputs = config.at_least("outputs", 1)?;
        let large = config.at_least("large_crops", 1)?;
        Ok(Box::new(Dino {
            teacher: Teacher::of(&student, init, |init| Network::new(config, init, parts::teacher_backbone))?,
            student,
            centre: Centre::new("centre", outputs, config.fraction("centre_momentum")?, init.device())?,
            centring: config.bool("centring")?,
            student_temperature: config.positive("student_temperature")?,
            teacher_temperature: TemperatureWarmup {
                start: config.positive("teacher_temperature")?,
                end: config.positive("teacher_temperature_end")?,
                epochs: config.usize("teacher_warmup_epochs")? as u64,
                steps_per_epoch: plan.steps_per_epoch,
            },
            momentum: parts::teacher_momentum(config, plan)?,
            frozen_until: parts::epochs_in_steps(config, "freeze_epochs", plan)?,
            large,
            crops: large + config.usize("small_crops")?,
            exports_teacher: config.choice("export", &["teacher", "student"])? == "teacher",
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "outputs"))],
};

/// An encoder with its head; its output is the head's bottleneck.
struct Network {
    encoder: Box<dyn Backbone>,
    head: DinoHead,
}

type MakeBackbone = fn(&Config, &Init) -> Result<Box<dyn Backbone>>;

impl Network {
    fn new(config: &Config, init: &Init, backbone: MakeBackbone) -> Result<Network> {
        let encoder = backbone(config, &init.at("encoder"))?;
        let options = DinoHeadOpts {
            hidden: config.at_least("hidden", 1)?,
            bottleneck: config.at_least("bottleneck", 1)?,
            batch_norm: config.bool("head_norm")?,
            gain: if config.bool("last_gain")? { Gain::Learned } else { Gain::Fixed },
            ..DinoHeadOpts::default()
        };
        let head = DinoHead::new(&init.at("head"), encoder.feature_dim(), config.at_least("outputs", 1)?, options)?;
        Ok(Network { encoder, head })
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.head.bottleneck(&self.encoder.forward(x, cx)?, cx)
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        self.head.visit(visitor);
    }
}

/// The teacher's temperature by the epoch: evenly spaced from start to end over the warm-up, both included, then the end.
struct TemperatureWarmup {
    start: f64,
    end: f64,
    epochs: u64,
    steps_per_epoch: u64,
}

impl TemperatureWarmup {
    fn at(&self, step: u64) -> f64 {
        let epoch = step / self.steps_per_epoch;
        match epoch < self.epochs && self.epochs > 1 {
            true => self.start + (self.end - self.start) * (epoch as f64 / (self.epochs - 1) as f64),
            false => self.end,
        }
    }
}

struct Dino {
    student: Network,
    teacher: Teacher<Network>,
    centre: Centre,
    centring: bool,
    student_temperature: f64,
    teacher_temperature: TemperatureWarmup,
    momentum: Schedule,
    frozen_until: u64,
    large: usize,
    crops: usize,
    exports_teacher: bool,
}

impl Method for Dino {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.crops, "s", cx, |x, cx| self.student.forward(x, cx))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.large, "t", cx, |x, cx| self.teacher.forward(x, cx))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (s, t) = (parts::of_views(z, "s", 0..self.crops)?, parts::of_views(z, "t", 0..self.large)?);
        let last_layer = |network: &Network, z: &[Tensor], cx: &Ctx| {
            z.iter().map(|z| network.head.last_layer().forward(z, cx)).collect::<Result<Vec<_>>>()
        };
        let constant = cx.clone().no_grad();
        let of_last = if cx.steps_done() < self.frozen_until { &constant } else { cx };
        let student = last_layer(&self.student, &s, of_last)?;
        let teacher = last_layer(self.teacher.network(), &t, &constant)?;

        let centre = match self.centring {
            true => self.centre.value(),
            false => Array::zeros(self.centre.value().shape(), DType::F32, t[0].device())?,
        };
        let temperature = self.teacher_temperature.at(cx.steps_done());
        let targets = teacher
            .iter()
            .map(|t| centred_targets(t.array(), &centre, temperature).map(Tensor::constant))
            .collect::<Result<Vec<_>>>()?;
        let (centre, next) = self.centre.next(&teacher, cx.ranks())?;
        cx.update(&centre, next);

        let loss = swapped_cross_entropy(&student, &targets, self.student_temperature, cx.ranks())?;
        let entropy = mean_entropy(&targets, cx.ranks())?;
        let usage = Usage::of(&targets, cx.ranks())?;
        Ok(parts::log_usage(Step::new(loss).embeddings(&s[0]).scalar("teacher/entropy", entropy), usage))
    }

    fn after_step(&mut self, step: u64) -> Result<()> {
        self.teacher.follow(self.momentum.at(step))
    }

    fn encoder(&self) -> &dyn Backbone {
        match self.exports_teacher {
            true => &*self.teacher.network().encoder,
            false => &*self.student.encoder,
        }
    }

    fn encoder_path(&self) -> &'static str {
        if self.exports_teacher { "teacher.encoder" } else { "encoder" }
    }

    fn trainable_encoder(&self) -> (&dyn Backbone, &'static str) {
        (&*self.student.encoder, "encoder")
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.student.visit(visitor);
        self.teacher.visit(visitor);
        self.centre.visit(visitor);
    }
}
