//! Which requests are meant, and which of them in turn.

use hyper::Method;

use super::endpoint::Kind;
use super::journal::Request;

/// A pattern over requests: what is not narrowed down matches all.
///
/// `On::blobs().get().repo("edge/nginx")` are the downloads of blobs of one repository.
#[derive(Clone, Debug, Default)]
pub struct On {
    kind: Option<Kind>,
    method: Option<Method>,
    repo: Option<String>,
    reference: Option<String>,
    uri: Option<String>,
}

impl On {
    pub fn any() -> Self {
        Self::default()
    }

    pub fn kind(kind: Kind) -> Self {
        Self { kind: Some(kind), ..Self::default() }
    }

    pub fn ping() -> Self {
        Self::kind(Kind::Ping)
    }

    pub fn manifests() -> Self {
        Self::kind(Kind::Manifest)
    }

    pub fn blobs() -> Self {
        Self::kind(Kind::Blob)
    }

    pub fn uploads() -> Self {
        Self::kind(Kind::Upload)
    }

    pub fn tags() -> Self {
        Self::kind(Kind::Tags)
    }

    pub fn referrers() -> Self {
        Self::kind(Kind::Referrers)
    }

    pub fn token() -> Self {
        Self::kind(Kind::Token)
    }

    pub fn method(self, method: Method) -> Self {
        Self { method: Some(method), ..self }
    }

    pub fn get(self) -> Self {
        self.method(Method::GET)
    }

    pub fn head(self) -> Self {
        self.method(Method::HEAD)
    }

    pub fn repo(self, repo: &str) -> Self {
        Self { repo: Some(repo.to_owned()), ..self }
    }

    /// The tag or the digest that stands in the path.
    pub fn reference(self, reference: &str) -> Self {
        Self { reference: Some(reference.to_owned()), ..self }
    }

    /// A part of path and query, as sent: for what the other patterns do not tell, such as `?ns=`.
    pub fn uri(self, part: &str) -> Self {
        Self { uri: Some(part.to_owned()), ..self }
    }

    /// Lets the first `count` matching requests pass.
    pub fn skip(self, count: u64) -> Turns {
        Turns::from(self).skip(count)
    }

    /// Means `count` matching requests, not all of them.
    pub fn times(self, count: u64) -> Turns {
        Turns::from(self).times(count)
    }

    pub fn once(self) -> Turns {
        self.times(1)
    }

    pub fn matches(&self, request: &Request) -> bool {
        let endpoint = &request.endpoint;
        self.kind.is_none_or(|kind| kind == endpoint.kind)
            && self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.repo.as_ref().is_none_or(|repo| *repo == endpoint.repo)
            && self.reference.as_ref().is_none_or(|reference| *reference == endpoint.reference)
            && self.uri.as_ref().is_none_or(|part| request.uri.contains(part))
    }
}

/// A pattern, and which of the requests that match it are meant: all, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Turns {
    on: On,
    skip: u64,
    times: u64,
}

impl Turns {
    pub fn skip(self, count: u64) -> Self {
        Self { skip: count, ..self }
    }

    pub fn times(self, count: u64) -> Self {
        Self { times: count, ..self }
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    pub fn matches(&self, request: &Request) -> bool {
        self.on.matches(request)
    }

    /// Whether the request that came after `earlier` matching ones is meant.
    pub fn include(&self, earlier: u64) -> bool {
        earlier.checked_sub(self.skip).is_some_and(|turn| turn < self.times)
    }
}

impl From<On> for Turns {
    fn from(on: On) -> Self {
        Self { on, skip: 0, times: u64::MAX }
    }
}
