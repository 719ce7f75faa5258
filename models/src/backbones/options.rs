//! Options of the backbones, as structs and as configuration keys.

use super::Stem;
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use selfsame_kernels::order::LEAF;

/// What can be changed about a backbone; `None` keeps the backbone's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackboneOpts {
    /// First layers.
    pub stem: Option<Stem>,
    /// All channel counts are multiplied by this: 2 and 4 in SimCLR's wide ResNets.
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
        };
        assert_eq!(o.set("bn_group", "24").unwrap_err().kind(), ErrorKind::Config);
        assert_eq!(o, expected);
        assert!(o.set("widht", "2").unwrap_err().sentence().contains("'width'"));
    }
}
