//! A small method with everything that a cut could get wrong: dropout, two views, batch norm, a teacher with batch norm
//! of its own, a layer used by the networks and by the objective, and a centre that the objective moves.

use selfsame_autograd::{Param, ParamVisitor, Tensor};
use selfsame_engine::{Array, Result, ops};
use selfsame_losses::{NtXent, nt_xent_ranks, sample_totals};
use selfsame_methods::method::{Family, MethodSpec, Status};
use selfsame_methods::parts;
use selfsame_methods::{Embeddings, Method, Step, Views};
use selfsame_models::backbones::Backbone;
use selfsame_models::layers::{BatchNorm, BatchNormOpts, Conv2d, Conv2dOpts, Dropout, GroupNorm, Linear};
use selfsame_models::{Ctx, Init, Module};

const WIDTH: usize = 8;

pub(crate) static TOY: MethodSpec = MethodSpec {
    name: "toy",
    paper: "none",
    title: "A method for tests",
    family: Family::Contrastive,
    status: Status::Complete,
    views: parts::two_views,
    defaults: r#"
norm = "group"          # group, batch, or blocks (batch norm over groups of 16 images)
objective = "pairs"     # pairs (of each image's own views) or ntxent
divisible = true        # false: refuses micro-batches
"#,
    build: |config, init, _| {
        let norm = config.choice("norm", &["group", "batch", "blocks"])?;
        let batch_norm = |init: &Init| {
            let group = (norm == "blocks").then_some(16);
            BatchNorm::new(init, WIDTH, BatchNormOpts { group, ..BatchNormOpts::default() })
        };
        let encoder = Encoder {
            conv: Conv2d::new(&init.at("conv"), 3, WIDTH, 3, Conv2dOpts { padding: 1, ..Conv2dOpts::default() })?,
            norm: match norm {
                "group" => Box::new(GroupNorm::new(&init.at("norm"), 2, WIDTH, 1e-5)?),
                _ => Box::new(batch_norm(&init.at("norm"))?),
            },
            dropout: Dropout::new(&init.at("dropout"), 0.25)?,
        };
        let teacher = Linear::new(&init.at("teacher"), 3, WIDTH, true)?;
        Ok(Box::new(Toy {
            encoder,
            head: Linear::new(&init.at("head"), WIDTH, WIDTH, true)?,
            teacher_norm: (norm != "group").then(|| batch_norm(&init.at("teacher_norm"))).transpose()?,
            teacher,
            centre: init.buffer("centre", &[WIDTH], 0.0)?,
            batch: config.usize("batch")?,
            contrasts: config.choice("objective", &["pairs", "ntxent"])? == "ntxent",
            divisible: config.bool("divisible")?,
        }))
    },
    facts: &[],
};

struct Toy {
    encoder: Encoder,
    head: Linear,
    teacher: Linear,
    teacher_norm: Option<BatchNorm>,
    centre: Param,
    batch: usize,
    contrasts: bool,
    divisible: bool,
}

impl Method for Toy {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let z = |view: usize| {
            let cx = cx.clone().view(view);
            self.head.forward(&self.encoder.forward(views.view(view)?, &cx)?, &cx)
        };
        Ok(Embeddings::default().with("z0", z(0)?).with("z1", z(1)?))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let t = self.teacher.forward(&views.view(0)?.global_avg_pool()?, cx)?;
        let t = self.teacher_norm.iter().try_fold(t, |t, norm| norm.forward(&t, cx))?;
        assert!(!t.is_tracked(), "a teacher has no gradient");
        Ok(Embeddings::default().with("t", t))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1) = (z.get("z0")?, z.get("z1")?);
        // The mean over the batch, on every rank.
        let mean = |x: &Tensor| sample_totals(x, cx.first(), cx.ranks())?.scale(1.0 / self.batch as f64);
        let centred = z.get("t")?.sub(&cx.param(&self.centre))?;
        let newest = mean(z.get("t")?)?.array().clone();
        cx.update(&self.centre, ops::add_scaled(ops::scale(self.centre.array(), 0.9)?, 0.1, &newest)?);
        let predicted = self.head.forward(&z0.tanh()?, cx)?;
        let distance = mean(&predicted.sub(&centred)?.square()?)?.add(&mean(&z0.mul(z1)?.tanh()?)?)?.sum_all()?;
        let loss = match self.contrasts {
            true => {
                nt_xent_ranks(z0, z1, &NtXent { temperature: 0.5, ..NtXent::default() }, cx.ranks())?.add(&distance)?
            }
            false => distance,
        };
        Ok(Step::new(loss).embeddings(z0).scalar("loss/toy", 1.0))
    }

    fn indivisible(&self) -> Option<&'static str> {
        (!self.divisible).then_some("its views are mixed across the batch")
    }

    fn encoder(&self) -> &dyn Backbone {
        &self.encoder
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.encoder.visit(v);
        self.head.visit(v);
        self.teacher.visit(v);
        self.teacher_norm.iter().for_each(|norm| norm.visit(v));
        v.param(self.centre.path(), &self.centre);
    }
}

struct Encoder {
    conv: Conv2d,
    norm: Box<dyn Module>,
    dropout: Dropout,
}

impl Module for Encoder {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.feature_map(x, cx)?.global_avg_pool()
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.conv.visit(v);
        self.norm.visit(v);
    }
}

impl Backbone for Encoder {
    fn feature_dim(&self) -> usize {
        WIDTH
    }

    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let y = self.norm.forward(&self.conv.forward(x, cx)?, cx)?.relu()?;
        self.dropout.forward(&y, cx)
    }
}

/// Two views of `images` images of `size` pixels a side: those of step `step`.
pub(crate) fn views(images: usize, size: usize, step: u64, device: &selfsame_engine::Device) -> Views {
    use selfsame_kernels::isa::Isa;
    use selfsame_kernels::philox::{Key, Purpose, fill_uniform};
    let view = |view: u16| {
        let mut pixels = vec![0f32; images * size * size * 3];
        fill_uniform(Isa::detect(), &Key::new(7, Purpose::Check).stream(step, 0, view), 0, &mut pixels);
        Tensor::constant(Array::from_slice(&pixels, &[images, size, size, 3], device).unwrap())
    };
    Views::new(vec![view(0), view(1)], (0..images).collect()).unwrap()
}
