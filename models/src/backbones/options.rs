//! Options of the backbones, as structs and as configuration keys.

use super::{Stem, TokenPool};
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_kernels::order::LEAF;

/// What can be changed about a backbone; `None` keeps the backbone's own default.
///
/// `stem`, `zero_init` and `bn_group` stand in every configuration, so a backbone that has none of these passes over
/// them. Any other option that a backbone does not have is refused ([`BackboneOpts::only`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackboneOpts {
    /// First layers.
    pub stem: Option<Stem>,
    /// All channel counts are multiplied by this: 2 and 4 in SimCLR's wide ResNets. In a transformer it is the number
    /// of heads, each of 64 channels.
    pub width: Option<f64>,
    /// Channels per stage, before the width multiplier.
    pub widths: Option<Vec<usize>>,
    /// Channels of the images; 3 by default.
    pub channels: Option<usize>,
    /// Whether the last batch-norm scale of each residual branch starts at 0, so that blocks start as the identity.
    /// Off by default, as in torchvision; SimCLR's code has it on.
    pub zero_init: bool,
    /// Outputs of a classification layer after the pooling; none by default.
    pub classes: Option<usize>,
    /// Images per statistics group of batch norm, a multiple of 16; the whole batch by default.
    pub bn_group: Option<usize>,
    /// Transformers: side of a patch in pixels.
    pub patch: Option<usize>,
    /// Transformers: side of the images that the positions are learned for; others take interpolated ones.
    pub image: Option<usize>,
    /// Transformers: number of blocks.
    pub depth: Option<usize>,
    /// Transformers: what the feature is.
    pub pool: Option<TokenPool>,
    /// Transformers: probability with which training drops a branch of the last block for an image (stochastic depth);
    /// it rises linearly from 0 in the first.
    pub drop_path: Option<f64>,
    /// ResNets and plain networks: whether images pass the fixed Sobel filters first.
    pub sobel: Option<bool>,
    /// Plain networks: probability of dropout before each hidden layer.
    pub dropout: Option<f64>,
}

/// The keys that [`BackboneOpts::set`] takes, with their help.
pub const KEYS: &[(&str, &str)] = &[
    ("stem", "imagenet (7x7 stride 2, max-pool), cifar (3x3), small (3x3 stride 2)"),
    ("width", "factor on all channel counts"),
    ("widths", "channels per stage, such as 16,32,64"),
    ("channels", "channels of the images"),
    ("zero_init", "true: residual branches start at zero, as in SimCLR's code"),
    ("classes", "outputs of a classification layer; 0 for none"),
    ("bn_group", "images that batch norm normalises together, a multiple of 16; 0 for the whole batch"),
    ("patch", "transformers: side of a patch in pixels"),
    ("image", "transformers: side of the images that positions are learned for"),
    ("depth", "transformers: number of blocks"),
    ("pool", "transformers: class (the class token), mean (of the patch tokens)"),
    ("drop_path", "transformers: largest probability of dropping a branch in training"),
    ("sobel", "resnets, alexnet, vgg16: true puts fixed Sobel filters in front"),
    ("dropout", "alexnet, vgg16: probability of dropout before hidden layers"),
];

