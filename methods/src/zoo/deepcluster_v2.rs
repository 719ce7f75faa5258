//! DeepCluster-v2 (Caron et al., NeurIPS 2020, arXiv:2006.09882, appendix; DeepCluster: ECCV 2018).
//!
//! ```text
//! before an epoch, for each head h: spherical k-means of the stored embeddings of large crop h mod L
//!     C_h: its centroids; labels_h: the cluster of each image, none for images that the last epoch left out
//! for each of N images: draw large crops and small crops; z = unit(g(f(x)))
//! L = mean over heads, crops and labelled images of CE(labels_h, softmax(z C_h / τ))
//! step on f, g; store the large crops' z
//! ```
//! Centroids get no gradient. Stored embeddings are those of the training steps: up to an epoch old, without another
//! forward. Batch norm sees one crop at a time; the authors' code runs crops of one size together.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::{Usage, cluster_cross_entropy_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, ClusterHeads, Embedder, UNIT_EPS};
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "deepcluster-v2",
    paper: "arXiv:2006.09882",
    title: "DeepCluster-v2, of Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    family: Family::Clustering,
    status: Status::Complete,
    views: parts::multi_crop,
    defaults: r#"
temperature = 0.1       # tau: divides the cosines with the centroids
prototypes = 3000       # K of each head; far fewer for small data sets
heads = 3               # clusterings
iterations = 10         # of k-means
hidden = 2048           # width of the projector's hidden layer
dim = 128               # length of the embeddings

large_crops = 2         # crops that are stored and clustered
small_crops = 6         # crops that are classified alone
small_size = 16         # side of small crops in pixels: 96 beside large ones of 224
small_crop_min = 0.05   # small crops: smallest share of the area
small_crop_max = 0.14   # the largest
crop_min = 0.14
strength = 1.0
blur = 0.5

optimizer = "lars"
lars_variant = "apex-larc"
trust = 0.001
lr = 0.3                # 4.8 for a batch of 4096
lr_end = 0.001
weight_decay = 1e-6
warmup_epochs = 10.0
warmup_from = 0.0625    # 0.3 of 4.8
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder =
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::SWAV))?;
        let large = config.at_least("large_crops", 1)?;
        Ok(Box::new(DeepClusterV2 {
            embedder,
            clusters: ClusterHeads::new(config, init, plan, large, dim)?,
            temperature: config.positive("temperature")?,
            large,
            crops: large + config.usize("small_crops")?,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "prototypes"))],
};

struct DeepClusterV2 {
    embedder: Embedder,
    clusters: ClusterHeads,
    temperature: f64,
    large: usize,
    crops: usize,
}

impl Method for DeepClusterV2 {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.crops, "z", cx, |x, cx| self.embedder.forward(x, cx)?.l2_normalize(UNIT_EPS))
    }

    fn targets(&self, views: &Views, _: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("images", views.index_tensor(views.view(0)?.device())?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let images = z.get("images")?.array();
        let z = parts::of_views(z, "z", 0..self.crops)?;
        let (mut losses, mut outputs) = (Vec::new(), Vec::new());
        for h in 0..self.clusters.heads() {
            let scores = z.iter().map(|z| self.clusters.scores(h, z, cx)).collect::<Result<Vec<_>>>()?;
            let labels = self.clusters.labels(h, images)?;
            losses.push(cluster_cross_entropy_ranks(&scores, &labels, self.temperature, cx.ranks())?);
            outputs.push(scores[0].detach().scale(1.0 / self.temperature)?.softmax()?);
        }
        self.clusters.keep(images, &z[..self.large], cx)?;
        let usage = Usage::of(&outputs[..1], cx.ranks())?;
        Ok(parts::log_usage(Step::new(parts::mean_of(&losses)?).embeddings(&z[0]), usage))
    }

    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        if epoch == 0 {
            let crops = 0..self.large;
            let embed = |crop| sweep.view_features(crop, |x, cx| self.embedder.forward(x, cx));
            self.clusters.fill(&crops.map(embed).collect::<Result<Vec<_>>>()?)?;
        }
        self.clusters.cluster(epoch)?;
        Ok(Vec::new())
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.embedder.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.embedder.visit(visitor);
        self.clusters.visit(visitor);
    }
}
