//! Names of the algorithms that certificates use.

use std::fmt::Write;

use rustls::pki_types::{AlgorithmIdentifier, alg_id};

/// The keys and signatures that a registry's certificate may have, for messages.
pub(super) const SUPPORTED: &str = "RSA from 2048 to 8192 bits, ECDSA P-256, P-384 and \
    (in TLS 1.3) P-521, and Ed25519, with SHA-256, SHA-384 or SHA-512";
/// The keys that our own certificate may have, for messages.
pub(super) const SUPPORTED_KEYS: &str = "RSA from 2048 to 4096 bits, ECDSA P-256 and P-384, and Ed25519";

const KNOWN: [(AlgorithmIdentifier, &str); 11] = [
    (alg_id::ECDSA_P256, "ECDSA P-256"),
    (alg_id::ECDSA_P384, "ECDSA P-384"),
    (alg_id::ECDSA_P521, "ECDSA P-521"),
    (alg_id::ECDSA_P256K1, "ECDSA secp256k1"),
    (alg_id::ECDSA_SHA256, "ECDSA with SHA-256"),
    (alg_id::ECDSA_SHA384, "ECDSA with SHA-384"),
    (alg_id::ECDSA_SHA512, "ECDSA with SHA-512"),
    (alg_id::RSA_PKCS1_SHA256, "RSA with SHA-256"),
    (alg_id::RSA_PKCS1_SHA384, "RSA with SHA-384"),
    (alg_id::RSA_PKCS1_SHA512, "RSA with SHA-512"),
    (alg_id::ED448, "Ed448"),
];

/// Algorithms by the object identifiers that they begin with, in DER.
const BY_PREFIX: [(&[u8], &str); 9] = [
    (&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], "RSA"),
    (&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], "RSA with MD5"),
    (&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], "RSA with SHA-1"),
    (&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10], "RSA-PSS"),
    (&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 14], "RSA with SHA-224"),
    (&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], "ECDSA with SHA-1"),
    (&[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1], "ECDSA with SHA-224"),
    (&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], "DSA"),
    (&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], "ECDSA on a curve of another kind"),
];

/// The name of an algorithm, given the contents of its `AlgorithmIdentifier` in DER.
pub(super) fn name(id: &[u8]) -> String {
    let known = KNOWN.iter().find(|(known, _)| known.as_ref() == id).map(|(_, name)| *name);
    let known = known.or_else(|| BY_PREFIX.iter().find(|(prefix, _)| id.starts_with(prefix)).map(|(_, name)| *name));
    known.map_or_else(|| dotted(id), ToOwned::to_owned)
}

/// An object identifier in DER, in dotted form.
fn dotted(id: &[u8]) -> String {
    let Some((&[0x06, length], rest)) = id.split_first_chunk() else { return "an unknown algorithm".to_owned() };
    let (mut text, mut arc, mut is_first) = ("the algorithm ".to_owned(), 0_u64, true);
    for byte in rest.iter().take(usize::from(length).min(32)) {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if is_first {
            let top = (arc / 40).min(2);
            let _ = write!(text, "{top}.{}", arc - 40 * top);
        } else {
            let _ = write!(text, ".{arc}");
        }
        (arc, is_first) = (0, false);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_have_names() {
        assert_eq!(name(alg_id::ECDSA_P521.as_ref()), "ECDSA P-521");
        assert_eq!(name(&[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5, 0x05, 0]), "RSA with SHA-1");
        // brainpoolP256r1.
        let brainpool = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 9, 0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7];
        assert_eq!(name(&brainpool), "ECDSA on a curve of another kind");
        assert_eq!(name(&[0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 18]), "the algorithm 2.16.840.1.101.3.4.3.18");
        for odd in [&[][..], &[0x06], &[0x06, 200, 0xff], &[0x30, 1, 1]] {
            assert!(!name(odd).is_empty());
        }
    }
}
