//! The effective configuration: each value, and the place that sets it.

use toml::{Table, Value};

use super::layers::ConfigFiles;
use super::load::merge;
use super::origins::Origin;

/// The defaults, as a file would write them.
pub(super) const DEFAULTS: &str = include_str!("defaults.toml");
/// Defaults of keys that count only with a health check.
const OF_A_CHECK: &str = "interval = \"10s\"\ntimeout = \"5s\"\nthreshold = 3\nhealthy_after = \"30s\"\n";
/// Defaults of a registry's keys.
const OF_A_REGISTRY: &str = "resolve_tags = false\nca_only = false\nredirects = \"public\"\n";

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveValue {
    /// The keys that lead to it.
    pub path: Vec<String>,
    /// The value as a file writes it, without passwords.
    pub value: Value,
    /// The place that sets it; none for a default.
    pub origin: Option<Origin>,
}

impl ConfigFiles {
    /// Every value in force, by table and key. Names and passwords in URLs are replaced by `…`.
    pub fn effective(&self) -> Vec<EffectiveValue> {
        let merged = self.merged();
        let mut table = with(DEFAULTS, merged);
        if let Some(Value::Table(health)) = table.get_mut("health")
            && ["command", "tcp", "http", "unit"].iter().any(|check| health.contains_key(*check))
        {
            *health = with(OF_A_CHECK, health);
        }
        if let Some(Value::Table(registries)) = table.get_mut("registry") {
            for (_, registry) in registries.iter_mut() {
                if let Value::Table(registry) = registry {
                    *registry = with(OF_A_REGISTRY, registry);
                }
            }
        }
        let mut values = Vec::new();
        // A table's own values come before its tables, as TOML has it.
        collect(&table, &mut Vec::new(), &mut values);
        for value in &mut values {
            value.origin = self.origins().get(&value.path).cloned();
        }
        values
    }
}

fn with(defaults: &str, over: &Table) -> Table {
    let mut table: Table = defaults.parse().unwrap_or_default();
    merge(&mut table, over.clone());
    table
}

fn collect(table: &Table, path: &mut Vec<String>, values: &mut Vec<EffectiveValue>) {
    let is_table = |value: &Value| matches!(value, Value::Table(_));
    for (key, value) in table.iter().filter(|(_, value)| !is_table(value)) {
        let mut path = path.clone();
        path.push(key.clone());
        values.push(EffectiveValue { path, value: without_secrets(value), origin: None });
    }
    for (key, value) in table {
        if let Value::Table(inner) = value {
            path.push(key.clone());
            collect(inner, path, values);
            path.pop();
        }
    }
}

/// A value whose URLs have no name and no password.
fn without_secrets(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_login(text)),
        Value::Array(values) => Value::Array(values.iter().map(without_secrets).collect()),
        value => value.clone(),
    }
}

fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}{path}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigSource, Settings};

    fn files(texts: &[(&str, &str)]) -> (tempfile::TempDir, ConfigFiles) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("agent.d")).unwrap();
        for (name, text) in texts {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let files = ConfigFiles::read(&ConfigSource::file(&dir.path().join("agent.toml")));
        (dir, files)
    }

    #[test]
    fn default_values_are_those_of_the_settings() {
        let (_dir, files) = files(&[("agent.toml", DEFAULTS)]);
        assert_eq!(files.settings().unwrap(), Settings::default());
        let defaults = Settings::default().health;
        let text = format!("[health]\ntcp = \"a:1\"\n{OF_A_CHECK}[registry.\"a.example\"]\n{OF_A_REGISTRY}");
        let (_dir, files) = self::files(&[("agent.toml", &text)]);
        let settings = files.settings().unwrap();
        let health = crate::config::HealthSettings { check: None, ..settings.health };
        assert_eq!(health, defaults);
        assert_eq!(settings.registries["a.example"], crate::config::RegistrySettings::default());
    }

    #[test]
    fn values_name_the_file_that_sets_them() {
        let (dir, files) = files(&[
            ("agent.toml", "[retry]\ninitial = \"2s\"\nmax = \"5m\"\n"),
            (
                "agent.d/10.toml",
                "\n[retry]\n  initial = \"3s\"\n[registry.\"a.example\"]\nproxy = \"http://u:s3cret@p:1\"\n",
            ),
        ]);
        let values = files.effective();
        let value = |path: &[&str]| values.iter().find(|value| value.path == path).unwrap().clone();
        let at = |value: &EffectiveValue| {
            let origin = value.origin.clone()?;
            Some((
                origin.file.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned(),
                origin.line,
                origin.column,
            ))
        };
        let initial = value(&["retry", "initial"]);
        assert_eq!((initial.value.as_str(), at(&initial)), (Some("3s"), Some(("agent.d/10.toml".to_owned(), 3, 13))));
        assert_eq!(at(&value(&["retry", "max"])), Some(("agent.toml".to_owned(), 3, 7)));
        assert_eq!(at(&value(&["api", "socket"])), None);
        assert_eq!(value(&["registry", "a.example", "proxy"]).value.as_str(), Some("http://…@p:1"));
        assert_eq!(value(&["registry", "a.example", "redirects"]).value.as_str(), Some("public"));
    }

    #[test]
    fn logins_in_urls_are_left_out() {
        for (text, shown) in [
            ("http://p:3128", "http://p:3128"),
            ("http://u:p@s3cret@p:3128/x@y", "http://…@p:3128/x@y"),
            ("/etc/a@b", "/etc/a@b"),
        ] {
            assert_eq!(without_login(text), shown);
        }
    }
}
