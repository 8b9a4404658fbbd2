//! Challenges of registries, one a line.

use eci_agent::registry::{Challenge, Scope};

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let offers = || text.lines();
    let is_named = |scheme: &str| text.to_ascii_lowercase().contains(scheme);
    match Challenge::among(offers()) {
        Some(Challenge::Bearer(realm)) => {
            assert!(is_named("bearer"), "{text:?}");
            if let Ok(url) = realm.address("https://registry.example.com") {
                assert!(url.scheme() == "https" && url.has_host(), "a password goes there: {url}");
            }
            if let Some(scope) = realm.scope {
                assert_eq!(Scope::parse(&scope.to_string()), scope, "it is asked for as it was named");
            }
        }
        Some(Challenge::Basic) => assert!(is_named("basic"), "{text:?}"),
        None => {}
    }
}
