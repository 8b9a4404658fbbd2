//! References, as a person or a desired-state file writes them.

use eci_agent::oci::Reference;

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text, "it is displayed as it was written");
        if let Reference::Registry(reference) = &reference {
            let in_url = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
            assert!(reference.host.chars().all(in_url), "the host goes into a URL: {text:?}");
        }
    }
}
