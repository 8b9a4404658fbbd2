//! The form of docker's `config.json` and of containers-auth.json(5), and which of its entries counts for a repository.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::entry_key::EntryKey;
use crate::registry::Login;

/// As docker decodes it: the last bits before the padding are ignored.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
/// Bytes of a key that a message quotes.
const MAX_QUOTED: usize = 120;

/// The entry for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its login.
    Login(Login),
    /// The helper that may have it.
    Helper(String),
}

impl Found {
    /// The entry of a `config.json` for `repository` in `registry` (`HOST[:PORT]`): that with the longest path. A helper that
    /// is named for the registry counts more than any login, and a login more than the helper for everything. The error
    /// says what is wrong, and quotes keys, never values.
    pub fn find(bytes: &[u8], registry: &str, repository: &str) -> Result<Option<Self>, String> {
        let config = parse(bytes)?;
        let (mut helper, mut has_own_store) = (None, false);
        if let Some((key, name)) = matching(&config, "credHelpers", registry, repository)?.first() {
            let name = text_of(name).map_err(|()| format!("credHelpers {} is not a name", quoted(key)))?;
            // An empty one says that this file has the login.
            (helper, has_own_store) = (name.map(str::to_owned), true);
        }
        if helper.is_some() {
            return Ok(helper.map(Self::Helper));
        }
        for (key, entry) in matching(&config, "auths", registry, repository)? {
            // An entry may be empty, as one is whose login a helper has.
            let login = login(entry).map_err(|reason| format!("auths {}: {reason}", quoted(key)))?;
            if login.is_some() {
                return Ok(login.map(Self::Login));
            }
        }
        let store = field(&config, "credsStore").map_or(Ok(None), text_of);
        let store = store.map_err(|()| "credsStore is not a name".to_owned())?;
        Ok(store.filter(|_| !has_own_store).map(|name| Self::Helper(name.to_owned())))
    }
}

/// The members of a `config.json`; none of an empty file. The error quotes nothing of the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    // The parser's own message could quote a secret.
    match serde_json::from_str(text) {
        Ok(Value::Null) => Ok(Map::new()),
        Ok(Value::Object(config)) => Ok(config),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("line {} is not in the form of docker's config.json", error.line())),
    }
}

/// The members of a table whose key names the repository, or a part of the registry that it is in; the nearest first.
pub(super) fn matching<'a>(
    config: &'a Map<String, Value>,
    table: &str,
    registry: &str,
    repository: &str,
) -> Result<Vec<(&'a str, &'a Value)>, String> {
    let members = match field(config, table) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(format!("{table} is not a JSON object")),
    };
    let rank = |(key, value): (&'a String, &'a Value)| {
        let rank = EntryKey::parse(key).rank(registry, repository)?;
        Some((rank, key.as_str(), value))
    };
    let mut found: Vec<_> = members.iter().filter_map(rank).collect();
    found.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
    Ok(found.into_iter().map(|(_, key, value)| (key, value)).collect())
}

/// A member by its name, whose case does not matter if there is none in the right one: so docker reads it.
pub(super) fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// A text that is not empty; none for null.
pub(super) fn text_of(value: &Value) -> Result<Option<&str>, ()> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => Err(()),
    }
}

/// The login of an entry; none if it has none.
fn login(entry: &Value) -> Result<Option<Login>, String> {
    let entry = match entry {
        Value::Null => return Ok(None),
        Value::Object(entry) => entry,
        _ => return Err("it is not a JSON object".to_owned()),
    };
    let text = |name: &str| {
        field(entry, name).map_or(Ok(None), text_of).map_err(|()| format!("its member {name} is not a text"))
    };
    // Beside an identity token stands a user's name without a password.
    if let Some(token) = text("identitytoken")? {
        return Ok(Some(Login::Identity(token.to_owned())));
    }
    if let Some(auth) = text("auth")? {
        return decoded(auth).map_err(|reason| format!("its member auth {reason}"));
    }
    if let Some(token) = text("registrytoken")? {
        return Ok(Some(Login::Token(token.to_owned())));
    }
    let (username, password) = (text("username")?, text("password")?);
    let bytes = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
    let is_there = username.is_some() || password.is_some();
    Ok(is_there.then(|| Login::Password { username: bytes(username), password: bytes(password) }))
}

