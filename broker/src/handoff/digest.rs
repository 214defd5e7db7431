//! What results are checked against wherever they arrive: from a peer, from a disk, computed again.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The XXH3 hash of 128 bits. It tells what a bad disk, memory or wire has changed, at the speed of
/// memory; who may send anything at all is for the handshake to say, and for TLS what a wire may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of `bytes`. Takes about a millisecond for 20 MiB: not for threads that do I/O.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes).to_be_bytes())
    }

    /// The 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The digest of 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({:032x})", u128::from_be_bytes(self.0))
    }
}

/// The digest of bytes that come piece by piece.
#[derive(Default)]
pub struct Digester(Box<Xxh3>);

impl Digester {
    /// Takes in the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces.
    pub fn finish(&self) -> Digest {
        Digest(self.0.digest128().to_be_bytes())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_no_difference_and_every_byte_does() {
        let mut bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let whole = Digest::of(&bytes);
        for size in [1, 7, 1_024, 99_999, 100_000] {
            let mut digester = Digester::default();
            bytes.chunks(size).for_each(|piece| digester.update(piece));
            assert_eq!(digester.finish(), whole, "{size}");
        }
        for place in [0, 50_000, 99_999] {
            bytes[place] ^= 1;
            assert_ne!(Digest::of(&bytes), whole);
            bytes[place] ^= 1;
        }
        // The reference implementation's, of nothing: a change here is a change of protocol.
        assert_eq!(format!("{:?}", Digest::of(b"")), "Digest(99aa06d3014798d86001c324468d497f)");
    }
}
