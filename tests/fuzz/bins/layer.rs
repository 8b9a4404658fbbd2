#![no_main]

#[path = "../targets/layer.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::fuzz(data));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    // One in eight keeps what the mutation made of its checksums.
    if seed % 8 != 0 {
        mend(&mut data[..size]);
    }
    size
});

const BLOCK: usize = 512;

/// Gives the headers of a tar their right checksums: hardly any mutation would get past the first one. What is
/// compressed, or no tar, stays as it is.
fn mend(tar: &mut [u8]) {
    let mut rest = tar;
    while let Some((header, content)) = rest.split_first_chunk_mut::<BLOCK>()
        && (header[257..].starts_with(b"ustar") || header[148..156].ends_with(b"\0 "))
    {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
        let next = size.unwrap_or(0).next_multiple_of(BLOCK);
        rest = content.get_mut(next..).unwrap_or_default();
    }
}
