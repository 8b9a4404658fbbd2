//! Records of pax extended headers.

use eci_agent::unpack::pax_records;

pub fn fuzz(data: &[u8]) {
    let mut read = 0;
    for record in pax_records(data) {
        let Ok(record) = record else { return };
        assert!(!record.key.is_empty() && !record.key.contains(&b'='), "{record:?}");
        let content = record.key.len() + record.value.len() + 3;
        // The length counts its own digits, and may have zeros before it.
        let rest = data.get(read..).unwrap_or_default();
        let digits = rest.iter().position(|byte| *byte == b' ').unwrap_or_default();
        let end = read + digits + content;
        let written = data.get(read + digits + 1..end).unwrap_or_default();
        assert_eq!(written, [record.key, b"=", record.value, b"\n"].concat(), "it is read as it was written");
        read = end;
    }
    assert!(data.get(read..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0)), "all of it is read");
}
