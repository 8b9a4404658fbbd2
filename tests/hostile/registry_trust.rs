//! Limits on what a registry is trusted with: scopes, its token service, certificate authorities, plain http.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{Bounds, mib, secs};
use crate::common::image::Image;
use crate::common::registry::{Auth, On, Refusals, Registry};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: mib(1), requests: 60, within: secs(40) };
/// `user:s3cret` in base64.
const LOGIN: &str = "dXNlcjpzM2NyZXQ=";

fn bearer() -> Registry {
    let registry = Registry::builder().auth(Auth::bearer().login("user", "s3cret")).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    registry
}

/// A workstation with a login for `host`, in a file of this mode, and these keys in the registry's table.
fn workstation(host: &str, mode: u32, keys: &str) -> Workstation {
    let workstation = Workstation::new();
    let file = workstation.write("logins.json", format!(r#"{{"auths": {{"{host}": {{"auth": "{LOGIN}"}}}}}}"#));
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    workstation.write("agent.toml", format!("[registry.\"{host}\"]\ncredentials = {file:?}\n{keys}"));
    workstation
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_asked_for_with_the_scope_that_is_needed() {
    let case = BOUNDS.start();
    let registry = bearer();
    let scope =
        format!("repository:other/secret:pull,push,delete registry:catalog:* repository:{REPO}:pull,push,delete");
    let challenge = format!("Bearer realm=\"{}\",service=\"s\",scope=\"{scope}\"", registry.url("/token"));
    registry.set_refusals(Refusals { challenge: vec![challenge.into_bytes()], ..Refusals::default() });
    let workstation = workstation(&registry.host(), 0o600, "");
    case.must(&workstation.command(&["pull", "--dir", "out", &registry.reference(REPO, "v1")]));
    let asked: Vec<_> =
        registry.log().iter().filter(|asked| On::token().matches(asked)).map(|asked| asked.uri.clone()).collect();
    assert!(!asked.is_empty());
    for uri in asked {
        let scopes: Vec<_> = uri.split(['?', '&']).filter(|pair| pair.starts_with("scope=")).collect();
        assert_eq!(scopes, ["scope=repository%3Aedge%2Fnginx%3Apull"], "{uri}");
    }
    case.registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_service_is_the_one_that_is_pinned() {
    let case = BOUNDS.start();
    let registry = bearer();
    let reference = registry.reference(REPO, "v1");
    for other in ["https://auth.example.com/token".to_owned(), registry.url("/elsewhere")] {
        let workstation = workstation(&registry.host(), 0o600, &format!("token_service = {other:?}\n"));
        let said = case.fails(&workstation.command(&["pull", "--dir", "out", &reference]), 69);
        assert!(said.contains("token_service") && said.contains(&other), "{said}");
        assert_eq!(registry.count(&On::token()), 0, "no password is sent");
    }
    let own = format!("token_service = {:?}\n", registry.url("/token"));
    let pinned = workstation(&registry.host(), 0o600, &own);
    case.registry(&registry).must(&pinned.command(&["pull", "--dir", "out", &reference]));
    let said = workstation(&registry.host(), 0o600, "token_service = \"auth.example.com\"\n")
        .fails(78, &["pull", "--dir", "out", &reference]);
    assert!(said.contains("token_service"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_only_leaves_the_systems_authorities_out() {
    let case = BOUNDS.start();
    let [registry, other] = [(); 2].map(|()| Registry::builder().https().serve());
    Image::new("v1").publish(&registry, REPO, "v1");
    let inspects = |ca: &Registry, ca_only: bool| {
        let workstation = Workstation::new();
        let ca = workstation.write("ca.pem", ca.ca_pem().unwrap());
        // The system trusts the registry.
        let system = workstation.write("system.pem", registry.ca_pem().unwrap());
        let table = format!("[registry.\"{}\"]\nca = {ca:?}\nca_only = {ca_only}\n", registry.host());
        workstation.write("agent.toml", table);
        let mut command = workstation.command(&["inspect", &registry.reference(REPO, "v1")]);
        let output = case.run(command.env("SSL_CERT_FILE", system));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(inspects(&other, false).0, Some(0), "the system's count");
    let (code, said) = inspects(&other, true);
    assert!(code == Some(69) && said.contains("no secure connection"), "{said}");
    assert_eq!(inspects(&registry, true).0, Some(0));
    let workstation = Workstation::with_config("[registry.\"r.example\"]\nca_only = true\n");
    assert!(workstation.fails(78, &["inspect", "r.example/a:b"]).contains("ca_only"));
}

#[tokio::test(flavor = "multi_thread")]
async fn login_that_others_can_read_is_warned_of() {
    let case = BOUNDS.start();
    let registry = Registry::builder().auth(Auth::basic("user", "s3cret")).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let any = registry.host().replace("127.0.0.1", "0.0.0.0");
    for (host, mode, keys, warnings) in [
        (registry.host(), 0o600, "", &[][..]),
        (registry.host(), 0o640, "", &[]),
        (registry.host(), 0o644, "", &["other users can read the credentials file"]),
        (any, 0o600, "insecure = true\n", &["a password is sent by plain http"]),
    ] {
        let workstation = workstation(&host, mode, keys);
        let mut command = workstation.command(&["inspect", &format!("{host}/{REPO}:v1")]);
        let output = case.run(command.env("no_proxy", "*"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        for text in ["other users can read the credentials file", "a password is sent by plain http"] {
            assert_eq!(said.matches(text).count(), usize::from(warnings.contains(&text)), "{host} {mode:o} {said}");
        }
    }
}
