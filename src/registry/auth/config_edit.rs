//! Changes of a `config.json`: the login of one registry is set or removed, and everything else stays.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use super::config_json::{matching, parse, text_of};
use super::entry_key::EntryKey;

/// Members of an entry that are a login, or a part of one.
const SECRETS: [&str; 5] = ["auth", "identitytoken", "registrytoken", "username", "password"];

/// A `config.json` that is to be changed.
#[derive(Debug)]
pub(in crate::registry) struct ConfigEdit(Map<String, Value>);

impl ConfigEdit {
    /// Reads the bytes of a file. The error quotes nothing of it.
    pub(in crate::registry) fn parse(bytes: &[u8]) -> Result<Self, String> {
        parse(bytes).map(Self)
    }

    /// The helper that stores logins for `registry`, as docker chooses it: the one that is named for the registry, else the
    /// one for everything.
    pub(in crate::registry) fn helper(&self, registry: &str) -> Result<Option<String>, String> {
        let named = matching(&self.0, "credHelpers", registry, "")?.first().map(|(_, name)| text_of(name));
        let name = match named {
            Some(name) => name.map_err(|()| "credHelpers has an entry for the registry that is not a name")?,
            None => self.member("credsStore").map_or(Ok(None), text_of).map_err(|()| "credsStore is not a name")?,
        };
        Ok(name.map(str::to_owned))
    }

