//! Platforms: `os/architecture[/variant]`, in Go's names as the image specification has them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lenient::empty_is_none;

/// The platform that an image is for, under Go's names, however it was written. Other fields of the specification
/// (`os.version`, `os.features`) are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A platform as JSON has it.
#[derive(Deserialize)]
struct Fields {
    os: String,
    architecture: String,
    #[serde(default, deserialize_with = "empty_is_none")]
    variant: Option<String>,
}

impl TryFrom<Fields> for Platform {
    type Error = PlatformError;

    fn try_from(Fields { os, architecture, variant }: Fields) -> Result<Self, PlatformError> {
        let parts: Vec<String> = [os, architecture].into_iter().chain(variant).collect();
        let text = parts.join("/");
        if parts.iter().any(|part| part.contains('/')) { Err(PlatformError::new(&text)) } else { text.parse() }
    }
}

/// How well an image fits a platform that it runs on; the better, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// It is for a lower variant of the architecture: the number of that.
    Lower(u32),
    /// One of the two has no variant.
    Unnamed,
    /// It is for just this platform.
    Same,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform: write os/architecture or os/architecture/variant, such as linux/arm64")]
pub struct PlatformError(String);

impl PlatformError {
    fn new(text: &str) -> Self {
        Self(text.chars().take(100).collect())
    }
}

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

    /// Whether an image for `self` runs where `wanted` is asked for: a processor does what its variant says, and all that
    /// lower ones do. A variant counts only where both have one; `arm64` is `v8` and `amd64` is `v1` where they name none.
    pub fn serves(&self, wanted: &Self) -> bool {
        self.fit(wanted).is_some()
    }

    /// How well an image for `self` fits where `wanted` is asked for; none where it does not run there.
    pub fn fit(&self, wanted: &Self) -> Option<Fit> {
        if !self.is_alike(wanted) {
            return None;
        }
        match (self.known_variant(), wanted.known_variant()) {
            (have, want) if have == want => Some(Fit::Same),
            (None, _) | (_, None) => Some(Fit::Unnamed),
            (Some(have), Some(want)) => {
                let (have, want) = (level(have)?, level(want)?);
                (have < want).then_some(Fit::Lower(have))
            }
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
            (None, "amd64") => Some("v1"),
            (variant, _) => variant,
        }
    }
}

/// The number of a variant of `arm`, `arm64` or `amd64`. Of variants that are called otherwise none is above another.
fn level(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok()
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
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
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
            _ => Err(PlatformError::new(text)),
        }
    }
}

/// An architecture under the name that images have for it, with the variant that another name says with it; the names
/// are those that container tools take.
fn canonical(architecture: &str) -> (&str, Option<&'static str>) {
    match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
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
    const PLATFORM: &str = "(linux|windows)/(arm|arm64|amd64)(/v[1678]|/odd)?";

    proptest! {
        #[test]
        fn what_is_read_is_read_back_as_displayed(text in "[a-zA-Z0-9._]{0,4}(/[a-zA-Z0-9._ ]{0,4}){0,4}") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert_eq!(platform.to_string().parse(), Ok(platform));
            }
        }

        #[test]
        fn an_exact_match_serves_best_and_of_two_variants_one_serves_the_other(a in PLATFORM, b in PLATFORM) {
            let (a, b) = (platform(&a), platform(&b));
            prop_assert_eq!(a.fit(&a), Some(Fit::Same));
            prop_assert_eq!(a.fit(&b) == Some(Fit::Same), a.is_same(&b));
            prop_assert_eq!(a.fit(&b) == Some(Fit::Unnamed), b.fit(&a) == Some(Fit::Unnamed));
            prop_assert!(!(matches!(a.fit(&b), Some(Fit::Lower(_))) && b.serves(&a)));
        }

        #[test]
        fn what_serves_a_lower_variant_serves_a_higher_one(a in PLATFORM, b in PLATFORM, c in PLATFORM) {
            let (a, b, c) = (platform(&a), platform(&b), platform(&c));
            if let (Some(Fit::Lower(_)), Some(Fit::Lower(_))) = (a.fit(&b), b.fit(&c)) {
                prop_assert!(a.fit(&c) < b.fit(&c) && a.serves(&c));
            }
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
        assert!(!platform("linux/arm/v7").serves(&platform("linux/arm/v6")));
        assert!(!platform("linux/arm64").serves(&platform("linux/amd64")));
        assert!(platform("linux/arm64").is_same(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm").is_same(&platform("linux/arm/v7")));
        assert!(platform("linux/amd64").is_same(&platform("linux/amd64/v1")));
    }
}
