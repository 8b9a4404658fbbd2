//! What a registry answers to a request that it does not let in: how to prove who asks (RFC 9110, 11.6.1).

use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

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
    /// The way that an answer offers: by token where it has the choice, for that shows a password to the token service
    /// alone. None where it offers nothing that we can do.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::among(headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()))
    }

    /// The same of the values of the header.
    pub fn among<'a>(offers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let offered: Vec<Self> = offers
            .flat_map(ChallengeParser::new)
            .map_while(Result::ok)
            .filter_map(|challenge| read(&challenge))
            .collect();
        let bearer = offered.iter().find(|offer| matches!(offer, Self::Bearer(_)));
        bearer.or_else(|| offered.first()).cloned()
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

fn read(challenge: &ChallengeRef<'_>) -> Option<Challenge> {
    let parameter = |name: &str| {
        let mut found = challenge.params.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.to_unescaped())
    };
    if challenge.scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let scope = parameter("scope").map(|scope| Scope::parse(&scope));
    Some(Challenge::Bearer(Realm { url: parameter("realm")?, service: parameter("service"), scope }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        Challenge::of(&values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().unwrap())).collect())
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
        assert_eq!(challenge(&["BASIC realm=\"x\""]), Some(Challenge::Basic));
        for nothing in ["Negotiate", "Bearer service=\"x\"", "", "\"", "Bearer realm"] {
            assert_eq!(challenge(&[nothing]), None, "{nothing}");
        }
        assert_eq!(challenge(&[]), None);
    }
}
