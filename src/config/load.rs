//! Which files make up the configuration, and in what order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::Settings;
use super::error::ConfigError;
use super::layers::ConfigFiles;

/// Limit of drop-ins in one directory.
const MAX_DROP_INS: usize = 1000;

/// Where the configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSource {
    pub(super) file: PathBuf,
    /// Whether the file has to be there.
    pub(super) required: bool,
    /// Directories of drop-ins; a later one hides a file of the same name in an earlier one.
    drop_ins: Vec<PathBuf>,
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

    /// The files to read, least important first, and the directories that cannot be listed.
    pub(super) fn files(&self) -> (Vec<PathBuf>, Vec<ConfigError>) {
        let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        let mut errors = Vec::new();
        for dir in &self.drop_ins {
            match drop_ins(dir) {
                Ok(found) => by_name.extend(found),
                Err(source) => errors.push(ConfigError::Read { path: dir.clone(), source }),
            }
        }
        // One that may not be looked at is there.
        let is_there = self.file.try_exists().unwrap_or(true);
        let main = (self.required || is_there).then(|| self.file.clone());
        (main.into_iter().chain(by_name.into_values()).collect(), errors)
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
        if found.len() >= MAX_DROP_INS {
            return Err(io::Error::other(format!("more than {MAX_DROP_INS} drop-ins are in it")));
        }
        if !hidden && entry.path().extension().is_some_and(|extension| extension == "toml") {
            found.push((entry.file_name(), entry.path()));
        }
    }
    Ok(found)
}

/// Reads, merges and checks.
pub fn load(source: &ConfigSource) -> Result<Settings, ConfigError> {
    ConfigFiles::read(source).settings()
}