impl BackboneOpts {
    /// Sets the option called `key` from its text.
    ///
    /// # Errors
    /// `Config` for an unknown key (with the nearest) or a value that does not parse.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |expected: &str| {
            Error::new(ErrorKind::Config, format!("backbone.{key}"), format!("'{value}'"))
                .expected(expected.to_string())
        };
        let count = || value.parse::<usize>().map_err(|_| wrong("a whole number"));
        let probability = || {
            let p = value.parse().ok().filter(|p: &f64| (0.0..1.0).contains(p));
            p.ok_or_else(|| wrong("a probability in [0, 1)"))
        };
        match key {
            "stem" => self.stem = Some(Stem::parse(value)?),
            "width" => {
                let width = value.parse().ok().filter(|w: &f64| w.is_finite() && *w > 0.0);
                self.width = Some(width.ok_or_else(|| wrong("a positive number"))?);
            }
            "widths" => {
                let widths = value.split(',').map(|w| w.trim().parse().ok().filter(|w| *w > 0)).collect();
                self.widths = Some(Option::ok_or_else(widths, || wrong("whole numbers separated by commas"))?);
            }
            "channels" => self.channels = Some(count()?),
            "zero_init" => self.zero_init = value.parse().map_err(|_| wrong("true or false"))?,
            "classes" => self.classes = Some(count()?).filter(|n| *n > 0),
            "bn_group" => {
                let group = count().ok().filter(|n| n.is_multiple_of(LEAF));
                self.bn_group = Some(group.ok_or_else(|| wrong("a multiple of 16, or 0"))?).filter(|n| *n > 0);
            }
            "patch" => self.patch = Some(count().ok().filter(|n| *n > 0).ok_or_else(|| wrong("a positive number"))?),
            "image" => self.image = Some(count().ok().filter(|n| *n > 0).ok_or_else(|| wrong("a positive number"))?),
            "depth" => self.depth = Some(count()?),
            "pool" => self.pool = Some(TokenPool::parse(value)?),
            "drop_path" => self.drop_path = Some(probability()?),
            "sobel" => self.sobel = Some(value.parse().map_err(|_| wrong("true or false"))?),
            "dropout" => self.dropout = Some(probability()?),
            _ => {
                let names: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
                let error = Error::new(ErrorKind::Config, "backbone", format!("option '{key}'"));
                return Err(match nearest(key, names.iter().copied()) {
                    Some(known) => error.expected(names.join(", ")).hint(format!("is '{known}' meant?")),
                    None => error.expected(names.join(", ")),
                });
            }
        }
        Ok(())
    }

    /// Refuses options of other families: what is set must be among `keys`, or be taken by all.
    ///
    /// # Errors
    /// `Config` naming the first that `family` does not have.
    pub fn only(&self, family: &str, keys: &[&str]) -> Result<()> {
        let set = [
            ("widths", self.widths.is_some()),
            ("patch", self.patch.is_some()),
            ("image", self.image.is_some()),
            ("depth", self.depth.is_some()),
            ("pool", self.pool.is_some()),
            ("drop_path", self.drop_path.is_some()),
            ("sobel", self.sobel.is_some()),
            ("dropout", self.dropout.is_some()),
        ];
        match set.iter().find(|(key, is_set)| *is_set && !keys.contains(key)) {
            None => Ok(()),
            Some((key, _)) => {
                Err(Error::new(ErrorKind::Config, format!("backbone.{key}"), format!("set for a {family}"))
                    .expected(format!("of these only {}", keys.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_parses_and_bad_values_are_named() {
        let mut o = BackboneOpts::default();
        for (key, value) in [
            ("stem", "cifar"),
            ("width", "0.5"),
            ("widths", "8, 16"),
            ("channels", "1"),
            ("zero_init", "true"),
            ("classes", "0"),
            ("bn_group", "32"),
            ("patch", "4"),
            ("image", "32"),
            ("depth", "6"),
            ("pool", "mean"),
            ("drop_path", "0.1"),
            ("sobel", "true"),
            ("dropout", "0.5"),
        ] {
            assert!(KEYS.iter().any(|(name, _)| *name == key));
            o.set(key, value).unwrap();
            let error = o.set(key, "?").unwrap_err();
            assert!(error.sentence().contains(key), "{error}");
        }
        let expected = BackboneOpts {
            stem: Some(Stem::Cifar),
            width: Some(0.5),
            widths: Some(vec![8, 16]),
            channels: Some(1),
            zero_init: true,
            classes: None,
            bn_group: Some(32),
            patch: Some(4),
            image: Some(32),
            depth: Some(6),
            pool: Some(TokenPool::Mean),
            drop_path: Some(0.1),
            sobel: Some(true),
            dropout: Some(0.5),
        };
        assert!(o.only("net", &["patch"]).unwrap_err().sentence().contains("widths"));
        assert!(BackboneOpts { stem: Some(Stem::Small), ..BackboneOpts::default() }.only("net", &[]).is_ok());
        assert_eq!(o.set("bn_group", "24").unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(o, expected);
        assert!(o.set("widht", "2").unwrap_err().sentence().contains("'width'"));
    }
}
