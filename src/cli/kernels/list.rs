//! `selfsame kernels list`.

use selfsame_engine::Result;
use selfsame_kernels::kernel::{KernelSpec, ParamKind};
use serde_json::json;

use super::super::output::{Output, table};
use super::super::{Outcome, Registry};

/// Arguments of `kernels list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel or a family; all when left out
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, registry: &Registry, out: &mut Output) -> Result<Outcome> {
    let kernels = super::chosen(registry, args.name.as_deref())?;
    if args.json {
        let list: Vec<_> = kernels
            .iter()
            .map(|k| json!({ "name": k.name, "module": k.module, "doc": summary(k), "parameters": signature(k) }))
            .collect();
        out.json(&json!({ "kernels": list }))?;
    } else if let ([kernel], Some(_)) = (&kernels[..], &args.name) {
        out.text(&format!("{}({})\n\n{}", kernel.name, signature(kernel).join(", "), kernel.doc.trim()))?;
    } else {
        let rows: Vec<Vec<String>> = kernels.iter().map(|k| vec![k.name.into(), summary(k)]).collect();
        out.text(&table(&["kernel", "what it does"], &[false, false], &rows))?;
        out.text(&format!("{} kernels; `selfsame kernels list NAME` shows one in full", kernels.len()))?;
    }
    Ok(Outcome::Done)
}

/// The first sentence of the documentation.
fn summary(kernel: &KernelSpec) -> String {
    let doc = kernel.doc.trim().replace('\n', " ");
    let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    doc.split_inclusive(". ").next().unwrap_or_default().trim().to_string()
}

/// Each parameter as `name: kind`.
fn signature(kernel: &KernelSpec) -> Vec<String> {
    let kind = |kind: ParamKind| match kind {
        ParamKind::In(t) => format!("In<{}>", t.name()),
        ParamKind::Out(t) => format!("Out<{}>", t.name()),
        ParamKind::InOut(t) => format!("InOut<{}>", t.name()),
        ParamKind::Scalar(t) => t.name().to_string(),
    };
    kernel.params.iter().map(|param| format!("{}: {}", param.name, kind(param.kind))).collect()
}
