//! Digests, as documents and headers have them.

use eci_agent::oci::Digest;

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text, "one content has one name");
    }
}
