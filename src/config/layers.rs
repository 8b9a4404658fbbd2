//! The files of the configuration as layers: each is read and checked by itself, then they are merged.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::DeTable;

use super::error::ConfigError;
use super::faults::faults;
use super::file::read;
use super::fragment::Fragment;
use super::load::{ConfigSource, merge};
use super::origins::Origins;
use super::{DocumentError, Settings, parse};

/// The files of the configuration as they were read, the valid and the invalid ones.
#[derive(Debug)]
pub struct ConfigFiles {
    main: PathBuf,
    /// In the order in which they are merged.
    layers: Vec<Layer>,
    /// Files and directories that cannot be read.
    unread: Vec<ConfigError>,
    merged: toml::Table,
    origins: Origins,
    /// True if the main file was named, and cannot be read.
    lacks_named_file: bool,
}

/// One file that could be read.
#[derive(Debug)]
struct Layer {
    file: PathBuf,
    text: String,
    /// Keys that the file sets; the error of an invalid file.
    table: Result<toml::Table, DocumentError>,
}

impl ConfigFiles {
    /// Reads every file of `source`.
    pub fn read(source: &ConfigSource) -> Self {
        let (files, unlisted) = source.files();
        let mut this = Self {
            main: source.file.clone(),
            layers: Vec::new(),
            unread: unlisted,
            merged: toml::Table::new(),
            origins: Origins::default(),
            lacks_named_file: false,
        };
        for file in files {
            match read(&file) {
                Ok(text) => {
                    // As a fragment first: only there does an error know its line.
                    let table = parse::<Fragment>(&file, &text).and_then(|_| parse::<toml::Table>(&file, &text));
                    if let Ok(table) = &table {
                        merge(&mut this.merged, table.clone());
                        this.origins.add(&file, &text);
                    }
                    this.layers.push(Layer { file, text, table });
                }
                Err(error) => {
                    this.lacks_named_file |= source.required && file == source.file;
                    this.unread.push(error);
                }
            }
        }
        this
    }

    /// The settings; the first error if a file is wrong, or if the files together are.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        if let Some(error) = self.unread.first() {
            return Err(error.copied());
        }
        if let Some(error) = self.layers.iter().find_map(|layer| layer.table.as_ref().err()) {
            return Err(error.clone().into());
        }
        self.checked()
    }

    /// Every error: all of each file, else the first one of the files together.
    pub fn errors(&self) -> Vec<ConfigError> {
        let mut errors: Vec<_> = self.unread.iter().map(ConfigError::copied).collect();
        for layer in self.layers.iter().filter(|layer| layer.table.is_err()) {
            errors.extend(faults::<Fragment>(&layer.file, &layer.text).into_iter().map(ConfigError::from));
        }
        if errors.is_empty() { self.checked().err().into_iter().collect() } else { errors }
    }

    /// The settings for a client of the agent, as far as they can be read: of an invalid file only the paths count. None if
    /// the main file was named, and cannot be read: its agent may be another than the default one.
    pub fn readable(&self) -> Option<Settings> {
        if self.lacks_named_file {
            return None;
        }
        let mut table = toml::Table::new();
        for layer in &self.layers {
            merge(&mut table, layer.table.clone().unwrap_or_else(|_| salvaged(&layer.text)));
        }
        Some(settings_of(table.clone()).unwrap_or_else(|_| {
            let mut settings = Settings::default();
            let path = |path: &[&str]| absolute_path(&table, path);
            if let Some(socket) = path(&["api", "socket"]) {
                settings.api.socket = socket;
            }
            if let Some(dir) = path(&["state_dir"]) {
                settings.state_dir = dir;
            }
            if let Some(file) = path(&["desired", "path"]) {
                settings.desired.path = file;
            }
            settings
        }))
    }

    /// The files that were read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(|layer| layer.file.as_path())
    }

    pub(super) fn merged(&self) -> &toml::Table {
        &self.merged
    }

    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The settings of all files that are valid by themselves. An error is that of the file with which it came.
    fn checked(&self) -> Result<Settings, ConfigError> {
        let (key, message) = match settings_of(self.merged.clone()) {
            Ok(settings) => return Ok(settings),
            Err(error) => error,
        };
        let (mut sofar, mut culprit, mut was_right) = (toml::Table::new(), None, true);
        for layer in &self.layers {
            merge(&mut sofar, layer.table.clone().unwrap_or_default());
            let is_right = settings_of(sofar.clone()).is_ok();
            if was_right && !is_right {
                culprit = Some(layer.file.clone());
            }
            was_right = is_right;
        }
        let file = culprit.unwrap_or_else(|| self.main.clone());
        let at = self.origins.in_file(&file, &key).map(|origin| (origin.line, origin.column));
        Err(ConfigError::Check { file, at, key, message })
    }
}

/// The settings that a table makes. The error has the key and what is wrong with it.
fn settings_of(table: toml::Table) -> Result<Settings, (String, String)> {
    let fragment = Fragment::deserialize(table).map_err(|error| (String::new(), error.message().to_owned()))?;
    Settings::from_fragment(fragment).map_err(|(key, message)| (key.to_owned(), message))
}

/// The paths that an invalid file sets, as far as they can be told.
fn salvaged(text: &str) -> toml::Table {
    let (root, _) = DeTable::parse_recoverable(text);
    let table = toml::Table::deserialize(toml::Deserializer::from(root)).unwrap_or_default();
    let mut found = toml::Table::new();
    for path in [["state_dir"].as_slice(), &["api", "socket"], &["desired", "path"]] {
        if let Some(value) = absolute_path(&table, path) {
            let value = toml::Value::String(value.to_string_lossy().into_owned());
            let set = path
                .iter()
                .rev()
                .fold(value, |value, key| toml::Value::Table([((*key).to_owned(), value)].into_iter().collect()));
            if let toml::Value::Table(set) = set {
                merge(&mut found, set);
            }
        }
    }
    found
}

/// The absolute path that `table` has at `keys`.
fn absolute_path(table: &toml::Table, keys: &[&str]) -> Option<PathBuf> {
    let (last, tables) = keys.split_last()?;
    let table = tables.iter().try_fold(table, |table, key| table.get(*key)?.as_table())?;
    table.get(*last)?.as_str().map(PathBuf::from).filter(|path| path.is_absolute())
}
