//! `selfsame eval`: measure an encoder on labelled data.

use std::path::PathBuf;

use selfsame_engine::{Device, Error, ErrorKind, Result, TensorFile};
use selfsame_methods::eval::Accuracy;
use selfsame_methods::eval::knn::{Knn, knn};
use selfsame_methods::eval::linear::{LinearProbe, linear_probe};
use selfsame_methods::measure::Setting;
use selfsame_methods::run::RunDir;
use selfsame_methods::session::Labelled;
use selfsame_methods::trainer::Plan;
use selfsame_methods::{Config, Method, method, settings};
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
    },
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
    let (Protocol::Knn { subject, .. } | Protocol::Linear { subject, .. }) = protocol;
    let device = subject.compute.open()?;
    let weights = match (&subject.weights, &subject.run) {
        (Some(file), _) => file.clone(),
        (None, Some(dir)) => encoder_of(dir)?,
        (None, None) => return Err(Error::new(ErrorKind::Config, "eval", "no encoder").expected("--run or --weights")),
    };
    let (method, config) = load(&weights, registry, &device)?;
    let data = match &subject.data {
        Some(spec) => spec.as_str(),
        None => config.str("data")?,
    };
    let labelled = Labelled::open(data)?;
    let classes = labelled.classes();
    let setting = Setting { labelled: &labelled, config: &config, device: &device, workers: subject.workers };
    eprintln!("features of {} training and {} test images", labelled.train.len(), labelled.test.len());
    let (train, test) = setting.features(method.encoder())?;
    let (name, accuracy) = match *protocol {
        Protocol::Knn { k, temperature, .. } => ("knn", knn(&train, &test, classes, &Knn { k, temperature })?),
        Protocol::Linear { epochs, lr, .. } => {
            let options = LinearProbe { epochs, lr, ..LinearProbe::default() };
            ("linear", linear_probe(&train, &test, classes, &options)?)
        }
    };
    show(name, &accuracy, labelled.test.classes(), data, subject.json, out)
}

fn show(
    name: &str,
    accuracy: &Accuracy,
    classes: &[String],
    data: &str,
    json: bool,
    out: &mut Output,
) -> Result<Outcome> {
    if json {
        let per_class: serde_json::Map<String, serde_json::Value> =
            classes.iter().cloned().zip(accuracy.per_class.iter().map(|share| json!(share))).collect();
        out.json(&json!({ "protocol": name, "data": data, "accuracy": accuracy.overall, "per_class": per_class }))?;
        return Ok(Outcome::Done);
    }
    let percent = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.1} %", 100.0 * share));
    let rows: Vec<Vec<String>> =
        classes.iter().zip(&accuracy.per_class).map(|(class, share)| vec![class.clone(), percent(*share)]).collect();
    out.text(&table(&["class", "accuracy"], &[false, true], &rows))?;
    out.text(&format!("{name} accuracy on {data}: {}", percent(Some(accuracy.overall))))?;
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

/// Builds the method that the file's metadata describes, with the file's weights in its encoder.
fn load(path: &std::path::Path, registry: &Registry, device: &Device) -> Result<(Box<dyn Method>, Config)> {
    let TensorFile { tensors: state, metadata } = TensorFile::read(path, device)?;
    let foreign = || {
        Error::new(ErrorKind::Config, path.display().to_string(), "no configuration in the file's metadata")
            .expected("an encoder.safetensors that `selfsame pretrain` wrote")
    };
    let table: toml::Table = metadata.get(weights::ABOUT).and_then(|text| text.parse().ok()).ok_or_else(foreign)?;
    let name = table.get("method").and_then(toml::Value::as_str).ok_or_else(foreign)?;
    let spec = method::find(name, registry.methods)?;
    let mut config = settings::defaults(spec)?;
    config.apply_table(&table, &selfsame_methods::config::Source::File(path.to_path_buf()))?;
    // The encoder alone is of interest, which knows nothing of the training's length.
    let plan = Plan::of(&config, config.usize("batch")?)?;
    let method = (spec.build)(&config, &Init::new(device, 0), &plan)?;
    weights::restore(method.encoder(), "encoder", &state)?;
    Ok((method, config))
}
