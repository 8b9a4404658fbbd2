//! Ids of events, as a client sends them to go on from there.

use eci_agent::agent::EntryId;

pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<EntryId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
