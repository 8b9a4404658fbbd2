//! Platforms: `os/architecture[/variant]`, in Go's names as the image specification has them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image is made for. Other fields of the specification (`os.version`, `os.features`) are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write os/architecture or os/architecture/variant, such as linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "loongarch64" => "loong64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Whether an image for `self` runs where `wanted` is asked for. A variant counts only where both name one,
    /// and `arm64` is `v8` where it names none.
    pub fn serves(&self, wanted: &Self) -> bool {
        self.is_alike(wanted)
            && match (self.known_variant(), wanted.known_variant()) {
                (Some(have), Some(want)) => have == want,
                _ => true,
            }
    }

    /// Whether both are one platform, to the variant, however they are written.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_alike(other) && self.known_variant() == other.known_variant()
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }

    fn known_variant(&self) -> Option<&str> {
        match (self.variant.as_deref(), self.architecture.as_str()) {
            (None, "arm64") => Some("v8"),
            (variant, _) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        match parts.as_slice() {
            [os, architecture, variant @ ..] if variant.len() <= 1 && parts.iter().all(|part| word(part)) => {
                let (architecture, implied) = canonical(architecture);
                let variant = variant.first().copied().or(implied).map(|variant| match variant.parse::<u8>() {
                    Ok(number) => format!("v{number}"),
                    Err(_) => variant.to_owned(),
                });
                Ok(Self { os: (*os).to_owned(), architecture: architecture.to_owned(), variant })
            }
            _ => Err(PlatformError(text.chars().take(100).collect())),
        }
    }
}

/// An architecture under the name that images have for it, with the variant that another name says with it; the names
/// are those that container tools take.
fn canonical(architecture: &str) -> (&str, Option<&'static str>) {
    match architecture {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "i386" => ("386", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        other => (other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few enough that two often have to do with each other.
    const PLATFORM: &str = "(linux|windows)/(arm|arm64|amd64)(/v[678])?";

    proptest! {
        #[test]
        fn what_is_read_is_read_back_as_displayed(text in "[a-zA-Z0-9._]{0,4}(/[a-zA-Z0-9._ ]{0,4}){0,4}") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert_eq!(platform.to_string().parse(), Ok(platform));
            }
        }

        #[test]
        fn serving_is_mutual_and_an_exact_match_serves(a in PLATFORM, b in PLATFORM) {
            let (a, b) = (platform(&a), platform(&b));
            prop_assert_eq!(a.serves(&b), b.serves(&a));
            prop_assert!(a.serves(&a) && a.is_same(&a));
            prop_assert!(!a.is_same(&b) || a.serves(&b));
        }
    }

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_is_read_back_as_written() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(platform(text).to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn other_names_for_a_platform_are_those_that_images_have() {
        for (text, name) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/aarch64/8", "linux/arm64/v8"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(platform(text).to_string(), name);
        }
    }

    #[test]
    fn variants_count_where_both_name_one() {
        assert!(platform("linux/arm64/v8").serves(&platform("linux/arm64")));
        assert!(platform("linux/arm").serves(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm/v6").serves(&platform("linux/arm/v7")));
        assert!(!platform("linux/arm64").serves(&platform("linux/amd64")));
        assert!(platform("linux/arm64").is_same(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm").is_same(&platform("linux/arm/v7")));
    }
}
