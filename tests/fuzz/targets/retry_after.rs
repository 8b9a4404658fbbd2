//! Values of `Retry-After`: the time now in seconds since 1970, then the header.

use std::time::{Duration, SystemTime};

use eci_agent::registry::{MAX_RETRY_AFTER, parse_retry_after};

pub fn fuzz(data: &[u8]) {
    let Some((now, header)) = data.split_first_chunk() else { return };
    let (now, Ok(header)) = (u32::from_le_bytes(*now), std::str::from_utf8(header)) else { return };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.into());
    let Some(wait) = parse_retry_after(header, now) else { return };
    assert!(wait <= MAX_RETRY_AFTER, "{header:?} asks for {wait:?}");
    assert_eq!(parse_retry_after(&wait.as_secs().to_string(), now).map(|again| again.as_secs()), Some(wait.as_secs()));
    assert_eq!(parse_retry_after(&format!(" {header}\t"), now), Some(wait));
}
