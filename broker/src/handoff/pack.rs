//! Pieces of results packed with LZ4, where that saves time.
//!
//! One core packs some hundred megabytes a second and unpacks several times as many, so a link below
//! that gains by whatever is saved, and a fast network or a local socket never does. How fast a link
//! is, its sender sees from how long writes take; whether a result is worth it, from its first piece.

use std::time::Duration;

use bytes::Bytes;
use lz4_flex::block;

use super::frame::{FrameError, PACKED};
use crate::limits::HANDOFF_CHUNK_BYTES;

/// A client that takes packed pieces cancels a request of this number, which it never makes. Servers
/// that know of no packing know of no such request either.
pub const TAKES_PACKED: u32 = u32::MAX;
/// Smaller pieces cross any link in less time than it is worth to think about.
const PIECE_MIN: usize = 16 << 10;
/// Links that take fewer bytes a second are slow: half of what a core packs.
const SLOW: f64 = 250e6;
/// So many bytes say how fast a link is: more than its buffers usually take at once.
const SAMPLE: usize = 4 << 20;
/// A slow link counts as slow for so many bytes, before it is measured again.
const TRUSTED: usize = 64 << 20;

/// What the sender of a connection knows of its link.
#[derive(Debug, Default)]
pub struct Packer {
    /// What was sent since the last judgement, and how long it took.
    sent: usize,
    took: Duration,
    /// Bytes for which the link counts as slow.
    slow: usize,
}

impl Packer {
    /// Whether a result that has not turned out to be [plain](Piece::Plain) is to be packed.
    pub fn is_slow(&self) -> bool {
        self.slow > 0
    }

    /// The link has taken so many bytes in so much time, as they were.
    pub fn wrote(&mut self, bytes: usize, took: Duration) {
        self.sent += bytes;
        self.took += took;
        if self.sent < SAMPLE {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
        let sent = self.sent as f64;
        if sent < SLOW * self.took.as_secs_f64() {
            self.slow = TRUSTED;
        }
        (self.sent, self.took) = (0, Duration::ZERO);
    }

    /// A piece as it should be sent over a slow link.
    pub fn pack(&mut self, piece: &[u8]) -> Piece {
        self.slow = self.slow.saturating_sub(piece.len());
        if piece.len() < PIECE_MIN {
            return Piece::Plain;
        }
        let mut packed = vec![0; block::get_maximum_output_size(piece.len())];
        match block::compress_into(piece, &mut packed) {
            Ok(length) if length <= piece.len() / 8 * 7 => {
                packed.truncate(length);
                Piece::Packed(Bytes::from(packed))
            }
            _ => Piece::Plain,
        }
    }
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// It takes an eighth less, or better.
    Packed(Bytes),
    /// It hardly gets smaller, and what follows of its result will not either.
    Plain,
}

/// Appends the `length` bytes that were packed.
///
/// # Errors
/// [`FrameError`] when they are more than a piece has, or others than was said. What is in `buffer`
/// then is of no use.
pub fn unpack(packed: &[u8], length: usize, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = buffer.len();
    if length > HANDOFF_CHUNK_BYTES {
        return Err(FrameError::Malformed(PACKED));
    }
    buffer.resize(start + length, 0);
    match block::decompress_into(packed, &mut buffer[start..]) {
        Ok(unpacked) if unpacked == length => Ok(()),
        _ => Err(FrameError::Malformed(PACKED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn text() -> Vec<u8> {
        b"2026-11-23,Aachen,17.4;".iter().copied().cycle().take(HANDOFF_CHUNK_BYTES).collect()
    }

    #[test]
    fn only_slow_links_are_worth_it() {
        let mut fast = Packer::default();
        for _ in 0..100 {
            fast.wrote(MIB, Duration::from_millis(1));
        }
        assert!(!fast.is_slow());
        let mut slow = Packer::default();
        for _ in 0..3 {
            slow.wrote(MIB, Duration::from_millis(10));
            assert!(!slow.is_slow(), "not known yet");
        }
        slow.wrote(MIB, Duration::from_millis(10));
        assert!(slow.is_slow());
        for _ in 0..TRUSTED / HANDOFF_CHUNK_BYTES {
            assert!(slow.is_slow() && matches!(slow.pack(&text()), Piece::Packed(_)));
        }
        assert!(!slow.is_slow(), "measured again");
    }

    #[test]
    fn pieces_come_back_as_they_were() {
        let Piece::Packed(packed) = Packer::default().pack(&text()) else { panic!("it is text") };
        assert!(packed.len() < text().len() / 10);
        let mut buffer = b"before".to_vec();
        unpack(&packed, text().len(), &mut buffer).unwrap();
        assert_eq!(buffer, [&b"before"[..], &text()].concat());
    }

    #[test]
    fn what_does_not_get_smaller_is_sent_as_it_is() {
        let noise: Vec<u8> = (0_u64..32 << 10)
            .flat_map(|n| blake3::hash(&n.to_be_bytes()).as_bytes()[..8].to_vec())
            .collect();
        assert_eq!(Packer::default().pack(&noise[..HANDOFF_CHUNK_BYTES]), Piece::Plain);
        assert_eq!(Packer::default().pack(&text()[..PIECE_MIN - 1]), Piece::Plain, "too small");
    }

    #[test]
    fn other_bytes_than_was_said_are_refused() {
        let Piece::Packed(packed) = Packer::default().pack(&text()) else { panic!("it is text") };
        let length = text().len();
        for (bytes, said) in [
            (&packed[..], length - 1),
            (&packed[..], length + 1),
            (&packed[..packed.len() - 1], length),
            (&packed[1..], length),
            (&[][..], 1),
            (&[255; 64][..], HANDOFF_CHUNK_BYTES),
        ] {
            let refused = Err(FrameError::Malformed(PACKED));
            assert_eq!(unpack(bytes, said, &mut Vec::new()), refused, "{said}");
        }
        let bomb = block::compress(&vec![0; 2 * HANDOFF_CHUNK_BYTES]);
        let refused = unpack(&bomb, 2 * HANDOFF_CHUNK_BYTES, &mut Vec::new());
        assert_eq!(refused, Err(FrameError::Malformed(PACKED)), "more than a piece");
    }
}
