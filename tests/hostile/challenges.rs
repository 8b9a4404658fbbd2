//! Challenges and token services: realms that lead elsewhere, and challenges without end.

use super::server::Server;
use super::{Bounds, kib, mib, secs};
use crate::common::image::Image;
use crate::common::registry::{Auth, Fault, On, Refusals, Registry};
use crate::common::workstation::Workstation;

const REPO: &str = "edge/nginx";
const BOUNDS: Bounds = Bounds { memory: mib(128), wire: kib(64), requests: 40, within: secs(30) };

fn registry(challenges: Vec<Vec<u8>>) -> Registry {
    let registry = Registry::builder().auth(Auth::bearer()).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    registry.set_refusals(Refusals { challenge: challenges, ..Refusals::default() });
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn realms_of_other_schemes_are_refused() {
    let workstation = Workstation::new();
    for realm in
        ["file:///etc/passwd", "gopher://127.0.0.1:70/x", "//127.0.0.1/x", "/token", "javascript:1", "http://", "x"]
    {
        let case = BOUNDS.start();
        let registry = registry(vec![format!("Bearer realm=\"{realm}\",service=\"s\"").into_bytes()]);
        let output = case.run(&workstation.command(&["inspect", &registry.reference(REPO, "v1")]));
        assert!(matches!(output.status.code(), Some(69 | 77)), "{realm}: {output:?}");
        assert_eq!(registry.count(&On::token()), 0, "{realm}");
        case.registry(&registry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirect_of_a_token_service_is_not_followed_elsewhere() {
    let case = BOUNDS.start();
    let other = Server::start(|_, answer| answer.answer(200, "", r#"{"token": "T"}"#));
    let registry = Registry::builder().auth(Auth::bearer()).serve();
    Image::new("v1").publish(&registry, REPO, "v1");
    let fault = registry.inject(On::token(), Fault::Redirect(other.url("/token")));
    let inspect = Workstation::new();
    let inspect = inspect.command(&["inspect", &registry.reference(REPO, "v1")]);
    assert!(!case.run(&inspect).status.success());
    assert_eq!(other.heads(), Vec::<String>::new());
    fault.remove();
    case.registry(&registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_challenges_end_cleanly() {
    let workstation = Workstation::new();
    let long = |count: usize| "a".repeat(count);
    for (name, challenges) in [
        ("realm", vec![format!("Bearer realm=\"https://127.0.0.1:1/{}\"", long(200_000)).into_bytes()]),
        (
            "scope",
            vec![format!("Bearer realm=\"https://127.0.0.1:1/\",scope=\"{}\"", "a:b:c ".repeat(30_000)).into_bytes()],
        ),
        ("many", (0..90).map(|n| format!("Bearer realm=\"https://127.0.0.1:1/{n}\"").into_bytes()).collect()),
        ("quotes", vec![format!("Bearer realm=\"{}", "\\\"".repeat(30_000)).into_bytes()]),
        ("commas", vec![",".repeat(60_000).into_bytes()]),
    ] {
        let case = BOUNDS.start();
        let registry = registry(challenges);
        let output = case.run(&workstation.command(&["inspect", &registry.reference(REPO, "v1")]));
        assert!(matches!(output.status.code(), Some(69 | 77)), "{name}: {:?}", output.status);
        assert!(output.stderr.len() < 4096, "{name}: the message has {} bytes", output.stderr.len());
        case.registry(&registry);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_token_answers_are_cut() {
    let case = Bounds { memory: mib(128), wire: mib(32), requests: 20, within: secs(30) }.start();
    let service = Server::start(|_, answer| {
        answer.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"token\": \"");
        answer.send_for_ever(&[b'a'; 1 << 16]);
    });
    let registry = registry(vec![format!("Bearer realm=\"{}\"", service.url("/token")).into_bytes()]);
    let output = case.run(&Workstation::new().command(&["inspect", &registry.reference(REPO, "v1")]));
    assert!(matches!(output.status.code(), Some(69 | 77)), "{output:?}");
    case.server(&service).registry(&registry);
}
