//! The hosts that are reached without a proxy: `$NO_PROXY`, as programs in Go and curl read it.
//!
//! | entry | matches |
//! |---|---|
//! | `*` | every host |
//! | `corp.example`, `.corp.example` | the host of that name, and all hosts below it |
//! | `*.corp.example` | all hosts below that name |
//! | `10.0.0.2`, `fd00::2`, `[fd00::2]` | the address |
//! | `10.0.0.0/8`, `fd00::/8` | the addresses of the network |
//! | one of these but a network, with `:PORT` | the same at that port; an IPv6 address is then in brackets |

use std::net::IpAddr;

use reqwest::Url;

/// The entries of `$NO_PROXY`.
#[derive(Clone, Debug, Default)]
pub(super) struct NoProxy(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    hosts: Hosts,
    /// The only port that is meant; none if all are.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    Name(String),
    Below(String),
    Address(IpAddr),
    Network(IpAddr, u8),
}

impl NoProxy {
    /// Reads a list that is separated by commas or blanks. An entry that makes no sense is ignored, as others do.
    pub(super) fn parse(list: &str) -> Self {
        let entries = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
        Self(entries.filter_map(Entry::parse).collect())
    }

    /// True if `host`, a name or an address as URLs have it, is reached at `port` without a proxy.
    pub(super) fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.parse().ok().map(|address: IpAddr| address.to_canonical());
        let is_meant = |entry: &Entry| {
            entry.port.is_none_or(|only| only == port)
                && match &entry.hosts {
                    Hosts::All => true,
                    Hosts::Name(name) => address.is_none() && (host == *name || is_below(&host, name)),
                    Hosts::Below(name) => address.is_none() && is_below(&host, name),
                    Hosts::Address(other) => address == Some(*other),
                    Hosts::Network(network, length) => {
                        address.is_some_and(|address| prefix(address, *length) == prefix(*network, *length))
                    }
                }
        };
        self.0.iter().any(is_meant)
    }
}

impl Entry {
    fn parse(entry: &str) -> Option<Self> {
        if let Some((network, length)) = entry.split_once('/') {
            let (network, length): (IpAddr, u8) = (network.parse().ok()?, length.parse().ok()?);
            let longest = if network.is_ipv4() { 32 } else { 128 };
            return (length <= longest).then_some(Self { hosts: Hosts::Network(network, length), port: None });
        }
        if let Ok(address) = entry.parse() {
            return Some(Self { hosts: address_of(address), port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port.parse().ok()?))
            }
            _ => (entry, None),
        };
        let hosts = if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            address_of(address.parse().ok()?)
        } else if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
            Hosts::Address(address.into())
        } else if host == "*" {
            Hosts::All
        } else if let Some(name) = host.strip_prefix("*.") {
            Hosts::Below(name_of(name)?)
        } else {
            Hosts::Name(name_of(host.strip_prefix('.').unwrap_or(host))?)
        };
        Some(Self { hosts, port })
    }
}

fn address_of(address: IpAddr) -> Hosts {
    Hosts::Address(address.to_canonical())
}

/// A host's name as URLs have it: in small letters, and in ASCII.
fn name_of(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.contains(['*', ':', '/', '@', '?', '#', '[']) {
        return None;
    }
    Url::parse(&format!("http://{name}/")).ok()?.host_str().map(ToOwned::to_owned)
}

