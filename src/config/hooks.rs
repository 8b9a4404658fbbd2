//! `[hooks]`: programs that have a say in an activation, or are told of it.

use std::path::Path;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::fragment;

/// `[hooks]`: a program and its arguments for each occasion; none where nothing is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// Before `current` is swapped; it may refuse that.
    pub pre_activate: Option<Vec<String>>,
    /// After `current` was swapped.
    pub post_activate: Option<Vec<String>>,
    /// After `current` was swapped back.
    pub on_rollback: Option<Vec<String>>,
    /// How long each may take, from a second to an hour.
    pub timeout: Duration,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self { pre_activate: None, post_activate: None, on_rollback: None, timeout: Duration::from_secs(60) }
    }
}

impl HookSettings {
    pub(super) fn from_fragment(hooks: fragment::Hooks) -> Result<Self, (&'static str, String)> {
        let fragment::Hooks { pre_activate, post_activate, on_rollback, timeout } = hooks;
        let timeout = timeout.map_or(Self::default().timeout, |timeout| timeout.0);
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&timeout) {
            return Err(("hooks.timeout", "from \"1s\" to \"1h\": a workload waits for its hooks".to_owned()));
        }
        let argv = |argv: Option<Argv>| argv.map(|argv| argv.0);
        Ok(Self {
            pre_activate: argv(pre_activate),
            post_activate: argv(post_activate),
            on_rollback: argv(on_rollback),
            timeout,
        })
    }
}

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Argv(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let argv = Vec::<String>::deserialize(deserializer)?;
        let Some(program) = argv.first() else {
            return Err(D::Error::custom("there is no program: write [\"/PATH/OF/PROGRAM\", \"ARGUMENT\", …]"));
        };
        // Whose $PATH would it be looked up in?
        if !Path::new(program).is_absolute() {
            return Err(D::Error::custom(format!("{program:?} is not the whole path of a program")));
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Err(D::Error::custom("an argument has a NUL character in it"));
        }
        Ok(Self(argv))
    }
}