    /// Sets the login of `registry`, under `key`. Without a login, the entry says only that a helper has one.
    pub(in crate::registry) fn set(
        &mut self,
        registry: &str,
        key: &str,
        login: Option<(&str, &str)>,
    ) -> Result<(), String> {
        let mut entry = match self.auths()?.and_then(|auths| auths.get(key)) {
            Some(Value::Object(entry)) => entry.clone(),
            _ => Map::new(),
        };
        self.remove(registry)?;
        entry.retain(|name, _| !SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret)));
        if let Some((username, password)) = login {
            entry.insert("auth".to_owned(), STANDARD.encode(format!("{username}:{password}")).into());
        }
        let name = self.member_name("auths").unwrap_or("auths").to_owned();
        let auths = self.0.entry(name).or_insert(Value::Null);
        if auths.is_null() {
            *auths = Map::new().into();
        }
        if let Value::Object(auths) = auths {
            auths.insert(key.to_owned(), entry.into());
        }
        Ok(())
    }

    /// Removes the entries for the whole of `registry`, under whichever of its names. True if one had a login.
    pub(in crate::registry) fn remove(&mut self, registry: &str) -> Result<bool, String> {
        self.auths()?;
        let Some(name) = self.member_name("auths").map(str::to_owned) else { return Ok(false) };
        let Some(Value::Object(auths)) = self.0.get_mut(&name) else { return Ok(false) };
        let mut had_login = false;
        auths.retain(|key, entry| {
            let is_other = EntryKey::parse(key).rank(registry, "").is_none();
            had_login |= !is_other && entry.as_object().is_some_and(|entry| !entry.is_empty());
            is_other
        });
        Ok(had_login)
    }

    /// The text of the file, indented as docker does it.
    pub(in crate::registry) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"\t"));
        self.0.serialize(&mut serializer).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn auths(&self) -> Result<Option<&Map<String, Value>>, String> {
        match self.member("auths") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(auths)) => Ok(Some(auths)),
            Some(_) => Err("auths is not a JSON object".to_owned()),
        }
    }

    fn member(&self, name: &str) -> Option<&Value> {
        self.0.get(self.member_name(name)?)
    }

    /// The name of a member as the file writes it, whose case docker ignores.
    fn member_name(&self, name: &str) -> Option<&str> {
        let found = self.0.get_key_value(name).map(|(key, _)| key);
        found.or_else(|| self.0.keys().find(|key| key.eq_ignore_ascii_case(name))).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Found, Login};

    const KEY: &str = "r.example:5000";

    fn edit(text: &str) -> ConfigEdit {
        ConfigEdit::parse(text.as_bytes()).unwrap()
    }

    fn value(edit: &ConfigEdit) -> Value {
        serde_json::from_slice(&edit.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn other_keys_and_entries_stay() {
        let before = serde_json::json!({
            "auths": {"other.example": {"auth": "b3RoZXI6cGFzcw=="}, "r.example:5000/edge": {"auth": "b3RoZXI6cGFzcw=="},
                "r.example": {"auth": "b3RoZXI6cGFzcw=="}},
            "HttpHeaders": {"a": "b"}, "psFormat": "table", "proxies": {"default": {"noProxy": "x"}},
            "credHelpers": {"ecr.example": "ecr-login"}, "number": 1.5, "large": u64::MAX,
        });
        let mut changed = edit(&before.to_string());
        changed.set(KEY, KEY, Some(("user", "pa:ss"))).unwrap();
        let mut expected = before.clone();
        expected["auths"][KEY] = serde_json::json!({"auth": "dXNlcjpwYTpzcw=="});
        assert_eq!(value(&changed), expected);
        assert!(changed.remove(KEY).unwrap());
        assert_eq!(value(&changed), before);
        assert!(!changed.remove(KEY).unwrap());
    }

    #[test]
    fn a_new_login_replaces_every_name_of_the_registry() {
        let hub = "https://index.docker.io/v1/";
        for old in ["docker.io", "index.docker.io", "registry-1.docker.io", hub, "Docker.io"] {
            let text =
                serde_json::json!({"auths": {old: {"auth": "b2xkOm9sZA==", "identitytoken": "old"}}}).to_string();
            let mut changed = edit(&text);
            changed.set("docker.io", hub, Some(("user", "new"))).unwrap();
            assert_eq!(value(&changed)["auths"], serde_json::json!({hub: {"auth": "dXNlcjpuZXc="}}), "{old}");
            let found = Found::find(&changed.to_bytes().unwrap(), "docker.io", "library/app").unwrap();
            let login = Login::Password { username: b"user".to_vec(), password: b"new".to_vec() };
            assert_eq!(found, Some(Found::Login(login)), "{old}");
        }
        for old in ["https://r.example:5000/v1/", "http://r.example:5000", "R.example:5000"] {
            let mut changed = edit(&format!(r#"{{"Auths": {{"{old}": {{"auth": "b2xkOm9sZA=="}}}}}}"#));
            changed.set(KEY, KEY, Some(("u", "p"))).unwrap();
            assert_eq!(value(&changed), serde_json::json!({"Auths": {KEY: {"auth": "dTpw"}}}), "{old}");
        }
    }

    #[test]
    fn members_of_an_entry_that_are_not_secret_stay() {
        let text =
            r#"{"auths": {"r.example:5000": {"email": "a@b", "Auth": "x", "username": "x", "identitytoken": "x"}}}"#;
        let mut changed = edit(text);
        changed.set(KEY, KEY, None).unwrap();
        assert_eq!(value(&changed), serde_json::json!({"auths": {KEY: {"email": "a@b"}}}));
    }

    #[test]
    fn empty_files_are_filled_and_broken_ones_are_not() {
        for text in ["", "null", "{}", "\u{feff}{}", r#"{"auths": null}"#] {
            let mut changed = edit(text);
            changed.set(KEY, KEY, Some(("u", "p"))).unwrap();
            assert_eq!(value(&changed), serde_json::json!({"auths": {KEY: {"auth": "dTpw"}}}), "{text}");
        }
        assert!(ConfigEdit::parse(b"[]").is_err() && ConfigEdit::parse(b"{").is_err());
        let mut wrong = edit(r#"{"auths": []}"#);
        assert!(wrong.set(KEY, KEY, Some(("u", "p"))).is_err() && wrong.remove(KEY).is_err());
    }

    #[test]
    fn helpers_are_chosen_as_docker_does() {
        let text = r#"{"credHelpers": {"a.example": "ecr-login", "b.example": "", "c.example/edge": "x"}, "credsStore": "pass"}"#;
        let helper = |registry: &str| edit(text).helper(registry).unwrap();
        assert_eq!(helper("a.example").as_deref(), Some("ecr-login"));
        assert_eq!(helper("b.example"), None);
        assert_eq!(helper("c.example").as_deref(), Some("pass"));
        assert_eq!(edit("{}").helper("a.example").unwrap(), None);
        assert!(edit(r#"{"credsStore": 1}"#).helper("a.example").is_err());
    }
}
