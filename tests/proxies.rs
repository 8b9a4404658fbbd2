//! Proxies of the environment, and proxies that do not let a request through.

use std::process::{Command, Output};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::common::agent::Node;
use crate::common::image::Image;
use crate::common::proxy::Proxy;
use crate::common::registry::{Registry, Tls};

const REPO: &str = "edge/nginx";
const VARIABLES: [&str; 8] =
    ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "all_proxy", "no_proxy"];

/// A registry with an image, and a node that reaches it as `0.0.0.0`: this machine too, but no loopback address, for which
/// the environment's proxies would not count.
struct Fixture {
    registry: Registry,
    node: Node,
}

impl Fixture {
    fn new(secure: bool) -> Self {
        let registry = if secure { Registry::builder().https().serve() } else { Registry::http() };
        Image::new("v1").publish(&registry, REPO, "v1");
        let f = Self { registry, node: Node::new() };
        f.configure("");
        f
    }

    fn configure(&self, more: &str) {
        let ca = self.node.path("ca.pem");
        std::fs::write(&ca, self.registry.ca_pem().unwrap_or_default()).unwrap();
        let trust =
            if self.registry.ca_pem().is_some() { format!("ca = {ca:?}") } else { "insecure = true".to_owned() };
        self.node.configure(&format!("[registry.\"{}\"]\n{trust}\n{more}", self.host()));
    }

    fn host(&self) -> String {
        self.registry.host().replace("127.0.0.1", "0.0.0.0")
    }

    /// `eci pull` from `host`, with only these variables of proxies.
    fn pull_from(&self, host: &str, environment: &[(&str, &str)]) -> Output {
        let out = self.node.path("out");
        let mut command: Command =
            self.node.command(&["pull", "--dir", out.to_str().unwrap(), &format!("{host}/{REPO}:v1")]);
        for name in VARIABLES {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied()).output().unwrap()
    }

    fn pull(&self, environment: &[(&str, &str)]) -> Output {
        self.pull_from(&self.host(), environment)
    }

    /// What a pull by the proxy at `url` says as it fails with `code`.
    fn fails(&self, code: i32, url: &str, more: &str) -> String {
        self.configure(&format!("proxy = {:?}\n{more}", url.replace("://", "://user:s3cret@")));
        said(code, &self.pull(&[]))
    }
}

fn said(code: i32, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    said
}

