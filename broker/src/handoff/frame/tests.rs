use std::fs;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{RunId, TaskId};
use crate::limits::{HANDOFF_CHUNK_BYTES, HANDOFF_KEYS_MAX};

fn key(nonce: u64) -> ResultKey {
    let run = RunId::from_bytes([7; 16]);
    ResultKey { run, task: TaskId::new(2, 3), generation: 4, nonce }
}

/// One frame of every kind, with the name of its golden file.
fn examples() -> Vec<(&'static str, Frame)> {
    let (request, index, length) = (0x0102_0304, 5, 1 << 33);
    let digest = Digest::of(b"result");
    let bytes = Bytes::from_static(b"some bytes");
    let who = Incarnation::new(0xabcd);
    vec![
        ("hello", Frame::Hello { version: VERSION, nonce: [1; 32], expected: who }),
        ("challenge", Frame::Challenge { version: VERSION, nonce: [2; 32], actual: who }),
        ("proof", Frame::Proof([3; 32])),
        ("welcome", Frame::Welcome([4; 32])),
        ("goodbye", Frame::Goodbye(Reason::Version)),
        ("get", Frame::Get { request, keys: vec![key(1), key(u64::MAX)] }),
        ("cancel", Frame::Cancel { request }),
        ("ping", Frame::Ping { request }),
        ("drop", Frame::Drop(vec![key(9)])),
        ("offer", Frame::Offer { request, key: key(9), length, digest }),
        ("push", Frame::Push { request, bytes: bytes.clone() }),
        ("found", Frame::Found { request, index, length, digest }),
        ("not_held", Frame::NotHeld { request, index }),
        ("chunk", Frame::Chunk { request, index, bytes: bytes.clone() }),
        ("packed", Frame::Packed { request, index, length: 300, bytes }),
        ("pong", Frame::Pong { request }),
        ("accepted", Frame::Accepted { request }),
        ("stored", Frame::Stored { request }),
        ("refused", Frame::Refused { request, reason: Reason::Draining }),
    ]
}

fn encode(frame: &Frame) -> Bytes {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out.freeze()
}

/// Decodes one frame and checks that it takes all the bytes.
fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (prefix, body) = bytes.split_first_chunk().expect("a prefix");
    let prefix = Prefix::parse(*prefix)?;
    assert_eq!(prefix.length, body.len(), "the announced length");
    Frame::decode(prefix.kind, body)
}

/// The bytes on the wire are a contract: a change of these files needs a new version. To write
/// those of a new frame, run with `BOLTHOLE_GOLDEN=write`.
#[test]
fn frames_are_the_golden_ones() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden"));
    for (name, frame) in examples() {
        let path = folder.join(format!("handoff_{name}.bin"));
        let encoded = encode(&frame);
        if std::env::var_os("BOLTHOLE_GOLDEN").is_some_and(|mode| mode == "write") {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &encoded).unwrap();
        }
        let golden = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(encoded, golden, "{name}");
        assert_eq!(decode(&golden), Ok(frame), "{name}");
    }
}

#[test]
fn every_kind_has_an_example() {
    let mut kinds: Vec<u8> = examples().iter().map(|(_, frame)| frame.kind()).collect();
    kinds.sort_unstable();
    let known: Vec<u8> = (0..=u8::MAX).filter(|kind| Prefix::new(*kind, 0).is_ok()).collect();
    assert_eq!(kinds, known);
}

#[test]
fn a_body_that_is_cut_or_extended_is_refused() {
    for (name, frame) in examples() {
        let bytes = encode(&frame);
        let (kind, body) = (bytes[4], &bytes[PREFIX_BYTES..]);
        for length in 0..body.len() {
            match Frame::decode(kind, &body[..length]) {
                // What carries a list or bytes is whole at other lengths too, but never the same.
                Ok(other) => assert_ne!(other, frame, "{name} cut to {length}"),
                Err(error) => assert_eq!(error, FrameError::Malformed(kind), "{name}"),
            }
        }
        let longer = [body, &[0]].concat();
        assert_ne!(Frame::decode(kind, &longer).as_ref(), Ok(&frame), "{name}");
    }
}

#[test]
fn no_length_beyond_its_kinds_bound_is_accepted() {
    let bound = |kind, length: usize| Prefix::new(kind, length).is_ok();
    assert!(bound(CHUNK, 8 + HANDOFF_CHUNK_BYTES) && !bound(CHUNK, 9 + HANDOFF_CHUNK_BYTES));
    assert!(bound(PUSH, 4 + HANDOFF_CHUNK_BYTES) && !bound(PUSH, 5 + HANDOFF_CHUNK_BYTES));
    assert!(bound(16, 4 + HANDOFF_KEYS_MAX * KEY_BYTES));
    assert!(!bound(16, 5 + HANDOFF_KEYS_MAX * KEY_BYTES));
    assert_eq!(Prefix::parse([0, 0, 0, 0, 1]), Err(FrameError::Length { kind: 1, length: 0 }));
    assert!(Prefix::parse([255, 255, 255, 255, CHUNK]).is_err());
    // One key more than a request may have does not fit a drop frame's keys either.
    let body = vec![0; (HANDOFF_KEYS_MAX + 1) * KEY_BYTES];
    assert!(Frame::decode(19, &body).is_err());
}

#[test]
fn keys_out_of_range_are_refused() {
    let mut body = encode(&Frame::Drop(vec![key(1)])).slice(PREFIX_BYTES..).to_vec();
    body[16] = 1;
    assert_eq!(Frame::decode(19, &body), Err(FrameError::Malformed(19)));
}

proptest! {
    #[test]
    fn no_prefix_makes_anyone_allocate_beyond_the_bound(bytes in any::<[u8; PREFIX_BYTES]>()) {
        if let Ok(prefix) = Prefix::parse(bytes) {
            prop_assert!(prefix.length <= 8 + HANDOFF_CHUNK_BYTES);
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(kind in any::<u8>(), body in vec(any::<u8>(), 0..600)) {
        if let Ok(frame) = Frame::decode(kind, &body) {
            // What decodes is exactly what would have been encoded.
            let encoded = encode(&frame);
            prop_assert_eq!(&encoded[PREFIX_BYTES..], &body[..]);
            prop_assert_eq!(encoded[4], kind);
        }
    }

    #[test]
    fn known_kinds_with_any_body(which in 0..18_usize, body in vec(any::<u8>(), 0..200)) {
        let kind = examples()[which].1.kind();
        if let Ok(frame) = Frame::decode(kind, &body) {
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }
    }

    #[test]
    fn requests_of_any_keys_read_back(
        request in any::<u32>(),
        nonces in vec(any::<u64>(), 0..100),
    ) {
        let frame = Frame::Get { request, keys: nonces.into_iter().map(key).collect() };
        prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
    }
}
