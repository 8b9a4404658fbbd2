//! Where a mirror is: `http://10.0.0.2:5000`, or `https://cache.example.com/proxy` for one that keeps the registry's
//! repositories below a path of its own.

use std::str::FromStr;

/// A mirror of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// True if it is reached without TLS. Such a mirror serves only what a digest proves.
    pub plain_http: bool,
    /// `HOST[:PORT]`, by which it may have a `[registry]` table of its own.
    pub host: String,
    /// What comes before the names of its repositories; empty or ending in `/`.
    pub prefix: String,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // It is not quoted: it may hold a password.
        let fault = || "write the mirror as https://HOST[:PORT][/PATH] or http://HOST[:PORT][/PATH]".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(fault)?;
        let plain_http = match scheme {
            "http" => true,
            "https" => false,
            _ => return Err(fault()),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let is_right = !host.is_empty() && host.bytes().all(is_host) && path.bytes().all(is_path);
        // The API's own part of the path is added to whatever is here.
        if !is_right || path.split('/').any(|part| matches!(part, "." | ".." | "v2")) {
            return Err(fault());
        }
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        Ok(Self { plain_http, host: host.to_ascii_lowercase(), prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_a_host_and_perhaps_a_path() {
        let mirror =
            |plain_http, host: &str, prefix: &str| Mirror { plain_http, host: host.into(), prefix: prefix.into() };
        for (text, expected) in [
            ("http://10.0.0.2:5000", mirror(true, "10.0.0.2:5000", "")),
            ("https://Cache.example.com/", mirror(false, "cache.example.com", "")),
            ("https://harbor.example.com/proxy/hub/", mirror(false, "harbor.example.com", "proxy/hub/")),
            ("http://[::1]:5000", mirror(true, "[::1]:5000", "")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "10.0.0.2:5000",
            "ftp://a",
            "http://",
            "https:///x",
            "https://u:p@a",
            "http://a/../b",
            "http://a/v2",
            "http://a?x",
            "http://a/x y",
        ] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
