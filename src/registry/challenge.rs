//! Challenges of a registry that refuses a request (RFC 9110, section 11.6.1).

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::auth::www_authenticate::{self, RawChallenge};
use super::scope::Scope;

/// A way to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With a token, which another service gives out.
    Bearer(Realm),
    /// With name and password.
    Basic,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// The token service's URL.
    pub(super) url: String,
    /// What the registry calls itself there.
    pub(super) service: Option<String>,
    /// What the registry says that a token has to allow.
    pub scope: Option<Scope>,
}

impl Challenge {
    /// The challenge of an answer from `registry`, which is a URL, to meet. See [`Self::among`].
    pub(super) fn of(headers: &HeaderMap, registry: &str) -> Option<Self> {
        Self::among(lines(headers), registry)
    }

    /// The challenge to meet among those in the lines of the header: by token if possible, because only the token
    /// service then sees the password. A token service whose address cannot be used counts if there is no other way. None if no
    /// challenge can be met.
    pub fn among<'a>(lines: impl Iterator<Item = &'a [u8]>, registry: &str) -> Option<Self> {
        let offered: Vec<Self> = www_authenticate::parse(lines).iter().filter_map(read).collect();
        let is_bearer = |offer: &&Self| matches!(offer, Self::Bearer(realm) if realm.address(registry).is_ok());
        let chosen = offered.iter().find(is_bearer).or_else(|| offered.iter().find(|offer| **offer == Self::Basic));
        chosen.or_else(|| offered.first()).cloned()
    }

    /// The names of the schemes that an answer offers, for a message.
    pub(super) fn schemes(headers: &HeaderMap) -> Vec<String> {
        let mut schemes: Vec<_> = www_authenticate::parse(lines(headers)).into_iter().map(|one| one.scheme).collect();
        schemes.retain(|scheme| !scheme.is_empty() && scheme.len() <= 40);
        schemes.truncate(5);
        schemes
    }
}

impl Realm {
    /// Where to ask for a token, sent by `registry`, which is a URL: one that is reached by HTTPS does not get its users'
    /// passwords sent by HTTP. The error says what is wrong with the address.
    pub fn address(&self, registry: &str) -> Result<Url, &'static str> {
        let url = Url::parse(&self.url).map_err(|_| "its token service has an address that is no URL")?;
        if !matches!(url.scheme(), "http" | "https") || (registry.starts_with("https:") && url.scheme() != "https") {
            return Err("its token service is not reached by https");
        }
        Ok(url)
    }
}

fn lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes)
}

fn read(challenge: &RawChallenge) -> Option<Challenge> {
    match challenge.scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let scope = challenge.param("scope").map(|scope| Scope::parse(&scope));
            let (url, service) = (challenge.param("realm")?, challenge.param("service"));
            Some(Challenge::Bearer(Realm { url, service, scope }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let headers = values.iter().map(|text| (WWW_AUTHENTICATE, value(text))).collect();
        Challenge::of(&headers, "https://r.example")
    }

    #[test]
    fn a_token_service_is_found_among_the_offers() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let realm = Realm {
            url: "https://auth.example/token".to_owned(),
            service: Some("r.example".to_owned()),
            scope: Some(Scope::push("a/b")),
        };
        let expected = Some(Challenge::Bearer(realm));
        assert_eq!(challenge(&[bearer]), expected);
        assert_eq!(challenge(&["Basic realm=x", bearer]), expected);
        assert_eq!(challenge(&[&format!("Negotiate, Basic realm=\"a, b\", {bearer}")]), expected);
        assert_eq!(challenge(&["Negotiate YII=", "Basic realm=\"für\"", bearer]), expected);
        assert_eq!(challenge(&["BASIC realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate YII=, Basic realm=/"]), Some(Challenge::Basic));
        for nothing in ["Negotiate", "Bearer service=\"x\"", "", "\"", "Bearer realm"] {
            assert_eq!(challenge(&[nothing]), None, "{nothing}");
        }
        assert_eq!(challenge(&[]), None);
    }

    #[test]
    fn an_unusable_token_service_counts_less_than_basic() {
        for realm in ["r.example", "http://auth.example/token", "ftp://auth.example/"] {
            let bearer = format!("Bearer realm=\"{realm}\"");
            assert_eq!(challenge(&[&bearer, "Basic realm=x"]), Some(Challenge::Basic), "{realm}");
            // Alone, it is an error that says what is wrong with it.
            assert!(matches!(challenge(&[&bearer]), Some(Challenge::Bearer(_))), "{realm}");
        }
        let good = "Bearer realm=\"https://auth.example/token\"";
        let Some(Challenge::Bearer(realm)) = challenge(&["Bearer realm=r.example", good]) else { panic!() };
        assert_eq!(realm.url, "https://auth.example/token");
    }
}
