//! Basic and Bearer, seen from a client that follows the challenge.

use super::super::{Auth, Fault, On, Registry};
use super::client::{Answer, Ask};

const MANIFEST: &str = "GET /v2/edge/nginx/manifests/v1";
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";
const TOKEN: &str = "GET /token?service=x&scope=repository%3Aedge%2Fnginx%3Apull";

fn registry(auth: impl Into<Auth>) -> Registry {
    let registry = Registry::builder().auth(auth).serve();
    registry.put_manifest("edge/nginx", Some("v1"), "x/y", "{}");
    registry
}

async fn with(authorization: &str, what: &str, registry: &Registry) -> Answer {
    Ask::new(what).header("Authorization", authorization).send(registry).await
}

/// Gets a token, and makes a header of it.
async fn token(ask: Ask, registry: &Registry) -> String {
    let answer = ask.send(registry).await;
    assert_eq!(answer.status(), 200);
    format!("Bearer {}", answer.json()["token"].as_str().unwrap())
}

#[tokio::test]
async fn basic_lets_in_the_one_user() {
    let registry = registry(Auth::basic("user", "secret"));
    for (user, password, encoded) in [("user", "secret", "dXNlcjpzZWNyZXQ="), ("a", "bc", "YTpiYw=="), ("", "", "Og==")]
    {
        registry.set_auth(Auth::basic(user, password));
        assert_eq!(with(&format!("Basic {encoded}"), MANIFEST, &registry).await.status(), 200);
        assert_eq!(with("Basic bm8=", MANIFEST, &registry).await.status(), 401);
    }
    registry.set_auth(Auth::Open);
    assert_eq!(Ask::new(MANIFEST).send(&registry).await.status(), 200);
}

#[tokio::test]
async fn a_challenge_names_realm_and_scope() {
    let registry = registry(Auth::bearer());
    let challenge = |what: &'static str| async { Ask::new(what).send(&registry).await };
    let pull = challenge(MANIFEST).await;
    let (realm, service) = (registry.url("/token"), registry.host());
    let expected = format!("Bearer realm=\"{realm}\",service=\"{service}\",scope=\"repository:edge/nginx:pull\"");
    assert_eq!((pull.status(), pull.header("www-authenticate")), (401, Some(expected.as_str())));
    let push = challenge("POST /v2/edge/nginx/blobs/uploads/").await;
    assert!(push.header("www-authenticate").unwrap().contains("repository:edge/nginx:pull,push"));
    assert!(!challenge("GET /v2/").await.header("www-authenticate").unwrap().contains("scope"));
}

#[tokio::test]
async fn a_token_is_good_for_its_scope_and_its_uses() {
    let registry = registry(Auth::bearer().uses(2));
    let first = token(Ask::new(TOKEN), &registry).await;
    assert_eq!(with(&first, "GET /v2/edge/other/manifests/v1", &registry).await.status(), 401);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(with(&first, MANIFEST, &registry).await.status());
    }
    assert_eq!(statuses, [200, 200, 401]);

    let second = token(Ask::new(TOKEN), &registry).await;
    assert_eq!(with(&second, MANIFEST, &registry).await.status(), 200);
    registry.revoke_tokens();
    let revoked = with(&second, MANIFEST, &registry).await;
    assert!(revoked.header("www-authenticate").unwrap().ends_with("error=\"invalid_token\""));
    assert_eq!(registry.count(&On::token()), 2);
}

#[tokio::test]
async fn a_token_is_given_for_a_login_or_an_identity_token() {
    let registry = registry(Auth::bearer().login("user", "secret").identity_token("me").expires_in(60));
    assert_eq!(Ask::new(TOKEN).send(&registry).await.status(), 401);
    assert_eq!(with(BASIC, TOKEN, &registry).await.json()["expires_in"], 60);

    let form = |identity| format!("grant_type=refresh_token&refresh_token={identity}&scope=repository:edge/nginx:pull");
    let post = |identity| Ask::new("POST /token").body(form(identity).as_bytes());
    assert_eq!(post("you").send(&registry).await.status(), 401);
    let bearer = token(post("me"), &registry).await;
    assert_eq!(with(&bearer, MANIFEST, &registry).await.status(), 200);
}

#[tokio::test]
async fn a_request_that_is_not_let_in_uses_up_no_fault() {
    let registry = registry(Auth::basic("user", "secret"));
    registry.inject(On::manifests().once(), Fault::status(500));
    assert_eq!(Ask::new(MANIFEST).send(&registry).await.status(), 401);
    assert_eq!(with(BASIC, MANIFEST, &registry).await.status(), 500);
    let log = registry.take_log();
    let seen: Vec<_> = log.iter().map(|request| request.authorization.as_deref()).collect();
    assert_eq!(seen, [None, Some(BASIC)]);
    assert_eq!((log[0].host.as_deref(), log[1].status().unwrap().as_u16()), (Some("registry"), 500));
    assert_eq!(registry.count(&On::any()), 0);
}
