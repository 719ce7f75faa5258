//! The keys that all methods share, with their defaults, and how a method's configuration comes together.

use selfsame_engine::Result;

use crate::config::{Config, Source};
use crate::method::MethodSpec;

/// Defaults of the trainer: the authors' CIFAR-10 setting of SimCLR as far as it is common to all methods.
const TRAINER: &str = r#"
data = "scenes"         # data set: scenes, cifar10:DIR, cifar100:DIR, stl10:DIR, idx:DIR, folder:DIR, shards:DIR
size = 32               # side of the views in pixels
seed = 0                # of everything random: weights, order, augmentations
backbone = "resnet18"   # encoder: resnet-small, resnet18, resnet34, resnet50
stem = "cifar"          # its first layers: cifar (3x3), small (3x3 stride 2), imagenet (7x7 stride 2, max-pool)
width = 1.0             # factor on all its channel counts
backbone_options = ""   # its other options: "patch=4 depth=6 drop_path=0.1" of vit, "sobel=true" of the others
zero_init = false       # true: residual branches start at zero
bn_group = 0            # images that batch norm normalises together, a multiple of 16; 0: the whole batch
recompute = false       # true: blocks compute their forward again in backward; less memory, a third more time
micro_batch = 0         # images whose activations are held at a time, a multiple of 16; 0: the whole batch
grad_cache = true       # micro-batches one after another, with a second forward; false: all together, in lockstep
batch_norm = "lockstep" # statistics: lockstep (of the whole batch), local (of each micro-batch), frozen (running)

crop_min = 0.08         # random resized crop: smallest share of the area
crop_max = 1.0          # the largest
flip = 0.5              # probability of a horizontal flip
jitter = 0.8            # probability of colour jitter
strength = 0.5          # strength of colour jitter: 1.0 for ImageNet, 0.5 for CIFAR
saturation = 0.8        # of the jitter, times its strength; brightness and contrast have 0.8
hue = 0.2               # of the jitter in turns, times its strength
brightness = "additive" # kind of brightness jitter: additive (first release) or multiplicative (later)
grayscale = 0.2         # probability of losing all colour
blur = 0.0              # probability of Gaussian blur: 0.5 for ImageNet, 0 for CIFAR
solarize = 0.0          # probability of inverting bright pixels

epochs = 100            # passes over the data
batch = 256             # images per step; the last incomplete batch of an epoch is dropped
optimizer = "sgd"       # sgd, adamw, or lars or lamb (from batches of 1024 on)
lr = 0.12               # peak learning rate for a batch of 256
lr_scaling = "linear"   # lr grows with batch / 256: linear, sqrt, or none
momentum = 0.9          # of the optimiser; the first beta of adamw and lamb
nesterov = false        # sgd, and lars where its variant offers it, look ahead along their momentum
lars_variant = "simclr-classic" # form of lars, after the code that uses it: docs/lars.md
trust = 0.001           # trust coefficient of lars
excluded_lr = 1.0       # lars: factor on the rate of parameters without trust ratio, biases and norms
weight_decay = 1e-4     # on weights; on biases and norms in those variants of lars alone that exclude none
weight_decay_end = 1.0  # at the end of its cosine, as a factor on weight_decay
clip = 0.0              # largest norm of each parameter's gradient; 0: any
warmup_epochs = 5.0     # linear warm-up to the peak, per step
warmup_from = 0.0       # where it begins, as a share of the peak
lr_end = 0.0            # where the cosine after it ends, as a share of the peak
lr_drops = ""           # in place of the cosine: shares of the run after which the rate falls to a tenth, as in 0.6,0.8

eval_every = 10         # epochs between kNN evaluations during training; 0: only at the end
eval_images = 4096      # training images that these look for neighbours in
checkpoint_every = 1    # epochs between checkpoints
keep_checkpoints = 2    # newest good checkpoints that stay; a replay starts from the nearest
fingerprints = "step"   # hashes of what was computed: off, step, gradients (of each parameter), operations (of each)
fingerprint_every = 0   # steps between them; 0: every step, on a GPU every hundredth
log_every = 10          # steps between log lines without a terminal, between effective ranks and between simclr's contrast/*
"#;

/// Keys that say what a run leaves behind, and change no bit of what it computes.
pub(crate) const RECORDING: [&str; 3] = ["keep_checkpoints", "fingerprints", "fingerprint_every"];

/// The configuration of `spec` before any file or setting: the trainer's defaults, overlaid by the method's.
///
/// # Errors
/// `Config` when a defaults text is not flat TOML: a mistake of the method's author.
pub fn defaults(spec: &MethodSpec) -> Result<Config> {
    let mut config = Config::default();
    let part = format!("method {}", spec.name);
    config.declare(&part, &format!("method = \"{}\"  # which algorithm\n", spec.name))?;
    config.declare("trainer", TRAINER)?;
    config.declare(&part, spec.defaults)?;
    Ok(config)
}

/// [`defaults`], then the file, then the settings `key=value`.
///
/// # Errors
/// `Io` for the file; `Config` for an unknown key, a value of another type, or a file of another method.
pub fn resolve(spec: &MethodSpec, file: Option<&std::path::Path>, settings: &[String]) -> Result<Config> {
    let mut config = defaults(spec)?;
    if let Some(path) = file {
        config.apply_file(path)?;
    }
    settings.iter().try_for_each(|setting| config.apply_setting(setting))?;
    config.choice("method", &[spec.name])?;
    Ok(config)
}

/// Sets the key that a dedicated argument such as `--data` or `--seed` stands for.
///
/// # Errors
/// `Config` when the value does not fit.
pub fn set_argument(config: &mut Config, key: &str, value: impl Into<toml::Value>) -> Result<()> {
    config.set(key, value.into(), Source::CommandLine)
}

/// Toy values for the keys that make methods large or slow: an encoder of a few channels on small pictures, narrow
/// heads, few crops, clusters and negatives, and everything that learns in turns at once.
const TOY: [&str; 28] = [
    "backbone=resnet-small",
    "stem=small",
    "width=0.25",
    "size=16",
    "zero_init=false",
    "hidden=32",
    "dim=16",
    "bottleneck=16",
    "outputs=24",
    "prototypes=12",
    "classes=6",
    "heads=2",
    "small_crops=1",
    "small_size=8",
    "clusters=4",
    "over_clusters=8",
    "components=8",
    "turns=both",
    "negatives=4",
    "restarts=1",
    "runs=2",
    "neighbours=3",
    "hardest=8",
    "between=4",
    "towards=2",
    "subnetworks=2",
    "plain_epochs=1",
    "relabellings=4",
];

/// Makes a toy of any method, for tests and golden hashes that run all of them: sets those of these keys that the method
/// has, a queue of two batches, and statistics groups of 16 images where there are any.
///
/// # Errors
/// `Config` when a value does not fit a method's key.
pub fn shrink(config: &mut Config) -> Result<()> {
    for setting in TOY {
        let key = setting.split('=').next().unwrap_or(setting);
        if config.entry(key).is_ok() {
            config.apply_setting(setting)?;
        }
    }
    if config.entry("queue").is_ok() && config.usize("queue")? > 0 {
        config.apply_setting(&format!("queue={}", 2 * config.usize("batch")?))?;
    }
    // Nearest rows; in other methods a share.
    if config.usize("background").is_ok() {
        config.apply_setting("background=8")?;
    }
    if config.usize("bn_group")? > 16 {
        config.apply_setting("bn_group=16")?;
    }
    Ok(())
}
