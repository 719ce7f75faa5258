//! `selfsame eval`: measure an encoder on labelled data.

use std::path::PathBuf;

use selfsame_engine::{Device, Error, ErrorKind, Result, TensorFile};
use selfsame_methods::eval::classifier::Classified;
use selfsame_methods::eval::clustering::{ByClusters, cluster_agreement};
use selfsame_methods::eval::features::Features;
use selfsame_methods::eval::few_shot::{FewShot, few_shot};
use selfsame_methods::eval::finetune::{FineTune, fine_tune};
use selfsame_methods::eval::knn::{Knn, knn};
use selfsame_methods::eval::linear::{LinearProbe, linear_probe};
use selfsame_methods::eval::logistic::{Logistic, logistic_regression};
use selfsame_methods::eval::subset::labelled_share;
use selfsame_methods::eval::{Accuracy, collapse};
use selfsame_methods::measure::Setting;
use selfsame_methods::run::RunDir;
use selfsame_methods::session::Labelled;
use selfsame_methods::trainer::Plan;
use selfsame_methods::{Config, Method, method, settings};
use selfsame_models::backbones::Backbone;
use selfsame_models::{Init, weights};
use serde_json::json;

use super::compute::Compute;
use super::output::{Output, table};
use super::{Outcome, Registry};

/// The protocols.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Protocol {
    /// k nearest neighbours by cosine similarity, votes weighted by exp(similarity / temperature)
    Knn {
        #[command(flatten)]
        subject: Subject,
        /// Neighbours that vote
        #[arg(short, long, default_value_t = Knn::default().k)]
        k: usize,
        /// Temperature of the weights
        #[arg(long, default_value_t = Knn::default().temperature)]
        temperature: f64,
    },
    /// Softmax regression on frozen features
    Linear {
        #[command(flatten)]
        subject: Subject,
        /// Passes over the training features
        #[arg(long, default_value_t = LinearProbe::default().epochs)]
        epochs: usize,
        /// Peak learning rate for a batch of 256
        #[arg(long, default_value_t = LinearProbe::default().lr)]
        lr: f64,
        /// Share of the training labels that is used, class by class
        #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
        labels: f64,
    },
    /// Logistic regression on frozen features by L-BFGS, its penalty chosen on held-out training images
    Logistic {
        #[command(flatten)]
        subject: Subject,
        /// Penalties to choose from; a single one is taken as it is
        #[arg(long, value_delimiter = ',', default_values_t = Logistic::default().penalties)]
        penalties: Vec<f64>,
        /// Share of the training labels that is used, class by class
        #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
        labels: f64,
    },
    /// Encoder and classifier trained together
    Finetune {
        #[command(flatten)]
        subject: Subject,
        /// Passes over the training images
        #[arg(long, default_value_t = FineTune::default().epochs)]
        epochs: usize,
        /// Peak learning rate for a batch of 256
        #[arg(long, default_value_t = FineTune::default().lr)]
        lr: f64,
        /// Share of the training labels that is used, class by class
        #[arg(long, default_value_t = 1.0, value_name = "SHARE")]
        labels: f64,
    },
    /// Episodes of a few classes with a few examples each, classified by the nearest mean
    FewShot {
        #[command(flatten)]
        subject: Subject,
        /// Classes of an episode
        #[arg(long, default_value_t = FewShot::default().ways)]
        ways: usize,
        /// Examples of each
        #[arg(long, default_value_t = FewShot::default().shots)]
        shots: usize,
        /// Images of each to be classified
        #[arg(long, default_value_t = FewShot::default().queries)]
        queries: usize,
        /// Episodes
        #[arg(long, default_value_t = FewShot::default().episodes)]
        episodes: usize,
    },
    /// k-means on the test features against their classes: accuracy under the best matching, NMI, ARI
    Clusters {
        #[command(flatten)]
        subject: Subject,
        /// Clusters; one per class when left out
        #[arg(short, long)]
        clusters: Option<usize>,
        /// Runs of k-means, of which the one with the least objective counts
        #[arg(long, default_value_t = ByClusters::default().runs)]
        runs: usize,
    },
    /// Spread of the test features: standard deviation, effective rank, uniformity
    Geometry {
        #[command(flatten)]
        subject: Subject,
    },
}

