//! `[health]`: how it is told whether what runs is healthy.

use std::str::FromStr;
use std::time::Duration;

use super::target::{Address, HttpTarget};
use super::{WORKLOAD, fragment};

/// `[health]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// What is looked at; none where nothing is.
    pub check: Option<CheckSettings>,
    /// The time between two checks, a second at least.
    pub interval: Duration,
    /// How long one check may take, from 100 milliseconds to an hour.
    pub timeout: Duration,
    /// How many failures in a row count as unhealthy, from 1 to 100.
    pub threshold: u32,
    /// How long it must have been healthy to be confirmed.
    pub healthy_after: Duration,
    /// How often the agent or the node may be started before a generation that nobody confirmed is rolled back, from 1
    /// to 100. It counts without a check as well.
    pub max_attempts: u32,
}

/// What is looked at. `{workload}` stands for the name of the workload; [`Self::of_workload`] fills it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckSettings {
    /// A program ends with 0.
    Command(Vec<String>),
    /// Somebody listens.
    Tcp(Address),
    /// A request is answered with 2xx or 3xx.
    Http(HttpTarget),
    /// A unit of systemd is active.
    Unit(String),
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            check: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            threshold: 3,
            healthy_after: Duration::from_secs(30),
            max_attempts: 3,
        }
    }
}

impl HealthSettings {
    pub(super) fn from_fragment(health: fragment::Health) -> Result<Self, (&'static str, String)> {
        let fragment::Health { command, tcp, http, unit, interval, timeout, threshold, healthy_after, max_attempts } =
            health;
        let checks = [
            command.map(|argv| CheckSettings::Command(argv.0)),
            tcp.map(|address| CheckSettings::Tcp(address.0)),
            http.map(|target| CheckSettings::Http(target.0)),
            unit.map(|unit| CheckSettings::Unit(unit.0.0)),
        ];
        let mut checks = checks.into_iter().flatten();
        let check = checks.next();
        if checks.next().is_some() {
            return Err(("health", "there is more than one check: keep one of command, tcp, http and unit".to_owned()));
        }
        // Who writes these believes that something is looked at.
        let of_a_check = [
            ("health.interval", interval.is_some()),
            ("health.timeout", timeout.is_some()),
            ("health.threshold", threshold.is_some()),
            ("health.healthy_after", healthy_after.is_some()),
        ];
        if let Some((key, _)) = of_a_check.into_iter().find(|(_, is_there)| check.is_none() && *is_there) {
            return Err((key, "there is no check: write one of command, tcp, http and unit as well".to_owned()));
        }
        let default = Self::default();
        let settings = Self {
            check,
            interval: interval.map_or(default.interval, |span| span.0),
            timeout: timeout.map_or(default.timeout, |span| span.0),
            threshold: threshold.unwrap_or(default.threshold),
            healthy_after: healthy_after.map_or(default.healthy_after, |span| span.0),
            max_attempts: max_attempts.unwrap_or(default.max_attempts),
        };
        settings.limits().map(|()| settings)
    }

    fn limits(&self) -> Result<(), (&'static str, String)> {
        if self.interval < Duration::from_secs(1) {
            return Err(("health.interval", "less than a second would burden the node".to_owned()));
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.timeout) {
            return Err(("health.timeout", "from \"100ms\" to \"1h\"".to_owned()));
        }
        for (key, number) in [("health.threshold", self.threshold), ("health.max_attempts", self.max_attempts)] {
            if !(1..=100).contains(&number) {
                return Err((key, "from 1 to 100".to_owned()));
            }
        }
        Ok(())
    }
}

impl CheckSettings {
    /// The same for one workload, with its name filled in.
    #[must_use]
    pub fn of_workload(&self, workload: &str) -> Self {
        let fill = |text: &String| text.replace(WORKLOAD, workload);
        let address = |address: &Address| Address { host: fill(&address.host), port: address.port };
        match self {
            Self::Command(argv) => Self::Command(argv.iter().map(fill).collect()),
            Self::Tcp(target) => Self::Tcp(address(target)),
            Self::Http(target) => {
                Self::Http(HttpTarget { address: address(&target.address), path: fill(&target.path) })
            }
            Self::Unit(unit) => Self::Unit(fill(unit)),
        }
    }
}

/// The name of a unit (systemd.unit(5)).
#[derive(Clone, Debug)]
pub(super) struct Unit(String);

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The longest workload's name has 63 characters, and that of a unit 255.
        let filled = text.replace(WORKLOAD, &"w".repeat(63));
        let is_right = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if !filled.is_empty() && filled.len() <= 255 && !filled.starts_with('-') && filled.bytes().all(is_right) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is no unit's name: write it like \"eci-vm@{WORKLOAD}.service\""))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_filled_in_everywhere() {
        let of = |settings: CheckSettings| settings.of_workload("router");
        let command = ["/opt/{workload}/check", "--name={workload}", "{other}"].map(str::to_owned).to_vec();
        let filled = ["/opt/router/check", "--name=router", "{other}"].map(str::to_owned).to_vec();
        assert_eq!(of(CheckSettings::Command(command)), CheckSettings::Command(filled));
        assert_eq!(
            of(CheckSettings::Tcp("{workload}.vm.internal:22".parse().unwrap())),
            CheckSettings::Tcp("router.vm.internal:22".parse().unwrap())
        );
        assert_eq!(
            of(CheckSettings::Http("http://{workload}:80/health/{workload}?of={workload}".parse().unwrap())),
            CheckSettings::Http("http://router:80/health/router?of=router".parse().unwrap())
        );
        let Unit(unit) = "eci-vm@{workload}.service".parse().unwrap();
        assert_eq!(of(CheckSettings::Unit(unit)), CheckSettings::Unit("eci-vm@router.service".to_owned()));
    }

    #[test]
    fn a_unit_has_a_name_of_systemds() {
        for text in ["a.service", "eci-vm@{workload}.service", "dev-disk-by\\x2dlabel.mount", "a@b:c_d.socket"] {
            assert!(text.parse::<Unit>().is_ok(), "{text}");
        }
        let long = format!("{}{{workload}}.service", "a".repeat(190));
        for text in ["", "-H", "--host=a", "a b.service", "a*.service", "{other}.service", "ü.service", &long] {
            assert!(text.parse::<Unit>().is_err(), "{text}");
        }
    }
}
