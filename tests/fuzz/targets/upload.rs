//! Answers to an upload: where it goes on, and on a second line how much is there.

use eci_agent::registry::{upload_held, upload_location};

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (location, range) = text.split_once('\n').unwrap_or((text, text));
    for base in ["http://registry.example.com/v2/a/blobs/uploads/", "https://[::1]:5000/v2/a/blobs/uploads/1?state=2"] {
        let Ok(base) = base.parse() else { return };
        let Ok(next) = upload_location(&base, location) else { continue };
        assert!(next.has_host() && (next.scheme() == "https" || base.scheme() == "http"), "{next}");
        assert_eq!(upload_location(&next, next.as_str()).ok(), Some(next), "it leads to itself");
    }
    if let Some(held) = upload_held(range) {
        assert_eq!(upload_held(&format!("0-{}", held - 1)), Some(held));
        let digits = range.trim_end().rsplit('-').next().unwrap_or_default();
        assert!(digits.trim().bytes().all(|byte| byte.is_ascii_digit()), "{range:?}");
    }
}
