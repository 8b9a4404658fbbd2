//! Operating systems, architectures and variants that images are made for, under Go's names (`go tool dist list`).

use super::Platform;

/// Go's operating systems, with those of other compilers for Go that images are made for.
const SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasi",
    "wasip1",
    "windows",
    "zos",
];
/// Go's architectures, each with its variants. The prefix `v` and a minor version are read apart from this table.
const ARCHITECTURES: [(&str, &[&str]); 20] = [
    ("386", &["sse2", "softfloat"]),
    ("amd64", &["v1", "v2", "v3", "v4"]),
    ("arm", &["v5", "v6", "v7", "v8"]),
    ("arm64", &["v8", "v9"]),
    ("arm64be", &[]),
    ("armbe", &[]),
    ("loong64", &[]),
    ("mips", &["hardfloat", "softfloat"]),
    ("mips64", &["hardfloat", "softfloat"]),
    ("mips64le", &["hardfloat", "softfloat"]),
    ("mipsle", &["hardfloat", "softfloat"]),
    ("ppc", &[]),
    ("ppc64", &["power8", "power9", "power10"]),
    ("ppc64le", &["power8", "power9", "power10"]),
    ("riscv", &[]),
    ("riscv64", &["rva20u64", "rva22u64", "rva23u64"]),
    ("s390x", &[]),
    ("sparc", &[]),
    ("sparc64", &[]),
    ("wasm", &[]),
];

impl Platform {
    /// The part of this platform that no platform has, in words; none if the platform is known.
    pub fn unknown_part(&self) -> Option<String> {
        if !SYSTEMS.contains(&self.os.as_str()) {
            return Some(format!("{:?} is not an operating system that Go knows, such as linux", self.os));
        }
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == self.architecture);
        let Some((_, variants)) = known else {
            let text = &self.architecture;
            return Some(format!("{text:?} is not an architecture that Go knows, such as amd64 or arm64"));
        };
        let variant =
            self.variant.as_deref().filter(|variant| !variants.contains(&major(&self.architecture, variant)))?;
        Some(match *variants {
            [] => format!("{} has no variants, and {variant:?} is given", self.architecture),
            known => format!("{variant:?} is not a variant of {}; it has {}", self.architecture, known.join(", ")),
        })
    }
}

/// A variant without its minor version, which only those of `arm64` have: `v8.2`.
fn major<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match variant.split_once('.') {
        Some((major, minor)) if architecture == "arm64" && minor.len() == 1 && minor.parse::<u8>().is_ok() => major,
        _ => variant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(text: &str) -> Option<String> {
        text.parse::<Platform>().unwrap().unknown_part()
    }

    #[test]
    fn platforms_that_exist_are_known() {
        assert_eq!(Platform::host().unknown_part(), None);
        for text in [
            "linux/amd64",
            "linux/amd64/v3",
            "linux/x86_64",
            "linux/arm/v7",
            "linux/armhf",
            "linux/arm64/v8",
            "linux/arm64/v8.2",
            "linux/arm64/9",
            "linux/aarch64",
            "linux/386",
            "linux/i386",
            "linux/riscv64",
            "linux/s390x",
            "linux/ppc64le/power9",
            "windows/amd64",
            "freebsd/arm64",
            "wasip1/wasm",
            "linux/loong64",
        ] {
            assert_eq!(unknown(text), None, "{text}");
        }
    }

    #[test]
    fn the_part_that_no_platform_has_is_named() {
        for (text, part) in [
            ("foo/bar", "foo"),
            ("linux/bar", "bar"),
            ("amd64/linux", "amd64"),
            ("linux/linux", "linux"),
            ("linux/amd46", "amd46"),
            ("linux/amd64/v9", "v9"),
            ("linux/arm/v9", "v9"),
            ("linux/arm64/v7", "v7"),
            ("linux/s390x/v1", "v1"),
            ("linux/arm64/v8.x", "v8.x"),
            ("linux/amd64/v1.2", "v1.2"),
            ("linus/amd64", "linus"),
        ] {
            let said = unknown(text).unwrap_or_default();
            assert!(said.contains(&format!("{part:?}")), "{text}: {said}");
        }
    }
}
