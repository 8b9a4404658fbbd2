//! What the answers to an upload say in their headers: where it goes on, and how much is there.

use reqwest::Url;

/// The URL that `Location` names, in an answer from `base`. Never from HTTPS to HTTP. The error says what is wrong.
pub fn upload_location(base: &Url, location: &str) -> Result<Url, String> {
    let next = base.join(location).map_err(|error| format!("it sends the upload to no address: {error}"))?;
    match (base.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(next),
        _ => Err("it sends the upload from https to http, or to something else".to_owned()),
    }
}

/// How many bytes `Range` says are there: `0-LAST`, with or without a unit before it.
pub fn upload_held(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let last = last.trim();
    // The parser of numbers would also take a sign.
    let is_right = first.trim() == "0" && last.bytes().all(|byte| byte.is_ascii_digit());
    is_right.then(|| last.parse::<u64>().ok()?.checked_add(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_goes_on_where_the_registry_says_but_never_in_the_clear() {
        let (plain, secure) = ("http://a.example/v2/x", "https://a.example/v2/x");
        let to = |base: &str, location| upload_location(&base.parse().unwrap(), location);
        let url = |text: &str| Ok(text.parse::<Url>().unwrap());
        assert_eq!(to(plain, "/y?z=1"), url("http://a.example/y?z=1"));
        assert_eq!(to(plain, "https://b.example/y"), url("https://b.example/y"));
        assert_eq!(to(secure, "/y"), url("https://a.example/y"));
        assert!(to(secure, "http://a.example/y").is_err());
        assert!(to(plain, "data:text/plain,x").is_err());
        assert!(to(plain, "http://[::1").is_err());
    }

    #[test]
    fn a_range_says_how_much_is_there() {
        assert_eq!(upload_held("0-99"), Some(100));
        assert_eq!(upload_held("bytes=0-99"), Some(100));
        for text in ["5-99", "0-", "0-x", "-", "0-+7", "0-18446744073709551615"] {
            assert_eq!(upload_held(text), None, "{text}");
        }
    }
}