/// Lays `over` on `under`: tables are merged key by key, any other value is replaced.
pub(super) fn merge(under: &mut toml::Table, over: toml::Table) {
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
    fn a_directory_of_too_many_drop_ins_is_refused() {
        let tree = Tree::new(&[("agent.toml", ""), ("agent.d/first.toml", "")]);
        for number in 2..=MAX_DROP_INS {
            fs::write(tree.0.path().join(format!("agent.d/{number}.toml")), "").unwrap();
        }
        assert_eq!(tree.load().unwrap(), Settings::default());
        fs::write(tree.0.path().join("agent.d/last.toml"), "").unwrap();
        let error = tree.load().unwrap_err();
        assert!(matches!(&error, ConfigError::Read { path, .. } if path.ends_with("agent.d")), "{error}");
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
    fn the_tables_of_an_activation_are_merged_like_the_others() {
        let settings = Tree::new(&[
            (
                "agent.toml",
                "[window]\nstart = \"02:00\"\nend = \"04:00\"\n[hooks]\npre_activate = [\"/a\", \"b\"]\n[health]\n\
                 tcp = \"{workload}:22\"\nthreshold = 2\n",
            ),
            ("agent.d/10.toml", "[window]\nend = \"05:30\"\ndays = [\"sun\"]\n[hooks]\npre_activate = [\"/c\"]\n"),
            ("agent.d/20.toml", "[window]\ntimezone = \"Europe/Berlin\"\n[hooks]\non_rollback = [\"/d\"]\n"),
            ("agent.d/30.toml", "[hooks]\ntimeout = \"5s\"\n[health]\ninterval = \"20s\"\nmax_attempts = 5\n"),
        ])
        .load()
        .unwrap();
        let window = settings.window.unwrap();
        assert_eq!(window.days, [jiff::civil::Weekday::Sunday]);
        assert_eq!((window.start.to_string(), window.end.to_string()), ("02:00:00".to_owned(), "05:30:00".to_owned()));
        assert_eq!(window.timezone.iana_name(), Some("Europe/Berlin"));
        let hooks = settings.hooks;
        assert_eq!((hooks.pre_activate, hooks.post_activate), (Some(vec!["/c".to_owned()]), None));
        assert_eq!((hooks.on_rollback, hooks.timeout), (Some(vec!["/d".to_owned()]), Duration::from_secs(5)));
        let health = settings.health;
        assert_eq!(health.check, Some(crate::config::CheckSettings::Tcp("{workload}:22".parse().unwrap())));
        assert_eq!((health.threshold, health.max_attempts), (2, 5));
        assert_eq!((health.interval, health.timeout), (Duration::from_secs(20), Duration::from_secs(5)));
    }

    #[test]
    fn the_tables_of_an_activation_have_defaults() {
        let load = |text| Tree::new(&[("agent.toml", text)]).load().unwrap();
        assert_eq!(load("[window]\n[hooks]\n[health]\n"), Settings::default());
        assert_eq!(load("[health]\nmax_attempts = 1\n").health.check, None);
        let nights = load("[window]\nstart = \"22:00\"\nend = \"02:00\"\n").window.unwrap();
        assert_eq!((nights.days.len(), nights.timezone), (7, jiff::tz::TimeZone::UTC));
        let weekend = load("[window]\ndays = [\"sat\", \"sun\"]\n").window.unwrap();
        assert_eq!((weekend.days.len(), weekend.start), (2, weekend.end));
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
    fn wrong_values_together_name_their_file() {
        for (files, want) in [
            (vec![("agent.toml", "\nstate_dir = \"x\"\n")], "agent.toml:2:13: state_dir: "),
            (
                vec![("agent.toml", "[retry]\nmax = \"5m\"\n"), ("agent.d/10.toml", "[retry]\ninitial = \"6m\"\n")],
                "agent.d/10.toml:1:2: retry: ",
            ),
            (
                vec![("agent.toml", "[window]\nstart = \"02:00\"\n"), ("agent.d/10.toml", "[cache]\nscrub = \"1s\"\n")],
                "agent.toml:1:2: window: ",
            ),
            (
                vec![
                    ("agent.toml", "[api]\nsocket = \"a\"\n"),
                    ("agent.d/10.toml", "[api]\nsocket = \"/b\"\n"),
                    ("agent.d/20.toml", "[desired]\ndebounce = \"2m\"\n"),
                ],
                "agent.d/20.toml:2:12: desired.debounce: ",
            ),
        ] {
            let error = Tree::new(&files).load().unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    #[test]
    fn every_error_is_found() {
        let mut files = vec![("agent.toml", "")];
        let errors = |files: &[(&str, &str)]| {
            let tree = Tree::new(files);
            let found = ConfigFiles::read(&ConfigSource::file(&tree.0.path().join("agent.toml"))).errors();
            let root = tree.0.path().display().to_string() + "/";
            found.iter().map(|error| error.to_string().replace(&root, "")).collect::<Vec<_>>()
        };
        assert_eq!(errors(&files), Vec::<String>::new());
        files[0].1 = "stat = 1\n[retry]\nmax = \"fast\"\nmim = 1\n\"a b\" = 1\n[window]\ndays = [\"x\"]\n[nope]\n[health]\nthreshold = -1\n";
        files.push(("agent.d/10.toml", "[api]\nmode = 1\n"));
        files.push(("agent.d/20.toml", "[api\n"));
        files.push(("agent.d/30.toml", "[retry]\nmax = \"1m\"\n"));
        let found = errors(&files);
        for want in [
            "agent.toml:1:1: stat: ",
            "agent.toml:3:7: retry.max: ",
            "agent.toml:4:1: retry.mim: ",
            "agent.toml:5:1: retry.",
            "agent.toml:7:8: window.days[0]: ",
            "agent.toml:8:2: nope: ",
            "agent.toml:10:13: health.threshold: ",
            "agent.d/10.toml:2:8: api.mode: ",
            "agent.d/20.toml:1:",
        ] {
            assert_eq!(found.iter().filter(|error| error.starts_with(want)).count(), 1, "{want}: {found:#?}");
        }
        assert_eq!(found.len(), 9, "{found:#?}");
    }

    #[test]
    fn clients_take_the_paths_that_can_be_read() {
        let readable = |files: &[(&str, &str)]| {
            let tree = Tree::new(files);
            let source = ConfigSource::file(&tree.0.path().join("agent.toml"));
            ConfigFiles::read(&source).readable().map(|settings| (settings.api.socket, settings.cache.keep))
        };
        let default = Settings::default().api.socket;
        let main = ("agent.toml", "[api]\nsocket = \"/a\"\n[cache]\nkeep = 3\n");
        assert_eq!(readable(&[main]), Some(("/a".into(), 3)));
        assert_eq!(readable(&[main, ("agent.d/1.toml", "[window]\ndayz = 1\n")]), Some(("/a".into(), 3)));
        assert_eq!(readable(&[main, ("agent.d/1.toml", "[api]\nsocket = \"/b\"\nx = 1\n")]), Some(("/b".into(), 3)));
        assert_eq!(readable(&[main, ("agent.d/1.toml", "[cache]\nscrub = \"1s\"\n")]), Some(("/a".into(), 1)));
        assert_eq!(readable(&[("agent.toml", "[api]\nsocket = \"/a\"\n[cache\n")]), Some(("/a".into(), 1)));
        assert_eq!(readable(&[("agent.toml", "[api]\nsocket = 1\n")]), Some((default, 1)));
        assert_eq!(readable(&[]), None, "a named file that is not there may be that of another agent");
    }

    #[test]
    fn errors_name_file_line_column_and_key() {
        for (text, want) in [
            ("[retry]\nmax = \"fast\"\n", "agent.toml:2:7: retry.max: "),
            ("[retry]\nmaximum = \"1s\"\n", "agent.toml:2:1: retry.maximum: "),
            ("[api]\nmode = \"0999\"\n", "agent.toml:2:8: api.mode: "),
            ("[transfer]\nmax_file_bytes = \"many\"\n", "agent.toml:2:18: transfer.max_file_bytes: "),
            ("[unpack]\nmax_window = \"2GiB\"\n", "agent.toml: unpack.max_window: from \"1MiB\" to \"1GiB\""),
            ("[unpack]\nmemory = \"1MiB\"\n", "agent.toml: unpack.memory: less than \"2MiB\""),
            ("state_dir = \"relative\"\n", "agent.toml: state_dir: "),
            ("[desired]\npoll = \"1ms\"\n", "agent.toml: desired.poll: "),
            (
                "[registry.\"A.example\"]\n[registry.\"a.example\"]\n",
                "agent.toml: registry: \"a.example\" is there twice",
            ),
            ("[registry.\"https://a.example\"]\ninsecure = true\n", "agent.toml: registry: \"https://a.example\""),
            (
                "[window]\ndays = [\"mon\", \"Tue\"]\n",
                "agent.toml:2:8: window.days[1]: \"Tue\" is no day: write \"mon\", ",
            ),
            ("[window]\ndays = []\n", "agent.toml:2:8: window.days: without a day"),
            ("[window]\nstart = \"2:00\"\n", "agent.toml:2:9: window.start: \"2:00\" is no time of day"),
            (
                "[window]\ntimezone = \"Mars/Olympus\"\n",
                "agent.toml:2:12: window.timezone: \"Mars/Olympus\" is no time zone",
            ),
            ("[window]\nstart = \"02:00\"\n", "agent.toml: window: start and end go together"),
            ("[window]\ntimezone = \"UTC\"\n", "agent.toml: window.timezone: there is no window"),
            ("[hooks]\npre_activate = []\n", "agent.toml:2:16: hooks.pre_activate: there is no program"),
            (
                "[hooks]\npost_activate = [\"true\"]\n",
                "agent.toml:2:17: hooks.post_activate: \"true\" is not the whole path",
            ),
            (
                "[hooks]\non_rollback = [\"/a\", \"\\u0000\"]\n",
                "agent.toml:2:15: hooks.on_rollback: an argument has a NUL",
            ),
            ("[hooks]\npre_activate = \"/a b\"\n", "agent.toml:2:16: hooks.pre_activate: "),
            ("[hooks]\ntimeout = \"500ms\"\n", "agent.toml: hooks.timeout: from \"1s\" to \"1h\""),
            ("[hooks]\ntimeout = \"61m\"\n", "agent.toml: hooks.timeout: from \"1s\" to \"1h\""),
            ("[health]\ncommand = [\"check\"]\n", "agent.toml:2:11: health.command: \"check\" is not the whole path"),
            ("[health]\ntcp = \"localhost\"\n", "agent.toml:2:7: health.tcp: \"localhost\" is no address"),
            (
                "[health]\nhttp = \"https://a\"\n",
                "agent.toml:2:8: health.http: write the check as http://HOST:PORT/PATH",
            ),
            ("[health]\nunit = \"--all\"\n", "agent.toml:2:8: health.unit: \"--all\" is no unit's name"),
            ("[health]\ntcp = \"a:1\"\nunit = \"a.service\"\n", "agent.toml: health: there is more than one check"),
            ("[health]\nhealthy_after = \"1s\"\n", "agent.toml: health.healthy_after: there is no check"),
            ("[health]\ntcp = \"a:1\"\ninterval = \"999ms\"\n", "agent.toml: health.interval: "),
            ("[health]\ntcp = \"a:1\"\ntimeout = \"99ms\"\n", "agent.toml: health.timeout: "),
            ("[health]\ntcp = \"a:1\"\nthreshold = 0\n", "agent.toml: health.threshold: from 1 to 100"),
            ("[health]\nmax_attempts = 101\n", "agent.toml: health.max_attempts: from 1 to 100"),
        ] {
            let error = Tree::new(&[("agent.toml", text)]).load().unwrap_err();
            // The place of a key that is wrong only beside others is tested by itself.
            let error = match error {
                ConfigError::Check { file, key, message, .. } => {
                    ConfigError::Check { file, at: None, key, message }.to_string()
                }
                error => error.to_string(),
            };
            assert!(error.contains(want), "{error}");
        }
        assert!(matches!(Tree::new(&[]).load(), Err(ConfigError::Read { .. })));
    }
}
