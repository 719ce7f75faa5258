//! `selfsame loss`: value and gradients of a registered loss on tensors from a file.

use std::path::PathBuf;

use selfsame_engine::DType;
use selfsame_engine::{Error, ErrorKind, Result, TensorFile, ops};
use selfsame_losses::{evaluate, find};
use serde_json::json;

use super::compute::Compute;
use super::output::Output;
use super::{Outcome, Registry};

/// Arguments of `loss`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the loss
    name: String,
    /// Input tensors by name
    #[arg(long, value_name = "IN.safetensors")]
    input: PathBuf,
    /// Outputs and the gradient grad_x of each input x
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// One option of the loss; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    compute: Compute,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let spec = find(registry.losses, &args.name)?;
    let options: Vec<(String, String)> = args
        .settings
        .iter()
        .map(|setting| {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("setting '{setting}'"), "no '='").expected("key=value")
            })?;
            Ok((key.trim().to_string(), value.to_string()))
        })
        .collect::<Result<_>>()?;
    let device = args.compute.open()?;
    let inputs = TensorFile::read(&args.input, &device)?.tensors;
    let outputs = evaluate(spec, inputs, &options)?;
    TensorFile { tensors: outputs.clone(), ..TensorFile::default() }.write(&args.output)?;
    let loss = match outputs.get("loss") {
        Some(loss) => ops::cast(loss, DType::F64)?.item::<f64>()?,
        None => return Err(Error::new(ErrorKind::Config, spec.name, "no output 'loss'")),
    };
    if args.json {
        let names: Vec<&String> = outputs.keys().collect();
        out.json(&json!({ "loss": loss, "outputs": names, "file": args.output }))?;
    } else {
        out.text(&format!("{} {loss}", spec.name))?;
    }
    Ok(Outcome::Done)
}
