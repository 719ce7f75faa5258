//! `selfsame data`: look at or pack a data set.

use std::path::PathBuf;
use std::sync::Arc;

use selfsame_data::{Dataset, DatasetInfo, Split, open, shards};
use selfsame_engine::{Error, ErrorKind, Result};
use serde_json::json;

use super::Outcome;
use super::output::{Output, table};

/// What to do with a data set.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Images, sizes, classes and checksum of every split
    Info {
        /// Data set: scenes, cifar10:DIR, cifar100:DIR, stl10:DIR, idx:DIR, folder:DIR, shards:DIR
        spec: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write memory-mapped, checksummed shards; read them with shards:DIR
    Pack {
        /// Data set: scenes, cifar10:DIR, cifar100:DIR, stl10:DIR, idx:DIR, folder:DIR
        spec: String,
        /// Directory for the shards
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Images in a shard
        #[arg(long, default_value_t = 10_000, value_name = "N")]
        shard_size: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// The splits in the order of their listing.
const SPLITS: [Split; 3] = [Split::Train, Split::Test, Split::Unlabelled];

pub(crate) fn run(action: &Action, out: &mut Output) -> Result<Outcome> {
    match action {
        Action::Info { spec, json } => info(spec, *json, out),
        Action::Pack { spec, out: folder, shard_size, json } => {
            let mut written = Vec::new();
            for dataset in own_splits(spec)? {
                eprintln!("packing {} {} images", dataset.len(), dataset.describe().split.name());
                written.extend(shards::pack(&*dataset, folder, *shard_size)?);
            }
            if *json {
                out.json(&json!({ "shards": written }))?;
            } else {
                out.text(&format!("{} shards in {}", written.len(), folder.display()))?;
            }
            Ok(Outcome::Done)
        }
    }
}

/// The splits of `spec` that hold images of their own, each once. The training split must exist.
fn own_splits(spec: &str) -> Result<Vec<Arc<dyn Dataset>>> {
    let mut found: Vec<Arc<dyn Dataset>> = Vec::new();
    for split in SPLITS {
        match open(spec, split) {
            // A data set without unlabelled images gives its training images again.
            Ok(dataset) if split == Split::Unlabelled && dataset.len() == found[0].len() => {}
            Ok(dataset) => found.push(dataset),
            Err(error) if split == Split::Train => return Err(error),
            // A file that is there and damaged must be said; one that is not there is a split that is not there.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(error),
            Err(_) => {}
        }
    }
    Ok(found)
}

fn info(spec: &str, json: bool, out: &mut Output) -> Result<Outcome> {
    let found: Vec<DatasetInfo> = own_splits(spec)?.iter().map(|dataset| dataset.describe()).collect();
    let first = found.first().ok_or_else(|| Error::new(ErrorKind::Config, format!("data {spec}"), "no images"))?;
    if json {
        let splits: Vec<_> = found
            .iter()
            .map(|info| {
                json!({
                    "split": info.split.name(), "images": info.images, "size": info.size.map(|(h, w)| [h, w]),
                    "channels": info.channels, "checksum": format!("{:016x}", info.checksum),
                })
            })
            .collect();
        out.json(&json!({ "name": first.name, "spec": first.spec, "classes": first.classes, "splits": splits }))?;
        return Ok(Outcome::Done);
    }
    let size = |size: Option<(usize, usize)>| size.map_or("various".to_string(), |(h, w)| format!("{h}x{w}"));
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|info| {
            vec![
                info.split.name().to_string(),
                info.images.to_string(),
                size(info.size),
                info.channels.to_string(),
                format!("{:016x}", info.checksum),
            ]
        })
        .collect();
    let headings = ["split", "images", "size", "channels", "checksum"];
    out.text(&format!("{}: {}", first.name, first.spec))?;
    out.text(&table(&headings, &[false, true, true, true, false], &rows))?;
    let classes = if first.classes.is_empty() { "none: unlabelled".to_string() } else { first.classes.join(", ") };
    out.text(&format!("classes: {classes}"))?;
    Ok(Outcome::Done)
}