impl Protocol {
    fn subject(&self) -> &Subject {
        match self {
            Protocol::Knn { subject, .. }
            | Protocol::Linear { subject, .. }
            | Protocol::Logistic { subject, .. }
            | Protocol::Finetune { subject, .. }
            | Protocol::FewShot { subject, .. }
            | Protocol::Clusters { subject, .. }
            | Protocol::Geometry { subject } => subject,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Protocol::Knn { .. } => "knn",
            Protocol::Linear { .. } => "linear",
            Protocol::Logistic { .. } => "logistic",
            Protocol::Finetune { .. } => "finetune",
            Protocol::FewShot { .. } => "few-shot",
            Protocol::Clusters { .. } => "clusters",
            Protocol::Geometry { .. } => "geometry",
        }
    }
}

/// What is measured, and on what.
#[derive(Debug, clap::Args)]
pub(crate) struct Subject {
    /// Run directory whose encoder is measured
    #[arg(long, value_name = "DIR", required_unless_present = "weights", conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// An encoder.safetensors of a run
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Labelled data set; that of the run when left out
    #[arg(long, value_name = "SPEC")]
    data: Option<String>,
    #[command(flatten)]
    compute: Compute,
    /// Background threads that prepare images. Does not change a bit of the result
    #[arg(long, default_value_t = 1, value_name = "N")]
    workers: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(protocol: &Protocol, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let subject = protocol.subject();
    let device = subject.compute.open()?;
    let path = match (&subject.weights, &subject.run) {
        (Some(file), _) => file.clone(),
        (None, Some(dir)) => encoder_of(dir)?,
        (None, None) => return Err(Error::new(ErrorKind::Config, "eval", "no encoder").expected("--run or --weights")),
    };
    let file = TensorFile::read(&path, &device)?;
    let (method, config) = built(&path, &file, registry, &device)?;
    let (encoder, root) = match protocol {
        Protocol::Finetune { .. } => method.trainable_encoder(),
        _ => (method.encoder(), method.encoder_path()),
    };
    weights::restore(encoder, root, &file.tensors)?;
    let data = match &subject.data {
        Some(spec) => spec.as_str(),
        None => config.str("data")?,
    };
    let labelled = Labelled::open(data)?;
    let setting = Setting { labelled: &labelled, config: &config, device: &device, workers: subject.workers };
    let found = found(protocol, &setting, encoder)?;
    show(protocol.name(), &found, labelled.test.classes(), data, subject.json, out)
}

fn found(protocol: &Protocol, setting: &Setting<'_>, encoder: &dyn Backbone) -> Result<Found> {
    let classes = setting.labelled.classes();
    let features = || {
        let Labelled { train, test } = setting.labelled;
        eprintln!("features of {} training and {} test images", train.len(), test.len());
        setting.features(encoder)
    };
    // Features of the training images whose labels are used, and of the test images.
    let share = |labels: f64| -> Result<(Features, Features)> {
        let (train, test) = features()?;
        let kept = labelled_share(train.labels()?, labels, 0)?;
        Ok((train.of_images(&kept)?, test))
    };
    Ok(match protocol {
        Protocol::Knn { k, temperature, .. } => {
            let (train, test) = features()?;
            let accuracy = knn(&train, &test, classes, &Knn { k: *k, temperature: *temperature })?;
            Found { accuracy: Some(accuracy), figures: Vec::new() }
        }
        Protocol::Linear { epochs, lr, labels, .. } => {
            let (train, test) = share(*labels)?;
            let options = LinearProbe { epochs: *epochs, lr: *lr, ..LinearProbe::default() };
            Found::classified(linear_probe(&train, &test, classes, &options)?)
        }
        Protocol::Logistic { penalties, labels, .. } => {
            let (train, test) = share(*labels)?;
            let options = Logistic { penalties: penalties.clone(), ..Logistic::default() };
            let regressed = logistic_regression(&train, &test, classes, &options)?;
            let mut found = Found::classified(regressed.classified);
            found.figures.push(("penalty", regressed.penalty));
            found
        }
        Protocol::Finetune { epochs, lr, labels, .. } => {
            let options = FineTune { epochs: *epochs, lr: *lr, labels: *labels, ..FineTune::default() };
            let mut progress = |epoch, loss| eprintln!("epoch {epoch} of {epochs}: loss {loss:.4}");
            Found::classified(fine_tune(encoder, setting, &options, &mut progress)?)
        }
        Protocol::FewShot { ways, shots, queries, episodes, .. } => {
            let (train, test) = features()?;
            let drawn = FewShot { ways: *ways, shots: *shots, queries: *queries, ..FewShot::default() };
            let options = FewShot { episodes: *episodes, ..drawn };
            let found = few_shot(&train, &test, &options)?;
            Found { accuracy: None, figures: vec![("accuracy", found.mean), ("half_width", found.half_width)] }
        }
        Protocol::Clusters { clusters, runs, .. } => {
            let (_, test) = features()?;
            let options = ByClusters { clusters: *clusters, runs: *runs, ..ByClusters::default() };
            let found = cluster_agreement(&test, classes, &options)?;
            let figures = vec![("matched_accuracy", found.accuracy), ("nmi", found.nmi), ("ari", found.ari)];
            Found { accuracy: None, figures }
        }
        Protocol::Geometry { .. } => {
            let (_, test) = features()?;
            let figures = vec![
                ("std", collapse::embedding_std(&test.values)?),
                ("effective_rank", collapse::effective_rank(&test.values)?),
                ("uniformity", collapse::uniformity(&test.values)?),
            ];
            Found { accuracy: None, figures }
        }
    })
}

/// What a protocol found.
struct Found {
    /// By class.
    accuracy: Option<Accuracy>,
    /// More numbers, by name.
    figures: Vec<(&'static str, f64)>,
}

impl Found {
    fn classified(classified: Classified) -> Found {
        let figures = vec![("calibration_error", classified.calibration_error)];
        Found { accuracy: Some(classified.accuracy), figures }
    }
}

fn show(name: &str, found: &Found, classes: &[String], data: &str, json: bool, out: &mut Output) -> Result<Outcome> {
    let percent = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.1} %", 100.0 * share));
    if json {
        let mut object = serde_json::Map::from_iter([("protocol".into(), json!(name)), ("data".into(), json!(data))]);
        if let Some(accuracy) = &found.accuracy {
            let per_class: serde_json::Map<String, serde_json::Value> =
                classes.iter().cloned().zip(accuracy.per_class.iter().map(|share| json!(share))).collect();
            object.extend([("accuracy".into(), json!(accuracy.overall)), ("per_class".into(), per_class.into())]);
        }
        object.extend(found.figures.iter().map(|(key, value)| (key.to_string(), json!(value))));
        out.json(&object.into())?;
        return Ok(Outcome::Done);
    }
    if let Some(accuracy) = &found.accuracy {
        let rows: Vec<Vec<String>> = classes
            .iter()
            .zip(&accuracy.per_class)
            .map(|(class, share)| vec![class.clone(), percent(*share)])
            .collect();
        out.text(&table(&["class", "accuracy"], &[false, true], &rows))?;
        out.text(&format!("{name} accuracy on {data}: {}", percent(Some(accuracy.overall))))?;
    }
    for (key, value) in &found.figures {
        out.text(&format!("{name} {key} on {data}: {value:.4}"))?;
    }
    Ok(Outcome::Done)
}

/// The encoder file of a finished run.
fn encoder_of(dir: &std::path::Path) -> Result<PathBuf> {
    let run = RunDir::open(dir)?;
    let path = run.encoder_path();
    if path.exists() {
        return Ok(path);
    }
    let method = run.read_manifest().map_or("METHOD".to_string(), |manifest| manifest.method);
    Err(Error::new(ErrorKind::Io, path.display().to_string(), "no such file: the run is not finished")
        .hint(format!("continue it with: selfsame pretrain {method} --out {} --resume", dir.display())))
}

/// The method that the metadata of the encoder file at `path` describes, new.
fn built(
    path: &std::path::Path,
    file: &TensorFile,
    registry: &Registry,
    device: &Device,
) -> Result<(Box<dyn Method>, Config)> {
    let foreign = || {
        Error::new(ErrorKind::Config, path.display().to_string(), "no configuration in the file's metadata")
            .expected("an encoder.safetensors that `selfsame pretrain` wrote")
    };
    let table: toml::Table =
        file.metadata.get(weights::ABOUT).and_then(|text| text.parse().ok()).ok_or_else(foreign)?;
    let name = table.get("method").and_then(toml::Value::as_str).ok_or_else(foreign)?;
    let spec = method::find(name, registry.methods)?;
    let mut config = settings::defaults(spec)?;
    config.apply_table(&table, &selfsame_methods::config::Source::File(path.to_path_buf()))?;
    // The encoder alone is of interest, which knows nothing of the training's length.
    let plan = Plan::of(&config, config.usize("batch")?)?;
    Ok(((spec.build)(&config, &Init::new(device, 0), &plan)?, config))
}
