//! Data set specifications: `scenes:size=32,seed=1`, `cifar10:DIR`, `folder:DIR` …

use crate::dataset::{Dataset, Split};
use crate::readers::{Cifar, Folder, Idx, Stl10};
use crate::scenes::{Domain, Scenes, ScenesConfig};
use crate::shards::Shards;
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use std::path::Path;
use std::sync::Arc;

/// Every kind of specification: its name, and what follows the colon.
pub const KINDS: &[(&str, &str)] = &[
    ("scenes", "[size=32,train=4096,test=1024,seed=0,domain=photo|sketch|noisy|mono,objects=1|1..4]"),
    ("cifar10", "DIR"),
    ("cifar100", "DIR"),
    ("stl10", "DIR"),
    ("idx", "DIR"),
    ("folder", "DIR"),
    ("shards", "DIR"),
];

/// Opens the `split` of the data set that `spec` names (see [`KINDS`]).
///
/// Files are mapped into memory or read on demand: they must not be changed while the data set is open. An error names
/// an unknown kind, key or value with the nearest known name, or the file that is missing or damaged.
///
/// ```
/// use selfsame_data::{Dataset, Split, open};
/// let data = open("scenes:size=32,train=100,seed=7", Split::Train)?;
/// assert_eq!((data.len(), data.get(3)?.image.height), (100, 32));
/// # Ok::<(), selfsame_engine::Error>(())
/// ```
pub fn open(spec: &str, split: Split) -> Result<Arc<dyn Dataset>> {
    let (kind, rest) = spec.split_once(':').unwrap_or((spec, ""));
    let Some(&(kind, form)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        let known = KINDS.iter().map(|(name, _)| *name);
        let error = Error::new(ErrorKind::Config, "data", format!("`{kind}` in `{spec}`"))
            .expected(known.clone().collect::<Vec<_>>().join(", "));
        return Err(match nearest(kind, known) {
            Some(name) => error.hint(format!("is `{name}` meant?")),
            None if Path::new(spec).is_dir() => error.hint(format!("for a folder of images, write folder:{spec}")),
            None => error,
        });
    };
    if kind == "scenes" {
        return Ok(Arc::new(Scenes::new(parse_scenes(rest)?, split)?));
    }
    if rest.is_empty() {
        return Err(Error::new(ErrorKind::Config, "data", format!("`{spec}`")).expected(format!("{kind}:{form}")));
    }
    let dir = Path::new(rest);
    Ok(match kind {
        "cifar10" => Arc::new(Cifar::open10(dir, split)?),
        "cifar100" => Arc::new(Cifar::open100(dir, split)?),
        "stl10" => Arc::new(Stl10::open(dir, split)?),
        "idx" => Arc::new(Idx::open(dir, split)?),
        "folder" => Arc::new(Folder::open(dir, split)?),
        _ => Arc::new(Shards::open(dir, split)?),
    })
}

/// The options of `scenes`, `key=value` with commas between.
fn parse_scenes(options: &str) -> Result<ScenesConfig> {
    const KEYS: [&str; 6] = ["size", "train", "test", "seed", "domain", "objects"];
    let mut config = ScenesConfig::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let Some((key, value)) = option.split_once('=') else {
            return Err(Error::new(ErrorKind::Config, "scenes", format!("`{option}`")).expected("key=value"));
        };
        match key {
            "size" => config.size = number(key, value)?,
            "train" => config.train = number(key, value)?,
            "test" => config.test = number(key, value)?,
            "seed" => config.seed = number(key, value)?,
            "domain" => {
                let domain = Domain::ALL.into_iter().find(|domain| domain.name() == value);
                config.domain = domain.ok_or_else(|| unknown("domain", value, &Domain::ALL.map(Domain::name)))?;
            }
            "objects" => {
                let (fewest, most) = value.split_once("..").unwrap_or((value, value));
                config.objects = (number(key, fewest)?, number(key, most)?);
            }
            _ => return Err(unknown("key", key, &KEYS)),
        }
    }
    Ok(config)
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| {
        Error::new(ErrorKind::Config, format!("scenes: {key}"), format!("`{value}`")).expected("a whole number")
    })
}

fn unknown(what: &str, got: &str, known: &[&str]) -> Error {
    let error = Error::new(ErrorKind::Config, format!("scenes: {what}"), format!("`{got}`")).expected(known.join(", "));
    match nearest(got, known.iter().copied()) {
        Some(name) => error.hint(format!("is `{name}` meant?")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_opens_the_same_data_again() {
        let spec = "scenes:size=40,train=20,test=5,seed=9,domain=sketch,objects=2..3";
        let data = open(spec, Split::Train).unwrap();
        let again = open(&data.describe().spec, Split::Train).unwrap();
        assert_eq!(data.describe(), again.describe());
        assert_eq!(data.get(7).unwrap(), again.get(7).unwrap());
    }

    #[test]
    fn wrong_specifications_name_what_is_near() {
        let sentence = |spec: &str| match open(spec, Split::Train) {
            Ok(_) => panic!("{spec} opened"),
            Err(error) => error.sentence(),
        };
        assert!(sentence("cifar01:x").contains("is `cifar10` meant?"));
        assert!(sentence("scenes:siez=32").contains("is `size` meant?"));
        assert!(sentence("scenes:domain=foto").contains("is `photo` meant?"));
        assert!(sentence("scenes:size=abc").contains("abc"));
        assert!(sentence("scenes:size=8").contains("32 to 4096"));
        assert!(sentence("scenes:objects=3..2").contains("3..2"));
        assert!(sentence("scenes:train=0").contains("train"));
        assert!(sentence("idx").contains("idx:DIR"));
        assert!(sentence("folder:/no/such/folder").contains("/no/such/folder"));
    }
}
