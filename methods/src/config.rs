//! Configuration: defaults < `--config` file < `--set key=value`, with the source of every value.
//!
//! A key exists because a defaults text declares it (`key = value  # advice`); the type of the declared value is the
//! type of the key. Anything else is an error that names the nearest key. [`Config::table`] is what a run directory's
//! `config.toml` holds, and [`Config::apply_file`] reads it back.

use std::fmt;
use std::path::{Path, PathBuf};

use selfsame_engine::{Error, ErrorKind, Result, nearest};
use toml::{Table, Value};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The defaults of the named part: `trainer`, or a method.
    Defaults(String),
    /// A built-in recipe, by name.
    Recipe(String),
    /// A configuration file.
    File(PathBuf),
    /// The command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Defaults(part) => write!(f, "defaults of {part}"),
            Source::Recipe(name) => write!(f, "recipe {name}"),
            Source::File(path) => write!(f, "{}", path.display()),
            Source::CommandLine => write!(f, "command line"),
        }
    }
}

/// One key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value; of the type that the declaration gave.
    pub value: Value,
    /// Where the value comes from.
    pub source: Source,
    /// Advice from the declaration's comment.
    pub advice: String,
}

/// Keys and values in the order of their declaration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    entries: Vec<Entry>,
}

impl Config {
    /// Declares the keys of a defaults text, or gives declared keys another default. `part` is named as the source.
    ///
    /// # Errors
    /// `Config` when `text` is not flat TOML, or changes the type of a declared key.
    pub fn declare(&mut self, part: &str, text: &str) -> Result<()> {
        let table = parse_toml(part, text)?;
        for (key, value) in table {
            let source = Source::Defaults(part.to_string());
            match self.entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => {
                    entry.value = convert(&key, value, &entry.value)?;
                    entry.source = source;
                }
                None => {
                    let advice = advice_of(text, &key);
                    self.entries.push(Entry { key, value, source, advice });
                }
            }
        }
        Ok(())
    }

    /// Sets every key of `table`.
    ///
    /// # Errors
    /// `Config` for an unknown key (naming the nearest) or a value of another type.
    pub fn apply_table(&mut self, table: &Table, source: &Source) -> Result<()> {
        for (key, value) in table {
            self.set(key, value.clone(), source.clone())?;
        }
        Ok(())
    }

    /// Sets every key of a TOML text that is part of the program, such as a recipe.
    ///
    /// # Errors
    /// As [`Config::apply_table`].
    pub fn apply_recipe(&mut self, name: &str, text: &str) -> Result<()> {
        self.apply_table(&parse_toml(name, text)?, &Source::Recipe(name.to_string()))
    }

    /// Sets every key of the TOML file at `path`.
    ///
    /// # Errors
    /// `Io`, and as [`Config::apply_table`].
    pub fn apply_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
        let table = parse_toml(&path.display().to_string(), &text)?;
        self.apply_table(&table, &Source::File(path.to_path_buf()))
    }

    /// Sets one key from `key=value` as written on the command line. Strings need no quotes.
    ///
    /// # Errors
    /// As [`Config::set`], or when there is no `=`.
    pub fn apply_setting(&mut self, setting: &str) -> Result<()> {
        let (key, text) = setting.split_once('=').ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("setting '{setting}'"), "no '='").expected("key=value")
        })?;
        let (key, text) = (key.trim(), text.trim());
        let is_string = self.entry(key)?.value.is_str();
        let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = match parsed {
            Some(value) if value.is_str() || !is_string => value,
            _ => Value::String(text.to_string()),
        };
        self.set(key, value, Source::CommandLine)
    }

    /// Sets one declared key.
    ///
    /// # Errors
    /// `Config` for an unknown key (naming the nearest) or a value of another type.
    pub fn set(&mut self, key: &str, value: Value, source: Source) -> Result<()> {
        let value = convert(key, value, &self.entry(key)?.value)?;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.value = value;
            entry.source = source;
        }
        Ok(())
    }

    /// All entries, in the order of their declaration.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Keys and values, as `config.toml` holds them.
    pub fn table(&self) -> Table {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    }

    /// Every value with its source, one line each, as TOML with comments.
    pub fn describe(&self) -> String {
        let left: Vec<String> = self.entries.iter().map(|entry| format!("{} = {}", entry.key, entry.value)).collect();
        let width = left.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let sources: Vec<String> = self.entries.iter().map(|entry| entry.source.to_string()).collect();
        let source_width = sources.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for ((left, source), entry) in left.iter().zip(&sources).zip(&self.entries) {
            let line = format!("{left:width$}  # {source:source_width$}  {}", entry.advice);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The entry of `key`.
    ///
    /// # Errors
    /// `Config` for an unknown key, naming the nearest.
    #[track_caller]
    pub fn entry(&self, key: &str) -> Result<&Entry> {
        self.entries.iter().find(|entry| entry.key == key).ok_or_else(|| {
            let error = Error::new(ErrorKind::Config, format!("configuration key '{key}'"), "no such key");
            match nearest(key, self.entries.iter().map(|entry| entry.key.as_str())) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error.hint("`selfsame show METHOD` lists all keys"),
            }
        })
    }

    /// A number.
    ///
    /// # Errors
    /// `Config` when `key` is unknown or no number.
    #[track_caller]
    pub fn f64(&self, key: &str) -> Result<f64> {
        match &self.entry(key)?.value {
            Value::Float(number) => Ok(*number),
            Value::Integer(number) => Ok(*number as f64),
            other => Err(self.wrong(key, other, "a number")),
        }
    }

    /// A finite number above zero.
    ///
    /// # Errors
    /// `Config` when it is not.
    #[track_caller]
    pub fn positive(&self, key: &str) -> Result<f64> {
        let number = self.f64(key)?;
        if number > 0.0 && number.is_finite() {
            return Ok(number);
        }
        Err(self.wrong(key, &Value::Float(number), "a number above 0"))
    }

    /// A number in `0..=1`.
    ///
    /// # Errors
    /// `Config` when it is not.
    #[track_caller]
    pub fn fraction(&self, key: &str) -> Result<f64> {
        let number = self.f64(key)?;
        if (0.0..=1.0).contains(&number) {
            return Ok(number);
        }
        Err(self.wrong(key, &Value::Float(number), "a number from 0 to 1"))
    }

    /// A whole number of at least `least`.
    ///
    /// # Errors
    /// `Config` when it is not.
    #[track_caller]
    pub fn at_least(&self, key: &str, least: usize) -> Result<usize> {
        let value = &self.entry(key)?.value;
        match value.as_integer().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number >= least => Ok(number),
            _ => Err(self.wrong(key, value, &format!("a whole number of at least {least}"))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `Config` when it is none.
    #[track_caller]
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.at_least(key, 0)
    }

    /// A text.
    ///
    /// # Errors
    /// `Config` when it is none.
    #[track_caller]
    pub fn str(&self, key: &str) -> Result<&str> {
        let value = &self.entry(key)?.value;
        value.as_str().ok_or_else(|| self.wrong(key, value, "a text"))
    }

    /// True or false.
    ///
    /// # Errors
    /// `Config` when it is neither.
    #[track_caller]
    pub fn bool(&self, key: &str) -> Result<bool> {
        let value = &self.entry(key)?.value;
        value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// One of `choices`.
    ///
    /// # Errors
    /// `Config` with the nearest choice when it is none of them.
    #[track_caller]
    pub fn choice<'a>(&self, key: &str, choices: &[&'a str]) -> Result<&'a str> {
        let text = self.str(key)?;
        choices.iter().find(|choice| **choice == text).copied().ok_or_else(|| {
            let error = self.wrong(key, &Value::String(text.to_string()), &choices.join(", "));
            match nearest(text, choices.iter().copied()) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error,
            }
        })
    }

    #[track_caller]
    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        let from = self.entry(key).map(|entry| format!(" from {}", entry.source)).unwrap_or_default();
        Error::new(ErrorKind::Config, format!("configuration key '{key}'"), format!("{value}{from}"))
            .expected(expected.to_string())
    }
}

