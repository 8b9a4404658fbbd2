//! What a URL names: the endpoint of the distribution API, and the parameters of its query.

/// The endpoints of the distribution API, as far as a test tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v2/`
    Ping,
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest,
    /// `/v2/NAME/blobs/DIGEST`
    Blob,
    /// `/v2/NAME/blobs/uploads/[SESSION]`
    Upload,
    /// `/v2/NAME/tags/list`
    Tags,
    /// `/v2/NAME/referrers/DIGEST`
    Referrers,
    /// `/token`
    Token,
    /// Any other path.
    Unknown,
}

/// An endpoint with the repository and the reference that its path names; either is empty where it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub kind: Kind,
    pub repo: String,
    /// A tag, a digest or an upload session.
    pub reference: String,
}

impl Endpoint {
    /// Reads a path from its end, because a repository's name may hold any number of slashes.
    pub fn parse(path: &str) -> Self {
        let path = decode(path);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (kind, repo, reference): (_, &[&str], _) = match segments.as_slice() {
            ["token"] => (Kind::Token, &[], ""),
            ["v2"] | ["v2", ""] => (Kind::Ping, &[], ""),
            ["v2", repo @ .., "blobs", "uploads"] => (Kind::Upload, repo, ""),
            ["v2", repo @ .., "blobs", "uploads", session] => (Kind::Upload, repo, *session),
            ["v2", repo @ .., "blobs", digest] => (Kind::Blob, repo, *digest),
            ["v2", repo @ .., "manifests", reference] => (Kind::Manifest, repo, *reference),
            ["v2", repo @ .., "referrers", digest] => (Kind::Referrers, repo, *digest),
            ["v2", repo @ .., "tags", "list"] => (Kind::Tags, repo, ""),
            _ => (Kind::Unknown, &[], ""),
        };
        Self { kind, repo: repo.join("/"), reference: reference.to_owned() }
    }
}

/// The parameters of a query, or of a form: the two are written alike.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(&value.replace('+', " ")))
        };
        Self(text.split('&').map(pair).collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// Every value of a parameter: a client may ask for several scopes at once.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent-encoding; an escape that is none stays as it is.
fn decode(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let escaped = piece.split_at_checked(2).and_then(|(hex, rest)| Some((u8::from_str_radix(hex, 16).ok()?, rest)));
        let (byte, rest) = escaped.unwrap_or((b'%', piece));
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
