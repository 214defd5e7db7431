//! Bytes that other processes and later versions must be able to read. When a format changes on
//! purpose, it gets a new magic and `BLESS=1 cargo test -p bolthole-broker --test golden` writes the
//! new files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bolthole_broker::args::Arg;
use bolthole_broker::control::Control;
use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::error::{TaskError, TaskErrorKind};
use bolthole_broker::id::{Incarnation, RunId, TaskId, WorkerIndex};
use bolthole_broker::locator::{Copies, HeldRecord, Locator};
use bolthole_broker::parcel::Parcel;
use bolthole_broker::presence::Presence;
use bolthole_broker::run::Ready;
use bolthole_broker::store::{Epoch, WorkerRecord};
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
        concurrency: None,
        not_before_ms: Some(1_700_000_000_000),
        expires_ms: Some(1_800_000_000_000),
        isolated: false,
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
                rank: 300,
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
                rank: 0,
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
        header: Some([("user".to_owned(), "ada".to_owned())].into()),
    };
    let stored = golden("parcel_v1.bin", &parcel.encode().unwrap());
    assert_eq!(Parcel::decode(&stored), Ok(parcel));
}

#[test]
fn locators_and_held_records_are_as_they_were() {
    let worker = WorkerIndex::new(0x0012_3456);
    let locators = [
        Locator::Empty,
        Locator::embed(b"").unwrap(),
        Locator::embed(b"1234567").unwrap(),
        Locator::Stored { length: 4_096 },
        Locator::held(worker, 5_000_000),
        Locator::Cause(TaskId::new(7, 9)),
    ];
    let copies = Copies::default();
    let record = HeldRecord { length: 5_000_000, digest: [0xcd; 16], nonce: 77, copies };
    let mut current: Vec<u8> = locators.iter().flat_map(|locator| locator.to_bytes()).collect();
    current.extend_from_slice(&record.to_bytes());
    let stored = golden("locators_v1.bin", &current);
    for (bytes, locator) in stored.chunks_exact(8).zip(locators) {
        assert_eq!(Locator::from_bytes(bytes.try_into().unwrap()), Ok(locator));
    }
    assert_eq!(HeldRecord::from_bytes(&stored[8 * locators.len()..]), Ok(record));
}

#[test]
fn results_that_outlive_their_holders_are_as_they_were() {
    let locator = Locator::apart(5_000_000);
    let worker = Some(WorkerIndex::new(0x0012_3456));
    let copies = Copies { worker, folder: true, store: true };
    let record = HeldRecord { length: 5_000_000, digest: [0xcd; 16], nonce: 77, copies };
    let stored = golden("copies_v1.bin", &[&locator.to_bytes()[..], &record.to_bytes()].concat());
    assert_eq!(Locator::from_bytes(stored[..8].try_into().unwrap()), Ok(locator));
    assert_eq!(HeldRecord::from_bytes(&stored[8..]), Ok(record));
}

#[test]
fn errors_are_as_they_were() {
    let error = TaskError {
        kind: TaskErrorKind::User,
        name: "etl::load".to_owned(),
        run: RunId::new(1_700_000_000_000, 5),
        task: TaskId::new(2, 300),
        attempt: 3,
        worker: "10.0.0.7:4000".to_owned(),
        chain: vec!["cannot read day.csv".to_owned(), "no such file".to_owned()],
        backtrace: Some("at src/main.rs:7".to_owned()),
        encoded: Some(Bytes::from_static(b"\xa4text")),
    };
    let stored = golden("task_error_v1.bin", &error.encode());
    assert_eq!(TaskError::decode(&stored), Some(error));
}

#[test]
fn control_messages_are_as_they_were() {
    let message = Control::Ended(RunId::new(1_700_000_000_000, 5));
    let stored = golden("control_v1.bin", &message.encode());
    assert_eq!(Control::decode(&stored), Ok(message));
    let message = Control::Relay {
        run: RunId::new(1_700_000_000_000, 5),
        holder: WorkerIndex::new(0x01_0203),
        to: WorkerIndex::new(0x04_0506),
        tasks: vec![TaskId::new(2, 300), TaskId::new(2, 301)],
    };
    let stored = golden("control_relay_v1.bin", &message.encode());
    assert_eq!(Control::decode(&stored), Ok(message));
}

#[test]
fn presences_are_as_they_were() {
    let presence = Presence {
        index: WorkerIndex::new(0x01_0203),
        incarnation: Incarnation::new(0x0102_0304),
        address: "10.0.0.7:4000".to_owned(),
    };
    let stored = golden("presence_v1.bin", &presence.encode());
    assert_eq!(Presence::decode(&stored), Ok(presence));
}

#[test]
fn worker_records_are_as_they_were() {
    let run = RunId::new(1_700_000_000_000, 5);
    let record = WorkerRecord {
        incarnation: Incarnation::new(0x0102_0304),
        address: "10.0.0.7:4000".to_owned(),
        slots: 8,
        queues: vec!["default".to_owned(), "large".to_owned()],
        in_flight: vec![(run, vec![TaskId::new(0, 1), TaskId::new(2, 300)])],
        held_bytes: 1 << 30,
        tasks: vec![("etl::load".to_owned(), "(String) -> Day".to_owned())],
    };
    let stored = golden("worker_v1.bin", &record.encode().unwrap());
    assert_eq!(WorkerRecord::decode(&stored), Ok(record));
}
