//! `eci inspect`: what an image is made of, without fetching its layers.

use std::path::PathBuf;

use super::options::Options;
use super::output::{json, print, print_bytes};
use super::source::{Opened, Source};
use super::tree::render;
use crate::failure::Failure;
use crate::oci::Platform;
use crate::publish::{inspect, raw_config, raw_document};
use crate::registry::{Caller, Registries};

/// The arguments of `eci inspect`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print one JSON document.
    #[arg(long, conflicts_with_all = ["raw", "image_config"])]
    json: bool,
    /// Print the manifest or index byte for byte; with --platform, the manifest for that platform.
    #[arg(long, conflicts_with = "image_config")]
    raw: bool,
    /// Print the image's config byte for byte.
    #[arg(id = "image_config", long = "config")]
    image_config: bool,
    /// The agent's configuration, which says how registries are reached; before the command's name it is --config.
    #[arg(id = "config", long = "agent-config", value_name = "FILE")]
    _agent_config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) source: Source,
}

impl Args {
    /// Looks, and prints what is there.
    pub(super) async fn run(self, options: &Options) -> Result<(), Failure> {
        let Opened { settings, reference, platform } = self.source.open(options)?;
        let (registries, retry) = (Registries::new(&settings, Caller::User), settings.retry);
        if self.raw {
            return print_bytes(&raw_document(&registries, retry, &reference, platform.as_ref()).await?);
        }
        if self.image_config {
            let platform = platform.unwrap_or_else(Platform::host);
            return print_bytes(&raw_config(&registries, retry, &reference, &platform).await?);
        }
        let found = inspect(&registries, retry, &reference, platform.as_ref()).await?;
        print(&if self.json { json(&found.summary())? } else { render(&found) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use clap::Parser;

    #[test]
    fn the_config_after_the_name_is_the_images() {
        for (line, agents, images) in [
            ("eci inspect a.example/b", None, false),
            ("eci inspect --config a.example/b", None, true),
            ("eci --config a.toml inspect a.example/b", Some("a.toml"), false),
            ("eci --config a.toml inspect --config a.example/b", Some("a.toml"), true),
            ("eci inspect --agent-config a.toml --config a.example/b", Some("a.toml"), true),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Inspect(args) = cli.command else { panic!("{line}") };
            assert_eq!((cli.options.config, args.image_config), (agents.map(Into::into), images), "{line}");
        }
        assert!(Cli::try_parse_from(["eci", "inspect", "--config", "a.toml", "a.example/b"]).is_err());
    }

    #[test]
    fn the_forms_of_output_exclude_each_other() {
        let forms = ["--json", "--raw", "--config"];
        for (n, one) in forms.iter().enumerate() {
            assert!(Cli::try_parse_from(["eci", "inspect", one, "a.example/b"]).is_ok(), "{one}");
            for other in forms.iter().skip(n + 1) {
                assert!(Cli::try_parse_from(["eci", "inspect", one, other, "a.example/b"]).is_err(), "{one} {other}");
            }
        }
    }
}