fn parse_toml(name: &str, text: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map(|line| format!(" line {line}")).unwrap_or_default();
        Error::new(ErrorKind::Config, format!("{name}{place}"), error.message().to_string()).expected("valid TOML")
    })
}

/// `value` in the type of `like`: the same type, or a whole number where a number is asked for.
#[track_caller]
fn convert(key: &str, value: Value, like: &Value) -> Result<Value> {
    match (value, like) {
        (Value::Integer(number), Value::Float(_)) => Ok(Value::Float(number as f64)),
        (value, like) if value.same_type(like) => Ok(value),
        (value, like) => {
            let expected = match like {
                Value::Integer(_) => "a whole number",
                Value::Float(_) => "a number",
                Value::Boolean(_) => "true or false",
                other => other.type_str(),
            };
            Err(Error::new(ErrorKind::Config, format!("configuration key '{key}'"), value.to_string())
                .expected(expected))
        }
    }
}

/// The comment behind `key = …` in a defaults text.
fn advice_of(text: &str, key: &str) -> String {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('=')?.split_once('#'))
        .map(|(_, comment)| comment.trim().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.declare("trainer", "lr = 0.1  # peak\nepochs = 10\nbackbone = \"resnet18\"\n").unwrap();
        config.declare("simclr", "lr = 0.3\ntemperature = 0.5  # lower sharpens\n").unwrap();
        config
    }

    #[test]
    fn later_layers_win_and_say_where_they_come_from() {
        let mut config = config();
        assert_eq!(config.f64("lr").unwrap(), 0.3);
        assert_eq!(config.entry("lr").unwrap().source, Source::Defaults("simclr".into()));
        assert_eq!(config.entry("lr").unwrap().advice, "peak");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "lr = 1\nepochs = 3\n").unwrap();
        config.apply_file(&path).unwrap();
        config.apply_setting("epochs=5").unwrap();
        config.apply_setting("backbone=resnet50").unwrap();
        assert_eq!((config.f64("lr").unwrap(), config.usize("epochs").unwrap()), (1.0, 5));
        assert_eq!(config.entry("lr").unwrap().source, Source::File(path));
        assert_eq!(config.entry("epochs").unwrap().source, Source::CommandLine);
        assert_eq!(config.str("backbone").unwrap(), "resnet50");
    }

    #[test]
    fn written_configuration_reads_back() {
        let mut first = config();
        first.apply_setting("temperature=0.07").unwrap();
        let text = first.table().to_string();
        let mut second = config();
        second.apply_recipe("run", &text).unwrap();
        assert_eq!(first.table(), second.table());
        let mut third = config();
        third.apply_recipe("described", &first.describe()).unwrap();
        assert_eq!(first.table(), third.table());
    }

    #[test]
    fn mistakes_name_the_key_and_the_nearest_one() {
        let mut config = config();
        let unknown = config.apply_setting("temprature=1").unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::Config);
        assert!(unknown.sentence().contains("'temperature'"), "{}", unknown.sentence());
        let wrong_type = config.apply_setting("epochs=many").unwrap_err().sentence();
        assert!(wrong_type.contains("epochs") && wrong_type.contains("whole number"), "{wrong_type}");
        assert!(config.apply_setting("epochs").is_err());
        config.apply_setting("epochs=-3").unwrap();
        let negative = config.at_least("epochs", 1).unwrap_err().sentence();
        assert!(negative.contains("-3") && negative.contains("command line"), "{negative}");
        let choice = config.choice("backbone", &["resnet-18", "vit"]).unwrap_err().sentence();
        assert!(choice.contains("resnet-18"), "{choice}");
        assert!(config.apply_recipe("r", "lr = = 3").unwrap_err().sentence().contains("line 1"));
    }
}
