//! The samples in `config/` and the schemas in `docs/` are true: they parse, what they comment out is the default, and every key is in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use eci_agent::config::{ConfigSource, Settings, load};
use eci_agent::deploy::{Base, Launch, LaunchFile};
use eci_agent::desired::{self, Disks};
use eci_agent::eci::{DiskFormat, Role};
use eci_agent::oci::{Digest, Platform};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// The text with its commented-out keys and tables brought in.
fn uncommented(text: &str) -> String {
    let setting = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty()).map(str::to_owned)
    };
    text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn load_text(text: &str) -> Settings {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("agent.toml"), text).unwrap();
    load(&ConfigSource::file(&dir.path().join("agent.toml"))).unwrap()
}

#[test]
fn the_agents_sample_is_the_defaults() {
    let text = fs::read_to_string(sample("agent.toml")).unwrap();
    assert_eq!(load_text(&text), Settings::default());
    let mut brought_in = load_text(&uncommented(&text));
    let registry = brought_in.registries.remove("registry.example.com").unwrap();
    // What has no default but that nothing is done.
    assert!(brought_in.window.take().is_some() && brought_in.health.check.take().is_some());
    let hooks = &mut brought_in.hooks;
    let programs = [hooks.pre_activate.take(), hooks.post_activate.take(), hooks.on_rollback.take()];
    assert!(programs.iter().all(Option::is_some));
    assert_eq!(brought_in, Settings::default(), "what is commented out is the default");
    assert!(registry.ca.is_some() && registry.credentials.is_some() && registry.insecure == Some(false));
    assert!(registry.mirrors.len() == 2 && !registry.resolve_tags);
    assert!(registry.token_service.is_some() && !registry.ca_only);
    assert!(registry.redirects == eci_agent::config::RedirectScope::Public);
    assert!(registry.proxy.is_some() && registry.client.is_some());
}

#[test]
fn the_agents_sample_has_every_key() {
    let text = uncommented(&fs::read_to_string(sample("agent.toml")).unwrap());
    let table: toml::Table = text.parse().unwrap();
    for (section, keys) in [
        ("desired", 4),
        ("api", 3),
        ("log", 2),
        ("transfer", 6),
        ("unpack", 2),
        ("retry", 2),
        ("cache", 5),
        ("window", 4),
        ("hooks", 4),
        // Of four checks there may be one.
        ("health", 6),
    ] {
        assert_eq!(table[section].as_table().unwrap().len(), keys, "[{section}]");
    }
}

#[test]
fn every_check_of_the_agents_sample_is_accepted() {
    let text = fs::read_to_string(sample("agent.toml")).unwrap();
    let others: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = \"")).collect();
    assert_eq!(others.len(), 3, "{others:?}");
    for check in others {
        assert!(load_text(&format!("[health]\n{check}\n")).health.check.is_some(), "{check}");
    }
}

#[test]
fn the_desired_sample_is_accepted() {
    let text = fs::read_to_string(sample("desired.toml")).unwrap();
    assert_eq!(desired::parse(Path::new("desired.toml"), &text).unwrap().workloads.len(), 1);
    let several =
        uncommented(&text).lines().skip_while(|line| !line.starts_with("[workload.")).collect::<Vec<_>>().join("\n");
    assert_eq!(desired::parse(Path::new("desired.toml"), &several).unwrap().workloads.len(), 2);
    let single: String = uncommented(&text)
        .lines()
        .take_while(|line| !line.starts_with("[workload."))
        .map(|line| format!("{line}\n"))
        .collect();
    let single = desired::parse(Path::new("desired.toml"), &single).unwrap();
    let plain = format!("image = \"{}\"\n", single.workloads.values().next().unwrap().reference);
    let defaults = desired::parse(Path::new("desired.toml"), &plain).unwrap();
    let (single, default) = (single.workloads.values().next().unwrap(), defaults.workloads.values().next().unwrap());
    // Every key is in it, and those that have a default show it.
    assert!(single.platform.is_some() && single.cmdline.is_some() && single.confirm.is_some());
    assert_eq!((single.disks, single.activate), (default.disks, default.activate));
}

#[test]
fn the_schema_of_launch_json_has_its_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/launch.schema.json");
    let schema: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let launch = Launch {
        workload: "default".parse().unwrap(),
        generation: 1,
        reference: "a.example/b:c".parse().unwrap(),
        digest: Digest::of(b""),
        index_digest: None,
        platform: Platform::host(),
        cmdline: None,
        disks: Disks::OverlayFollow,
        files: vec![LaunchFile {
            role: Role::DiskRoot,
            path: "/var/lib/eci-agent/generations/default/1/disk-root.overlay.qcow2".into(),
            format: DiskFormat::Qcow2.to_string(),
            size: 1,
            digest: Digest::of(b""),
            writable: true,
            base: Some(Base {
                path: "/var/lib/eci-agent/generations/default/1/disk-root-root.raw".into(),
                format: "raw".into(),
            }),
        }],
        record: None,
    };
    let document = serde_json::to_value(&launch).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let file = &schema["properties"]["files"]["items"];
    assert_eq!(keys(&document), keys(&schema["properties"]));
    assert_eq!(keys(&document["files"][0]), keys(&file["properties"]));
    for (schema, document) in [(&schema, &document), (file, &document["files"][0])] {
        let required =
            schema["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
        assert_eq!(keys(document), required, "every key is always there");
    }
    assert!(file["properties"]["role"]["enum"].as_array().unwrap().contains(&document["files"][0]["role"]));
}
