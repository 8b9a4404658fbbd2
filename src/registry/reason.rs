//! The reason in the body of a refusal: the error document of the distribution specification, and what token services,
//! object stores and proxies send instead of it.

use serde_json::{Map, Value};

use crate::printable::is_unsafe_to_show;

/// Characters of a reason that a message shows.
const MAX_REASON: usize = 200;
/// Members of other JSON documents that hold a reason, the best first.
const MEMBERS: [&str; 6] = ["error_description", "message", "details", "detail", "title", "error"];
/// Elements of XML and HTML documents that hold a reason.
const ELEMENTS: [&str; 2] = ["message", "title"];

/// The reason in `body`, in one printable line; none if there is none. What looks like a credential is left out.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches('\u{feff}').trim();
    let found = match serde_json::from_str(text) {
        Ok(Value::Object(document)) => of_document(&document),
        Ok(Value::String(text)) => Some(text),
        Ok(_) => None,
        Err(_) if text.starts_with('<') => of_markup(text),
        // Of a document that was cut off, too little is known.
        Err(_) if text.starts_with(['{', '[']) || text.contains(['\0', '\u{fffd}']) => None,
        Err(_) => Some(text.to_owned()),
    };
    found.map(|reason| printable(&reason)).filter(|reason| !reason.is_empty())
}

fn of_document(document: &Map<String, Value>) -> Option<String> {
    let mut listed = document.get("errors").and_then(Value::as_array).into_iter().flatten();
    listed.find_map(of_error).or_else(|| MEMBERS.iter().find_map(|name| text_of(document.get(*name)?)))
}

/// One error of the distribution specification's document: its code, and its message, else its detail.
fn of_error(error: &Value) -> Option<String> {
    let Value::Object(error) = error else { return text_of(error) };
    let member = |name: &str| text_of(error.get(name)?);
    let parts: Vec<_> = member("code").into_iter().chain(member("message").or_else(|| member("detail"))).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The text of the first element that holds a reason.
fn of_markup(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    ELEMENTS.iter().find_map(|name| {
        let start = lower.find(&format!("<{name}>"))? + name.len() + 2;
        let end = start + lower.get(start..)?.find('<')?;
        text.get(start..end).map(str::to_owned)
    })
}

/// A text in one line, without credentials that the server repeats.
fn printable(text: &str) -> String {
    let mut is_credential = false;
    let words = text.split_whitespace().map(|word| {
        let word: String = word.chars().filter(|c| !is_unsafe_to_show(*c)).take(MAX_REASON).collect();
        let is_secret = is_credential || word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).starts_with("eyJ");
        let scheme = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        is_credential = ["bearer", "basic"].iter().any(|name| scheme.eq_ignore_ascii_case(name));
        if is_secret { "…".to_owned() } else { word }
    });
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_registries_token_services_and_proxies_are_found() {
        let cases: [(&str, &str); 19] = [
            (
                r#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest\u001b unknown"}]}"#,
                "MANIFEST_UNKNOWN manifest unknown",
            ),
            (r#"{"errors": [{"code": 403, "message": "expired"}]}"#, "403 expired"),
            (r#"{"errors": [{"code": "DENIED", "message": null, "detail": "expired"}]}"#, "DENIED expired"),
            (r#"{"errors": [{"code": "DENIED", "message": "", "detail": {"a": 1}}]}"#, "DENIED"),
            (r#"{"errors": [{"status": 401, "message": "expired"}]}"#, "expired"),
            (r#"{"errors": [{}, {"code": "X"}]}"#, "X"),
            (r#"{"errors": ["expired"]}"#, "expired"),
            (r#"{"details": "incorrect username or password"}"#, "incorrect username or password"),
            (r#"{"error": "invalid_grant", "error_description": "expired"}"#, "expired"),
            (r#"{"error": "invalid_grant"}"#, "invalid_grant"),
            (r#"{"message": "expired"}"#, "expired"),
            ("\u{feff}{\"message\": \"expired\"}", "expired"),
            (r#""expired""#, "expired"),
            ("expired:\r\n  log in again\n", "expired: log in again"),
            ("<html><head><title>403 Forbidden</title></head></html>", "403 Forbidden"),
            ("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>expired</Message></Error>", "expired"),
            (r#"{"message": "a\u202eb\u001b[31m"}"#, "ab[31m"),
            (
                r#"{"message": "no Bearer abc.def and \"Basic dTpw\" or eyJhbGciOiJub.x now"}"#,
                "no Bearer … and \"Basic … or … now",
            ),
            (r#"{"message": "Basic"}"#, "Basic"),
        ];
        for (body, expected) in cases {
            assert_eq!(reason(body.as_bytes()).as_deref(), Some(expected), "{body}");
        }
        assert_eq!(reason("x".repeat(5000).as_bytes()).unwrap().chars().count(), MAX_REASON);
    }

    #[test]
    fn bodies_without_a_reason_have_none() {
        for body in
            ["", " \n", "<html>", "<title>", "{}", "[]", "null", "7", r#"{"errors": []}"#, "{\"errors\": [{\"co"]
        {
            assert_eq!(reason(body.as_bytes()), None, "{body}");
        }
        for body in [b"\0\0x" as &[u8], b"\x1f\x8b\x08\xff"] {
            assert_eq!(reason(body), None, "{body:?}");
        }
    }
}