/// A proxy that says these things, one after each thing that it is told.
async fn scripted(answers: &'static [&'static [u8]]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                for answer in answers {
                    let _ = client.read(&mut [0; 4096]).await.ok()?;
                    client.write_all(answer).await.ok()?;
                }
                // Until the client has read all that, and hangs up.
                client.read(&mut [0; 4096]).await.ok()
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxies_are_used_but_not_for_loopback() {
    for (variables, scheme, secure) in [
        (["HTTP_PROXY", "http_proxy"], "http", false),
        (["HTTPS_PROXY", "https_proxy"], "http", true),
        (["ALL_PROXY", "all_proxy"], "socks5h", false),
        (["ALL_PROXY", "all_proxy"], "http", true),
    ] {
        for name in variables {
            let (f, proxy) = (Fixture::new(secure), Proxy::start().await);
            let url = proxy.url(scheme);
            assert!(f.pull(&[(name, &url)]).status.success());
            let carried = proxy.connections();
            assert!(carried > 0, "{name}");
            for except in ["NO_PROXY", "no_proxy"] {
                assert!(f.pull(&[(name, &url), (except, "elsewhere.example,0.0.0.0")]).status.success());
            }
            let other = if secure { "HTTP_PROXY" } else { "HTTPS_PROXY" };
            assert!(f.pull(&[(other, &url)]).status.success());
            if !secure {
                assert!(f.pull_from(&f.registry.host(), &[(name, &url)]).status.success());
            }
            assert_eq!(proxy.connections(), carried, "{name}: nothing else goes by it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_read_as_others_read_it() {
    let f = Fixture::new(false);
    let proxy = Proxy::start().await;
    let url = proxy.url("http").replace("://", "://user:s3cret@");
    let port = f.registry.address().port();
    for (list, is_direct) in [
        (format!("0.0.0.0:{port}"), true),
        ("0.0.0.0:1".to_owned(), false),
        ("*".to_owned(), true),
        (" 10.0.0.1 , 0.0.0.0/8 ".to_owned(), true),
        ("10.0.0.0/8,*.0.0.0,.0.0.0".to_owned(), false),
    ] {
        for configured in [false, true] {
            f.configure(&if configured { format!("proxy = {url:?}\n") } else { String::new() });
            let before = proxy.connections();
            let environment = if configured { ("NO_PROXY", list.as_str()) } else { ("no_proxy", list.as_str()) };
            let output = f.pull(&[environment, ("http_proxy", if configured { "" } else { &url })]);
            said(0, &output);
            assert_eq!(proxy.connections() == before, is_direct, "{list} {configured}");
        }
    }
    assert!(proxy.heads().contains("proxy-authorization: Basic dXNlcjpzM2NyZXQ="), "{}", proxy.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there_is_named() {
    // Nobody else gets the port, and nobody listens.
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dead = dead.local_addr().unwrap().to_string();
    // A label that is too long, so that no server is asked for it.
    let unknown = format!("{}.example:3128", "a".repeat(64));
    for secure in [false, true] {
        let f = Fixture::new(secure);
        for scheme in ["http", "https", "socks5", "socks5h"] {
            for host in [&dead, &unknown] {
                let said = f.fails(69, &format!("{scheme}://{host}"), "");
                assert!(said.contains(&format!("the proxy {scheme}://{host} cannot be reached: ")), "{said}");
                assert!(said.contains("(it is set by proxy in [registry] of agent.toml)"), "{said}");
            }
        }
        f.configure("");
        let said = said(69, &f.pull(&[("ALL_PROXY", &format!("http://user:s3cret@{dead}"))]));
        assert!(said.contains(&format!("the proxy http://{dead} cannot be reached: ")), "{said}");
        assert!(said.contains("$HTTPS_PROXY, $HTTP_PROXY or $ALL_PROXY"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_another_login_is_named() {
    const REFUSAL: &[u8] = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
    for secure in [false, true] {
        let f = Fixture::new(secure);
        for (scheme, address) in [
            ("http", scripted(&[REFUSAL]).await),
            // RFC 1929: any status but 0 is a refusal.
            ("socks5", scripted(&[&[5, 2], &[1, 1]]).await),
        ] {
            let said = f.fails(77, &format!("{scheme}://{address}"), "");
            assert!(said.contains(&format!("the proxy {scheme}://{address} wants another user name")), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_lead_there_is_named() {
    let tunnel = scripted(&[b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"]).await;
    // RFC 1928: "Host unreachable".
    let socks = scripted(&[&[5, 2], &[1, 0], &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]]).await;
    for (scheme, address, secure) in [("http", &tunnel, true), ("socks5", &socks, false), ("socks5h", &socks, true)] {
        let said = Fixture::new(secure).fails(69, &format!("{scheme}://{address}"), "");
        assert!(said.contains(&format!("the proxy {scheme}://{address} does not lead there: ")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_proxy_and_a_registry_the_one_is_named_that_is_not_trusted() {
    let proxy = Proxy::start_secure(Tls::new(false).unwrap().acceptor).await;
    for secure in [false, true] {
        let said = Fixture::new(secure).fails(69, &proxy.url("https"), "");
        assert!(said.contains(&format!("the proxy {} is not trusted", proxy.url("https"))), "{said}");
    }
    let proxy = Proxy::start().await;
    for scheme in ["http", "socks5"] {
        let f = Fixture::new(true);
        f.node.configure(&format!("[registry.\"{}\"]\nproxy = \"{}\"\n", f.host(), proxy.url(scheme)));
        let said = said(69, &f.pull(&[]));
        assert!(said.contains("no secure connection") && !said.contains("the proxy"), "{said}");
    }
}
