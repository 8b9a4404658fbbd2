//! Where a health check knocks: `HOST:PORT`, or `http://HOST[:PORT][/PATH]`. `{workload}` may stand in host and path.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::WORKLOAD;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address; one of IPv6 has no brackets here.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

/// What is asked for by plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTarget {
    /// Who is asked.
    pub address: Address,
    /// Path and query, from the `/` on.
    pub path: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        address(text).ok_or_else(|| format!("{text:?} is no address: write HOST:PORT, such as \"127.0.0.1:8080\""))
    }
}

fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<Ipv6Addr>().is_ok().then_some(host)?,
        None => Some(host).filter(|host| !host.is_empty() && host.replace(WORKLOAD, "w").bytes().all(is_name))?,
    };
    Some(Address { host: host.to_owned(), port })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for HttpTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // It is not quoted: it may hold a password.
        target(text).ok_or_else(|| "write the check as http://HOST:PORT/PATH; there is none by https".to_owned())
    }
}

fn target(text: &str) -> Option<HttpTarget> {
    let rest = text.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let address = address(host).or_else(|| address(&format!("{host}:80")))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // What RFC 3986 has in a path and a query.
    let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    path.replace(WORKLOAD, "w").bytes().all(is_path).then_some(HttpTarget { address, path })
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("127.0.0.1:8080", "127.0.0.1", 8080),
            ("[::1]:22", "::1", 22),
            ("{workload}.vm.internal:65535", "{workload}.vm.internal", 65535),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port, address.to_string().as_str()), (host, port, text));
        }
        for text in [
            "",
            "a",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:http",
            "::1:80",
            "[::1]",
            "[a]:80",
            "a b:80",
            "{other}:80",
            "u@a:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_http_target_is_a_plain_url() {
        for (text, is) in [
            ("http://127.0.0.1:8080/health?full=1", "http://127.0.0.1:8080/health?full=1"),
            ("http://[::1]:8080", "http://[::1]:8080/"),
            ("http://a", "http://a:80/"),
            ("http://a?x=1", "http://a:80/?x=1"),
            ("http://{workload}:80/{workload}", "http://{workload}:80/{workload}"),
        ] {
            assert_eq!(text.parse::<HttpTarget>().unwrap().to_string(), is);
        }
        for text in [
            "",
            "a:80",
            "https://a",
            "http://",
            "http:///x",
            "http://u:s3cret@a/",
            "http://a:0/",
            "http://a/ b",
            "http://a/#x",
        ] {
            assert!(!text.parse::<HttpTarget>().unwrap_err().contains("s3cret"), "{text}");
        }
    }
}
