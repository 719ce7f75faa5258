//! CACR: contrastive attraction and contrastive repulsion (Zheng, Chen, Yao, …, Zhou, TMLR 2023, arXiv:2105.03746).
//!
//! ```text
//! for each of B images: draw M augmentations; z = g(f(x)) at length 1; cost c(u, v) = |u - v|²
//! form "pairs":
//!     attraction: each view is pulled to the other views of its image, the farthest most
//!     repulsion:  for each two views x < y, an image's x is pushed from the other images' y, the nearest most
//!     L = attraction + repulsion
//! form "momentum":
//!     q = h(z), k = the momentum encoder's z
//!     L = mean over target views of attraction and repulsion of the other views' q to its k
//! ```
//!
//! The form of pairs is for small images, with one linear layer as projector, as the last one of the authors' small
//! AlexNet. The other is for large data, in the layout of MoCo v3: projector and predictor of two layers with batch norm;
//! the momentum of its encoder is not in the sheet (unverified).

use std::sync::Arc;

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;
use selfsame_losses::{Cacr as Pairs, CacrMomentum, cacr_momentum_ranks, cacr_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts, OutputNorm};
use selfsame_models::{Ctx, Init, Module};

use crate::config::Config;
use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, Teacher};
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "cacr",
    paper: "arXiv:2105.03746",
    title: "Contrastive Attraction and Contrastive Repulsion for Representation Learning",
    family: Family::Contrastive,
    status: Status::Complete,
    views: |config| {
        let alike = parts::two_views(config)?.swap_remove(0);
        Ok((0..config.at_least("views", 2)?).map(|_| Arc::clone(&alike)).collect())
    },
    defaults: r#"
views = 5               # M: one query and four positives; 2 for the cheapest form
t_plus = 1.0            # how much more far positives weigh; 0: all alike
t_minus = 1.0           # how much more near negatives weigh; 0: all alike; up to 2 in the paper (unverified)
alpha = 1.0             # weight of the attraction
beta = 1.0              # weight of the repulsion
rbf = 0.0               # above 0: the repulsion as the logarithm of a mean of exp(-rbf cost)
tau_plus = 0.0          # share of false negatives to correct for; 0.1 in the authors' code, with its sign
fixed_weights = false   # true: no gradient through the weights
dim = 128               # length of the embeddings; 256 with momentum

form = "pairs"          # "pairs" of views for small images, or "momentum" for large data, whose keys follow
hidden = 4096           # momentum: width of the hidden layers of projector and predictor
temperature = 1.0       # momentum: T
contrast = "rbf"        # momentum: "rbf", a weighted InfoNCE, or "euclidean", a sum over the batch
key_momentum = 0.99     # momentum: of the encoder of targets

epochs = 200
batch = 128
lr_drops = "0.775,0.85,0.925" # epochs 155, 170 and 185 of 200
warmup_epochs = 0.0
crop_min = 0.2
jitter = 1.0
hue = 0.8
brightness = "multiplicative"
"#,
    build: |config, init, _| {
        Ok(match config.choice("form", &["pairs", "momentum"])? {
            "pairs" => Box::new(of_pairs(config, init)?),
            _ => Box::new(with_momentum(config, init)?),
        })
    },
    facts: &[Fact {
        formula: "0",
        meaning: "in the form of pairs all embeddings are equal: the encoder has collapsed",
        advice: "a lower learning rate or a longer warm-up; look at embed/std",
        value: |_, _| Ok(0.0),
    }],
};

fn of_pairs(config: &Config, init: &Init) -> Result<Cacr> {
    let dim = config.at_least("dim", 1)?;
    let projector = |init: &_, features| Mlp::new(init, &[features, dim], MlpOpts::PAPER);
    let objective = Pairs {
        t_plus: config.f64("t_plus")?,
        t_minus: config.f64("t_minus")?,
        alpha: config.f64("alpha")?,
        beta: config.f64("beta")?,
        rbf: config.f64("rbf")?,
        tau_plus: config.f64("tau_plus")?,
        fixed_weights: config.bool("fixed_weights")?,
    };
    Ok(Cacr { online: Embedder::new(config, init, projector)?, form: Form::Pairs(objective) })
}

fn with_momentum(config: &Config, init: &Init) -> Result<Cacr> {
    let (dim, hidden) = (config.at_least("dim", 1)?, config.at_least("hidden", 1)?);
    let head = MlpOpts { output_norm: OutputNorm::Plain, ..MlpOpts::SIMCLR };
    let build =
        |init: &Init| Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], head));
    let online = build(init)?;
    let form = Form::Momentum {
        predictor: Mlp::new(&init.at("predictor"), &[dim, hidden, dim], head)?,
        teacher: Teacher::of(&online, init, build)?,
        momentum: config.fraction("key_momentum")?,
        objective: CacrMomentum {
            temperature: config.positive("temperature")?,
            rbf: config.choice("contrast", &["rbf", "euclidean"])? == "rbf",
        },
    };
    Ok(Cacr { online, form })
}

struct Cacr {
    online: Embedder,
    form: Form,
}

enum Form {
    Pairs(Pairs),
    Momentum { predictor: Mlp, teacher: Teacher<Embedder>, momentum: f64, objective: CacrMomentum },
}

/// What `forward` makes of each view, under the names `z0`, `z1`, … for the letter z.
fn each_view(
    views: &Views,
    letter: char,
    cx: &Ctx,
    forward: impl Fn(&Tensor, &Ctx) -> Result<Tensor>,
) -> Result<Embeddings> {
    views.iter().enumerate().try_fold(Embeddings::default(), |all, (view, x)| {
        Ok(all.with(format!("{letter}{view}"), forward(x, &cx.clone().view(view))?))
    })
}

impl Method for Cacr {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        each_view(views, 'z', cx, |x, cx| {
            let z = self.online.forward(x, cx)?;
            match &self.form {
                Form::Pairs(_) => Ok(z),
                Form::Momentum { predictor, .. } => predictor.forward(&z, cx),
            }
        })
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        match &self.form {
            Form::Pairs(_) => Ok(Embeddings::default()),
            Form::Momentum { teacher, .. } => each_view(views, 'k', cx, |x, cx| teacher.forward(x, cx)),
        }
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let of = |letter: char| z.iter().filter(move |(name, _)| name.starts_with(letter)).map(|(_, z)| z);
        let views: Vec<&Tensor> = of('z').collect();
        match &self.form {
            Form::Pairs(objective) => {
                let terms = cacr_ranks(&views, objective, cx.ranks())?;
                Ok(Step::new(terms.loss)
                    .embeddings(views[0])
                    .scalar("loss/attraction", scalar(terms.attraction.array())?)
                    .scalar("loss/repulsion", scalar(terms.repulsion.array())?))
            }
            Form::Momentum { objective, .. } => {
                let mut losses = Vec::new();
                for (target, k) in of('k').enumerate() {
                    let queries = views.iter().enumerate().filter(|(view, _)| *view != target).map(|(_, q)| *q);
                    losses.push(cacr_momentum_ranks(&queries.collect::<Vec<_>>(), k, objective, cx.ranks())?);
                }
                let loss = Tensor::stack(&losses.iter().collect::<Vec<_>>(), 0)?.mean_all()?;
                Ok(Step::new(loss).embeddings(views[0]))
            }
        }
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        match &self.form {
            Form::Pairs(_) => Ok(()),
            Form::Momentum { teacher, momentum, .. } => teacher.follow(*momentum),
        }
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        if let Form::Momentum { predictor, teacher, .. } = &self.form {
            predictor.visit(visitor);
            teacher.visit(visitor);
        }
    }
}