fn is_below(host: &str, name: &str) -> bool {
    host.strip_suffix(name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// The first `length` bits of an address, with its family.
fn prefix(address: IpAddr, length: u8) -> (bool, u128) {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    (address.is_ipv4(), bits.checked_shr(u32::saturating_sub(width, u32::from(length))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_match_as_in_go_and_curl() {
        for (list, matched, unmatched) in [
            ("*", &["a.example:443", "10.0.0.2:80", "[fd00::2]:80"][..], &[][..]),
            ("*:80", &["a.example:80"], &["a.example:443"]),
            (
                "corp.example",
                &[
                    "corp.example:443",
                    "a.corp.example:80",
                    "b.a.corp.example:80",
                    "CORP.example:80",
                    "corp.example.:80",
                ],
                &["acorp.example:443", "corp.example.org:443", "example:443"],
            ),
            (".corp.example", &["corp.example:443", "a.corp.example:80"], &["acorp.example:443"]),
            (
                "*.corp.example",
                &["a.corp.example:80", "b.a.corp.example:5000"],
                &["corp.example:443", "acorp.example:443"],
            ),
            ("Corp.Example.", &["a.corp.example:80"], &["example:80"]),
            ("a.example:80", &["a.example:80", "b.a.example:80"], &["a.example:443", "a.example:8080"]),
            ("*.a.example:5000", &["b.a.example:5000"], &["b.a.example:443", "a.example:5000"]),
            (".a.example:5000", &["b.a.example:5000", "a.example:5000"], &["b.a.example:443"]),
            ("10.0.0.2", &["10.0.0.2:80", "[::ffff:10.0.0.2]:80"], &["10.0.0.20:80", "110.0.0.2:80", "a.10.0.0.2:80"]),
            ("10.0.0.2:80", &["10.0.0.2:80"], &["10.0.0.2:443"]),
            ("10.0.0.0/8", &["10.1.2.3:80"], &["11.0.0.1:80", "10.example:80", "[a00::1]:80"]),
            ("10.1.2.3/30", &["10.1.2.0:80", "10.1.2.3:80"], &["10.1.2.4:80"]),
            ("0.0.0.0/0", &["10.1.2.3:80"], &["[fd00::2]:80", "a.example:80"]),
            ("fd00::2", &["[fd00::2]:80", "[FD00:0::2]:443"], &["[fd00::20]:80"]),
            ("[fd00::2]", &["[fd00::2]:80"], &["[fd00::3]:80"]),
            ("[fd00::2]:80", &["[fd00::2]:80"], &["[fd00::2]:443"]),
            ("fd00::/8", &["[fd12::1]:80"], &["[fe80::1]:80", "10.0.0.1:80"]),
            ("fd00::/64", &["[fd00::2]:80"], &["[fd00:0:0:1::2]:80", "10.0.0.1:80"]),
            ("::/0", &["[fd12::1]:80"], &["10.0.0.1:80"]),
            (
                " a.example , ,\tb.example:80,,c.example d.example ",
                &["a.example:1", "b.example:80", "c.example:1", "d.example:1"],
                &["b.example:1", "e.example:1"],
            ),
            ("bücher.example", &["xn--bcher-kva.example:80"], &["bcher.example:80"]),
            ("localhost", &["localhost:80"], &["a.example:80"]),
            (
                ",:80,.,*.,a*.example,10.0.0.0/33,10.0.0.0/x,[fd00::2,[a.example]:80,a.example:99999,a.example:x,http://a.example",
                &[],
                &["a.example:80", "aa.example:80", "10.0.0.1:80", "[fd00::2]:80", "example:80"],
            ),
            ("", &[], &["a.example:80"]),
        ] {
            let list_of = NoProxy::parse(list);
            for (hosts, expected) in [(matched, true), (unmatched, false)] {
                for host in hosts {
                    let (name, port) = host.rsplit_once(':').unwrap();
                    assert_eq!(list_of.matches(name, port.parse().unwrap()), expected, "{list:?} and {host}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_list_is_too_odd(list in ".{0,60}", host in "[a-z0-9.:\\[\\]]{0,20}", port: u16) {
            NoProxy::parse(&list).matches(&host, port);
        }

        #[test]
        fn a_network_has_its_own_address(bits: u32, length in 0..=32_u8, port: u16) {
            let address = std::net::Ipv4Addr::from_bits(bits).to_string();
            let list = NoProxy::parse(&format!("{address}/{length}"));
            prop_assert!(list.matches(&address, port));
        }
    }
}
