//! Bytes that other processes and later versions must be able to read. When a format changes on
//! purpose, it gets a new magic and `BLESS=1 cargo test -p bolthole-broker --test golden` writes the
//! new files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bolthole_broker::args::Arg;
use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::run::Ready;
use bolthole_broker::store::Epoch;
use bolthole_broker::task::{Backoff, TaskClass, TaskKind, TaskOptions};
use bytes::Bytes;

/// The bytes of a golden file, which are to be `current`.
fn golden(name: &str, current: &[u8]) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, current).unwrap();
    }
    let stored = std::fs::read(&path).unwrap();
    assert!(stored == current, "{name} is no longer what this version writes");
    Bytes::from(stored)
}

fn chunk() -> Chunk {
    let options = TaskOptions {
        retries: 3,
        backoff: Backoff { first: Duration::from_millis(1_500), max: Duration::from_secs(60) },
        timeout: Some(Duration::from_secs(600)),
        queue: "large".to_owned(),
        priority: -2,
        resources: BTreeMap::from([("gpu".to_owned(), 1)]),
        not_before_ms: Some(1_700_000_000_000),
        expires_ms: Some(1_800_000_000_000),
        name: Some("process a day".to_owned()),
    };
    let process = TaskClass {
        task: "etl::process".to_owned(),
        signature: "(day: & Day, reference: & Reference) -> Day".to_owned(),
        kind: TaskKind::Effect,
        options,
    };
    let id = |index| TaskId::new(3, index);
    Chunk {
        classes: vec![process, TaskClass::relay("default")],
        tasks: vec![
            Descriptor {
                id: id(256),
                class: 0,
                inputs: vec![TaskId::new(0, 65_535), TaskId::new(2, 1), id(0), id(255)],
                successors: vec![id(257), id(65_535)],
                args: vec![
                    Arg::List(vec![Arg::Input(3), Arg::Value(Bytes::from_static(b"\xc0"))]),
                    Arg::Blob { digest: [0xab; 32], length: 1 << 20 },
                ],
            },
            Descriptor {
                id: id(257),
                class: 1,
                inputs: vec![id(256)],
                successors: vec![],
                args: vec![Arg::Input(0)],
            },
        ],
    }
}

#[test]
fn chunks_are_as_they_were() {
    let chunk = chunk();
    let stored = golden("chunk_v1.bin", &chunk.encode().unwrap());
    assert_eq!(Chunk::decode(&stored, 3), Ok(chunk));
}

#[test]
fn parcels_are_as_they_were() {
    let rearmed = TaskId::new(1, 7);
    let parcel = Parcel {
        run: RunId::new(1_700_000_000_000, 0x0123_4567_89ab_cdef),
        epoch: Epoch("0123456789abcdef0123456789abcdef01234567".to_owned()),
        tasks: vec![
            Ready::first(TaskId::new(3, 256)),
            Ready::first(TaskId::new(3, 257)),
            Ready { generation: 2, forwarded: Some(TaskId::new(1 << 31, 0)), task: rearmed },
        ],
        chunks: vec![(3, chunk())],
    };
    let stored = golden("parcel_v1.bin", &parcel.encode().unwrap());
    assert_eq!(Parcel::decode(&stored), Ok(parcel));
}
