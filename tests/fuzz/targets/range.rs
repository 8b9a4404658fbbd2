//! `Range` headers to `eci serve`: the size of a blob, then the header.

use eci_agent::publish::serve::Wanted;

pub fn fuzz(data: &[u8]) {
    let Some((size, header)) = data.split_first_chunk() else { return };
    let (size, Ok(header)) = (u64::from_le_bytes(*size), std::str::from_utf8(header)) else { return };
    match Wanted::of(Some(header), size) {
        Wanted::Part(part) => {
            assert!(part.start < part.end && part.end <= size, "{part:?} of {size}");
            let again = Wanted::of(Some(&format!("bytes={}-{}", part.start, part.end - 1)), size);
            assert_eq!(again, Wanted::Part(part));
        }
        Wanted::Beyond => assert!(header.starts_with("bytes=")),
        Wanted::Whole => {}
    }
}
