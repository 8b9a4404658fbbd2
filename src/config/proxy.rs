//! A proxy between the node and a registry: `http://`, `https://` or `socks5://`, `socks5h://` where it is to look up names.

use std::fmt;
use std::str::FromStr;

/// A proxy's URL. It may hold a password, so that neither its debug form nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(String);

impl Proxy {
    /// The URL, with whatever secret is in it.
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ["http://", "https://", "socks5://", "socks5h://"];
        let host = known.iter().find_map(|scheme| text.strip_prefix(scheme));
        match host {
            Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(Self(text.to_owned())),
            _ => Err("write the proxy as http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT".to_owned()),
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_url_that_nobody_sees() {
        let proxy: Proxy = "socks5h://user:s3cret@proxy.example:1080".parse().unwrap();
        assert!(!format!("{proxy:?}").contains("s3cret"));
        for text in ["", "proxy.example:3128", "ftp://s3cret", "http://", "http://a b"] {
            assert!(!text.parse::<Proxy>().unwrap_err().contains("s3cret"), "{text}");
        }
    }
}