/// Base64 of `NAME:PASSWORD`, with or without line breaks, and with NULs around the password.
fn decoded(auth: &str) -> Result<Option<Login>, &'static str> {
    let packed: Vec<u8> = auth.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if packed.is_empty() {
        return Ok(None);
    }
    let plain = BASE64.decode(packed).map_err(|_| "is not base64")?;
    let colon = plain.iter().position(|byte| *byte == b':').ok_or("has no colon between name and password")?;
    let (username, password) = plain.split_at(colon);
    let password = password.get(1..).unwrap_or_default();
    let is_nul = |byte: &u8| *byte == 0;
    let start = password.iter().position(|byte| !is_nul(byte)).unwrap_or(password.len());
    let end = password.iter().rposition(|byte| !is_nul(byte)).map_or(start, |last| last + 1);
    let password = password.get(start..end).unwrap_or_default();
    let is_there = !username.is_empty() || !password.is_empty();
    Ok(is_there.then(|| Login::Password { username: username.to_vec(), password: password.to_vec() }))
}

fn quoted(key: &str) -> String {
    let short: String = key.chars().take(MAX_QUOTED).collect();
    // A URL may have a password in it.
    let shown = match short.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => short,
    };
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: &str = "edge/nginx";

    fn find(text: &str, registry: &str) -> Result<Option<Found>, String> {
        Found::find(text.as_bytes(), registry, REPO)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with a result")]
    fn password(username: &str, password: &str) -> Option<Found> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Some(Found::Login(Login::Password { username: bytes(username), password: bytes(password) }))
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is compared with a result")]
    fn helper(name: &str) -> Option<Found> {
        Some(Found::Helper(name.to_owned()))
    }

    #[test]
    fn the_nearest_path_counts_and_a_foreign_one_never() {
        let entry = |key: &str| format!(r#""{key}": {{"username": "{key}", "password": "p"}}"#);
        let all = ["h/aaa", "h/edge", "h/edge/nginx", "h/edge/nginx/x", "h/edge/ngin", "H", "https://h/v1/"];
        let mut entries: Vec<_> = all.map(entry).to_vec();
        let mut without = |key: &str| {
            entries.retain(|it| *it != entry(key));
            find(&format!(r#"{{"auths": {{{}}}}}"#, entries.join(",")), "h").unwrap()
        };
        assert_eq!(without(""), password("h/edge/nginx", "p"));
        assert_eq!(without("h/edge/nginx"), password("h/edge", "p"));
        assert_eq!(without("h/edge"), password("H", "p"));
        assert_eq!(without("H"), password("https://h/v1/", "p"));
        assert_eq!(without("https://h/v1/"), None);
    }

    #[test]
    fn empty_entries_are_skipped() {
        for text in [
            r#"{"auths": {"docker.io": {}, "https://index.docker.io/v1/": {"username": "u", "password": "p"}}}"#,
            r#"{"auths": {"docker.io": {"username": "u", "password": "p"}, "index.docker.io": {}}}"#,
            r#"{"auths": {"docker.io/edge": {"auth": ""}, "docker.io": {"auth": "dTpw"}}}"#,
            r#"{"auths": {"docker.io/edge": null, "docker.io": {"auth": "dTpw"}}}"#,
        ] {
            assert_eq!(find(text, "docker.io").unwrap(), password("u", "p"), "{text}");
        }
    }

    #[test]
    fn files_with_nothing_in_them_have_no_login() {
        for text in
            ["", " \n\t", "null", "{}", "\u{feff}{}", r#"{"auths": null}"#, r#"{"auths": {}, "credHelpers": null}"#]
        {
            assert_eq!(find(text, "h").unwrap(), None, "{text:?}");
        }
        let unknown =
            r#"{"HttpHeaders": {"a": 1}, "psFormat": [], "auths": {"x": 7, "h": {"auth": "dTpw", "email": 7}}}"#;
        assert_eq!(find(unknown, "h").unwrap(), password("u", "p"));
        assert_eq!(find(&format!("\u{feff}{unknown}"), "h").unwrap(), password("u", "p"));
        assert_eq!(find(r#"{"Auths": {"h": {"Auth": "dTpw"}}}"#, "h").unwrap(), password("u", "p"));
    }

    #[test]
    fn auth_is_decoded_as_docker_does() {
        let auth = |auth: &str| find(&serde_json::json!({"auths": {"h": {"auth": auth}}}).to_string(), "h");
        assert_eq!(auth("dXNlcjpwYTpzcw==").unwrap(), password("user", "pa:ss"));
        assert_eq!(auth("dXNl\ncjpw\r\nYTpzcw==\n").unwrap(), password("user", "pa:ss"));
        assert_eq!(auth(" dXNlcjpwYTpzcw== ").unwrap(), password("user", "pa:ss"));
        assert_eq!(auth(&BASE64.encode("user:pass\0\0")).unwrap(), password("user", "pass"));
        assert_eq!(auth(&BASE64.encode("user:")).unwrap(), password("user", ""));
        assert_eq!(auth(&BASE64.encode(":\0")).unwrap(), None);
        let latin = Login::Password { username: b"u".to_vec(), password: b"\xfc".to_vec() };
        assert_eq!(auth(&BASE64.encode(b"u:\xfc")).unwrap(), Some(Found::Login(latin)));
        for (wrong, reason) in [("s3cret!", "base64"), ("dXNlcjpwYTpzcw", "base64"), ("czNjcmV0", "colon")] {
            let error = auth(wrong).unwrap_err();
            assert!(error.contains("\"h\"") && error.contains(reason) && !error.contains("s3cret"), "{error}");
        }
        // What is wrong with an entry for something else does not matter.
        let other = r#"{"auths": {"other": {"auth": "s3cret!"}, "h/aaa": 7, "h": {"auth": "dTpw"}}}"#;
        assert_eq!(find(other, "h").unwrap(), password("u", "p"));
    }

    #[test]
    fn auth_counts_more_than_the_name_and_password_beside_it() {
        for beside in
            [r#""username": "", "password": """#, r#""username": "x", "password": "y""#, r#""username": null"#]
        {
            let text = format!(r#"{{"auths": {{"h": {{{beside}, "auth": "dTpw"}}}}}}"#);
            assert_eq!(find(&text, "h").unwrap(), password("u", "p"), "{beside}");
        }
        let text = r#"{"auths": {"h": {"username": "", "password": ""}}}"#;
        assert_eq!(find(text, "h").unwrap(), None);
    }

    #[test]
    fn an_identity_token_counts_more_than_the_name_beside_it() {
        let login = find(r#"{"auths": {"h": {"auth": "dXNlcjo=", "identitytoken": "s3cret"}}}"#, "h").unwrap();
        assert_eq!(login, Some(Found::Login(Login::Identity("s3cret".to_owned()))));
        assert!(!format!("{login:?}").contains("s3cret"));
        let login = find(r#"{"auths": {"h": {"registrytoken": "t"}}}"#, "h").unwrap();
        assert_eq!(login, Some(Found::Login(Login::Token("t".to_owned()))));
    }

    #[test]
    fn helpers_serve_one_registry_or_all_without_login() {
        let text = r#"{"auths": {"a.example": {}, "b.example": {"username": "u", "password": "p"},
            "c.example/edge": {"auth": "dTpw"}, "d.example": {}},
            "credHelpers": {"C.example": "ecr-login", "e.example/edge": "x", "e.example/aaa": "y", "d.example": ""},
            "credsStore": "pass"}"#;
        assert_eq!(find(text, "c.example").unwrap(), helper("ecr-login"));
        assert_eq!(find(text, "b.example").unwrap(), password("u", "p"));
        assert_eq!(find(text, "a.example").unwrap(), helper("pass"));
        assert_eq!(find(text, "e.example").unwrap(), helper("x"));
        assert_eq!(Found::find(text.as_bytes(), "e.example", "other").unwrap(), helper("pass"));
        assert_eq!(find(text, "d.example").unwrap(), None, "an empty name stands for the file");
    }

    #[test]
    fn broken_entries_are_named_without_secrets() {
        for (text, part) in [
            (r#"{"auths": {"h": "s3cret"}}"#, "auths \"h\""),
            (r#"{"auths": {"h": {"auth": ["s3cret"]}}}"#, "auth"),
            (r#"{"auths": "s3cret"}"#, "auths"),
            (r#"{"credHelpers": {"h": {"s3cret": 1}}}"#, "credHelpers"),
            (r#"{"credsStore": ["s3cret"]}"#, "credsStore"),
            ("{\n\"auths\": s3cret", "line 2"),
            ("[\"s3cret\"]", "object"),
            (r#"{"auths": {"https://u:s3cret@h/": {}, "h": 7}}"#, "auths \"h\""),
        ] {
            let error = find(text, "h").unwrap_err();
            assert!(error.contains(part) && !error.contains("s3cret"), "{error}");
        }
    }
}
