//! Frames of AMQP 0-9-1 as they arrive, without the properties that are too large. Pure.
//!
//! ```text
//! type (1 byte) · channel (2) · length (4) · payload · end (1)
//! the payload of type 2: class (2) · weight (2) · length of the body (8) · properties
//! ```

use crate::limits::PROPERTIES_BYTES_MAX;

/// The type of the frames that carry properties.
const CONTENT_HEADER: u8 = 2;
/// Type, channel, length.
const HEAD: usize = 7;
/// Class, weight, length of the body.
const FIXED: usize = 12;
/// Properties that say that there are none.
const NONE: [u8; 2] = [0; 2];

/// Lets frames pass, in pieces of any size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Strainer {
    /// The beginning of a frame that has not been decided on.
    begun: Vec<u8>,
    /// Bytes that do not pass, the first of what comes next.
    drop: usize,
    /// Bytes that pass, the first of what comes after those.
    pass: usize,
}

impl Strainer {
    /// Appends to `passed` what may pass of the next bytes.
    pub(crate) fn strain(&mut self, mut bytes: &[u8], passed: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.drop > 0 {
                let count = self.drop.min(bytes.len());
                self.drop -= count;
                bytes = &bytes[count..];
            } else if self.pass > 0 {
                let count = self.pass.min(bytes.len());
                self.pass -= count;
                passed.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
            } else {
                let wanted = if self.begun.len() < HEAD { HEAD } else { HEAD + FIXED };
                let count = (wanted - self.begun.len()).min(bytes.len());
                self.begun.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.decide(passed);
            }
        }
    }

    /// Decides on the frame that has begun, once enough of it is there.
    fn decide(&mut self, passed: &mut Vec<u8>) {
        let Some(&[kind, channel_a, channel_b, a, b, c, d]) = self.begun.first_chunk::<HEAD>()
        else {
            return;
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let large = kind == CONTENT_HEADER && length > FIXED + PROPERTIES_BYTES_MAX;
        if !large {
            // The byte that ends the frame passes with it.
            self.pass = length + 1;
        } else if let Some(fixed) = self.begun.get(HEAD..HEAD + FIXED) {
            let [.., left] = ((FIXED + NONE.len()) as u64).to_be_bytes();
            let head = [kind, channel_a, channel_b, 0, 0, 0, left];
            passed.extend(head.iter().chain(fixed).chain(&NONE));
            // Nothing unusual: the broker writes down where what was delayed comes from.
            tracing::debug!(bytes = length, "the properties of a message are too large: left out");
            self.begun.clear();
            (self.drop, self.pass) = (length - FIXED, 1);
            return;
        } else {
            return;
        }
        passed.append(&mut self.begun);
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::parsing::parse_field_table;
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &length, payload, &[0xce]].concat()
    }

    fn header(properties: usize) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        payload.resize(FIXED + properties, 0xab);
        frame(CONTENT_HEADER, &payload)
    }

    /// A table of one array of arrays, in so many bytes.
    fn nested(bytes: usize) -> Vec<u8> {
        let mut inside = Vec::new();
        while inside.len() + 5 + 6 <= bytes {
            let length = u32::try_from(inside.len()).unwrap().to_be_bytes();
            inside = [&b"A"[..], &length, &inside].concat();
        }
        let table = [&b"\x01x"[..], &inside].concat();
        [&u32::try_from(table.len()).unwrap().to_be_bytes()[..], &table].concat()
    }

    #[test]
    fn large_properties_are_left_out_and_all_else_passes() {
        let body = frame(3, &vec![7; 100_000]);
        let whole = header(PROPERTIES_BYTES_MAX);
        let bytes = [&frame(1, b"deliver")[..], &whole, &body, &header(100_000), &body].concat();
        let mut none = header(0);
        none.splice(HEAD + FIXED..HEAD + FIXED, NONE);
        none[HEAD - 1] += 2;
        let expected = [&frame(1, b"deliver")[..], &whole, &body, &none, &body].concat();
        let mut passed = Vec::new();
        Strainer::default().strain(&bytes, &mut passed);
        assert!(passed == expected, "{} bytes, not {}", passed.len(), expected.len());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_bytes_arrive(
            lengths in prop::collection::vec((1_u8..4, 0_usize..3 * PROPERTIES_BYTES_MAX), 0..8),
            noise: Vec<u8>,
            pieces in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let frames = lengths.iter().map(|(kind, length)| frame(*kind, &vec![1; *length]));
            let bytes = [frames.collect::<Vec<_>>().concat(), noise].concat();
            let mut whole = Vec::new();
            Strainer::default().strain(&bytes, &mut whole);
            let (mut strainer, mut passed, mut rest) = (Strainer::default(), Vec::new(), &bytes[..]);
            for piece in pieces.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*piece));
                if piece.is_empty() {
                    break;
                }
                strainer.strain(piece, &mut passed);
                rest = after;
            }
            prop_assert_eq!(passed, whole);
        }
    }

    #[test]
    fn what_passes_fits_half_of_a_thread_s_stack() {
        let reading = || {
            let table = nested(PROPERTIES_BYTES_MAX);
            assert!(table.len() <= PROPERTIES_BYTES_MAX);
            let (rest, table) = parse_field_table(&table[..]).unwrap();
            assert!(rest.is_empty());
            drop(table.clone());
        };
        // A stack that is too small ends this process.
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(reading).unwrap();
        thread.join().unwrap();
    }
}
