//! Challenges of registries, one header line a line.

use eci_agent::registry::{Challenge, Scope};

const REGISTRY: &str = "https://registry.example.com";
const GOOD: &[u8] = b"Basic realm=\"x\"";

pub fn fuzz(data: &[u8]) {
    let lines = || data.split(|byte| *byte == b'\n');
    let is_named = |scheme: &[u8]| data.to_ascii_lowercase().windows(scheme.len()).any(|part| part == scheme);
    match Challenge::among(lines(), REGISTRY) {
        Some(Challenge::Bearer(realm)) => {
            assert!(is_named(b"bearer"), "{data:?}");
            if let Ok(url) = realm.address(REGISTRY) {
                assert!(url.scheme() == "https" && url.has_host(), "a password goes there: {url}");
            }
            if let Some(scope) = realm.scope {
                assert_eq!(Scope::parse(&scope.to_string()), scope, "it is asked for as it was named");
            }
        }
        Some(Challenge::Basic) => assert!(is_named(b"basic"), "{data:?}"),
        None => {}
    }
    assert!(Challenge::among(lines().chain([GOOD]), REGISTRY).is_some(), "a good line after it is hidden: {data:?}");
    assert!(Challenge::among([GOOD].into_iter().chain(lines()), REGISTRY).is_some(), "one before it is: {data:?}");
}
