//! Addresses that a redirect may lead to. A registry on the internet must not be able to send our requests to this machine,
//! to its network, or to a cloud's metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::RedirectScope;

/// The reason of a refusal, for an error.
pub(super) const REFUSED: &str =
    "it leads from a public address to a private one, which needs redirects = \"any\" in the registry's table";

/// What is known of a redirect target before its name is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// It may have any address.
    Passed,
    /// It has a name, of which only public addresses may be connected to.
    PublicOnly,
    /// It has an address that it must not have.
    Refused,
}

/// Checks `target`, which a host at the address `source` names; an unknown address counts as public.
pub(super) fn check(source: Option<IpAddr>, target: &Url, allowed: RedirectScope) -> Check {
    if allowed == RedirectScope::Any || source.is_some_and(|source| !is_public(source)) {
        return Check::Passed;
    }
    match literal(target) {
        Some(address) if is_public(address) => Check::Passed,
        Some(_) => Check::Refused,
        // Behind a proxy no name is resolved here; these always mean the machine that resolves them.
        None if is_localhost(target) => Check::Refused,
        None => Check::PublicOnly,
    }
}

/// The address that a URL has in place of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// True for a name that means the machine itself (RFC 6761).
fn is_localhost(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

/// True if an address is of the public internet: not of this machine, a link, a private network or a carrier's.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    let is_benchmark = first == 198 && (18..20).contains(&second);
    let is_protocol = (first, second, third) == (192, 0, 0);
    !(first == 0
        || first >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || is_shared
        || is_benchmark
        || is_protocol)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, third, ..] = segments;
    let [.., high, low] = segments;
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped, compatible (with :: and ::1), and translated (NAT64) addresses are those of IPv4.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            embedded(high, low)
        }
        // 6to4.
        [0x2002, ..] => embedded(second, third),
        // Local NAT64 prefixes, unique-local, link-local, site-local, multicast.
        [0x64, 0xff9b, 1, ..] => false,
        _ => !matches!(first, 0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00..=0xffff),
    }
}

/// A resolver that leaves out addresses that are not public. What it returns is what is connected to, so that a name cannot
/// have one address when it is checked and another one afterwards.
pub(super) struct PublicOnly(pub(super) Arc<dyn Resolve>);

impl PublicOnly {
    /// Resolves as the system does.
    pub(super) fn of_system() -> Self {
        Self(Arc::new(SystemResolver))
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let all = self.0.resolve(name);
        Box::pin(async move {
            let public: Vec<_> = all.await?.filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                return Err(REFUSED.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const PUBLIC: [&str; 6] =
        ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"];
    const INNER: [&str; 26] = [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "0.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
    ];

    fn url(host: &str) -> Url {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("http://{host}:8080/x").parse().unwrap()
    }

    #[test]
    fn redirect_from_a_public_address_stays_outside() {
        let of = |text: &str| Some(text.parse().unwrap());
        for source in PUBLIC.iter().map(|text| of(text)).chain([None]) {
            for inner in INNER {
                assert_eq!(check(source, &url(inner), RedirectScope::Public), Check::Refused, "{source:?} {inner}");
                assert_eq!(check(source, &url(inner), RedirectScope::Any), Check::Passed, "{source:?} {inner}");
            }
            for public in PUBLIC {
                assert_eq!(check(source, &url(public), RedirectScope::Public), Check::Passed, "{source:?} {public}");
            }
            let name = "storage.localhost.example.com";
            assert_eq!(check(source, &url(name), RedirectScope::Public), Check::PublicOnly, "{source:?}");
            for name in ["localhost", "storage.localhost", "localhost."] {
                assert_eq!(check(source, &url(name), RedirectScope::Public), Check::Refused, "{source:?} {name}");
            }
        }
        for source in INNER.map(of) {
            for target in INNER.into_iter().chain(PUBLIC).chain(["storage.local"]) {
                assert_eq!(check(source, &url(target), RedirectScope::Public), Check::Passed, "{source:?} {target}");
            }
        }
        // Other spellings of 127.0.0.1.
        for spelling in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"] {
            assert_eq!(check(None, &url(spelling), RedirectScope::Public), Check::Refused, "{spelling}");
        }
    }

    /// A name with these addresses.
    struct Fixed(Vec<SocketAddr>);

    impl Resolve for Fixed {
        fn resolve(&self, _: Name) -> Resolving {
            let addresses = self.0.clone();
            Box::pin(async move { Ok(Box::new(addresses.into_iter()) as Addrs) })
        }
    }

    #[tokio::test]
    async fn name_with_private_addresses_is_not_connected_to() {
        super::super::host::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let client = |resolver: PublicOnly| {
            let builder = reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(resolver));
            builder.tls_certs_only([]).build().unwrap()
        };
        let target = format!("http://storage.example.com:{}/", here.port());
        let error = client(PublicOnly(Arc::new(Fixed(vec![here])))).get(&target).send().await.unwrap_err();
        let error = super::super::RegistryError::transport(&target, &error);
        assert!(error.to_string().contains("redirects = \"any\""), "{error}");
        // The same name without the filter is connected to.
        let unfiltered = reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(Fixed(vec![here])));
        let unfiltered = unfiltered.tls_certs_only([]).build().unwrap();
        let (accepted, ()) = tokio::join!(listener.accept(), async {
            let _ = tokio::time::timeout(std::time::Duration::from_millis(500), unfiltered.get(&target).send()).await;
        });
        assert!(accepted.is_ok());
        let mixed = PublicOnly(Arc::new(Fixed(vec![here, "8.8.8.8:0".parse().unwrap()])));
        let left: Vec<_> = mixed.resolve("x.example".parse().unwrap()).await.unwrap().collect();
        assert_eq!(left, ["8.8.8.8:0".parse().unwrap()]);
    }
}
