//! Which files make up the configuration, and in what order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::fragment::Fragment;
use super::{DocumentError, Settings, parse};
use crate::failure::{Classify, Kind, Retry};

/// More than any configuration has; a larger file is a mistake.
const MAX_BYTES: u64 = 1024 * 1024;

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSource {
    file: PathBuf,
    /// Whether the file has to be there.
    required: bool,
    /// Directories of drop-ins; a later one hides a file of the same name in an earlier one.
    drop_ins: Vec<PathBuf>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file says something wrong.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The files together say something wrong.
    #[error("{}: {key}: {message}", .file.display())]
    Check {
        /// The main file.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
}

impl Classify for ConfigError {
    fn kind(&self) -> Kind {
        Kind::ConfigInvalid
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

impl ConfigSource {
    /// The system's: `/etc/eci-agent/agent.toml`, which may be absent, and the drop-ins of vendor, run and local.
    pub fn system() -> Self {
        let drop_ins = ["/usr/lib", "/run", "/etc"].map(|root| Path::new(root).join("eci-agent/agent.d"));
        Self { file: "/etc/eci-agent/agent.toml".into(), required: false, drop_ins: drop_ins.into() }
    }

    /// A file that has to be there, and the drop-ins beside it: `agent.d/` for `agent.toml`.
    pub fn file(file: &Path) -> Self {
        Self { file: file.to_owned(), required: true, drop_ins: vec![file.with_extension("d")] }
    }

    /// The files to read, least important first.
    fn files(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for dir in &self.drop_ins {
            by_name.extend(drop_ins(dir).map_err(|source| ConfigError::Read { path: dir.clone(), source })?);
        }
        let main = (self.required || self.file.exists()).then(|| self.file.clone());
        Ok(main.into_iter().chain(by_name.into_values()).collect())
    }
}

fn drop_ins(dir: &Path) -> io::Result<Vec<(OsString, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().extension().is_some_and(|extension| extension == "toml") {
            found.push((entry.file_name(), entry.path()));
        }
    }
    Ok(found)
}

/// Reads, merges and checks.
pub fn load(source: &ConfigSource) -> Result<Settings, ConfigError> {
    let mut merged = toml::Table::new();
    for file in source.files()? {
        let text = read(&file)?;
        // As a fragment first: only there does an error know its line.
        parse::<Fragment>(&file, &text)?;
        merge(&mut merged, parse(&file, &text)?);
    }
    let check =
        |key: &str, message: String| ConfigError::Check { file: source.file.clone(), key: key.to_owned(), message };
    let fragment = Fragment::deserialize(merged).map_err(|error| check("", error.message().to_owned()))?;
    Settings::from_fragment(fragment).map_err(|(key, message)| check(key, message))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// Lays `over` on `under`: tables are merged key by key, any other value is replaced.
fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = tree.0.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            tree
        }

        fn load(&self) -> Result<Settings, ConfigError> {
            load(&ConfigSource::file(&self.0.path().join("agent.toml")))
        }
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Tree::new(&[("agent.toml", "")]).load().unwrap(), Settings::default());
    }

    #[test]
    fn drop_ins_override_key_by_key_in_order_of_their_names() {
        let settings = Tree::new(&[
            ("agent.toml", "[retry]\ninitial = \"2s\"\nmax = \"5m\"\n[registry.\"a.example\"]\ninsecure = true\n"),
            ("agent.d/20-b.toml", "[retry]\ninitial = \"4s\"\n[registry.\"a.example\"]\nca = \"/ca.pem\"\n"),
            ("agent.d/10-a.toml", "[retry]\ninitial = \"3s\"\n[desired]\npoll = \"off\"\n"),
            ("agent.d/.hidden.toml", "nonsense"),
            ("agent.d/notes.txt", "nonsense"),
        ])
        .load()
        .unwrap();
        assert_eq!(
            settings.retry,
            super::super::RetrySettings { initial: Duration::from_secs(4), max: Duration::from_secs(300) }
        );
        assert_eq!(settings.desired.poll, None);
        let registry = &settings.registries["a.example"];
        assert!(registry.insecure == Some(true) && registry.ca.is_some());
    }

    #[test]
    fn a_registry_is_one_however_it_is_written() {
        let settings = Tree::new(&[("agent.toml", "[registry.\"A.Example:5000\"]\ninsecure = true\n")]).load().unwrap();
        assert_eq!(settings.registries["a.example:5000"].insecure, Some(true));
    }

    #[test]
    fn a_later_directory_hides_a_file_of_the_same_name() {
        let tree = Tree::new(&[("lib/10.toml", "[log]\nlevel = \"debug\"\n"), ("etc/10.toml", "")]);
        let source = ConfigSource {
            file: tree.0.path().join("absent.toml"),
            required: false,
            drop_ins: vec![tree.0.path().join("lib"), tree.0.path().join("etc")],
        };
        assert_eq!(load(&source).unwrap().log.level, tracing::Level::INFO);
    }

    #[test]
    fn errors_name_file_line_column_and_key() {
        for (text, want) in [
            ("[retry]\nmax = \"fast\"\n", "agent.toml:2:7: retry.max: "),
            ("[retry]\nmaximum = \"1s\"\n", "agent.toml:2:1: retry.maximum: "),
            ("[api]\nmode = \"0999\"\n", "agent.toml:2:8: api.mode: "),
            ("[transfer]\nmax_file_bytes = \"many\"\n", "agent.toml:2:18: transfer.max_file_bytes: "),
            ("state_dir = \"relative\"\n", "agent.toml: state_dir: "),
            ("[desired]\npoll = \"1ms\"\n", "agent.toml: desired.poll: "),
            (
                "[registry.\"A.example\"]\n[registry.\"a.example\"]\n",
                "agent.toml: registry: \"a.example\" is there twice",
            ),
            ("[registry.\"https://a.example\"]\ninsecure = true\n", "agent.toml: registry: \"https://a.example\""),
        ] {
            let error = Tree::new(&[("agent.toml", text)]).load().unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(matches!(Tree::new(&[]).load(), Err(ConfigError::Read { .. })));
    }
}
