//! What a commit costs the Redis server, by its own count: run with
//! `cargo bench -p bolthole-tests --bench store`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::BTreeMap;
use std::io::Write as _;

use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::locator::Locator;
use bolthole_broker::run::{Activate, Commit, Committed, End, Finished, Open, OutboxId, Stage};
use bolthole_broker::state::FailurePolicy;
use bolthole_broker::store::{Redis, Store};
use bolthole_tests::servers::{self, RedisOptions, RedisServer};
use bytes::Bytes;

/// Half of a segment: the tasks committed in one run; the other half are their successors.
const TASKS: u16 = 32_768;

/// What commits do beside finishing tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    Releases,
    Frees,
    Stores,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut out = std::io::stdout();
    let server = RedisServer::start(&RedisOptions::default()).unwrap();
    let redis = Redis::connect(&server.url(), &servers::namespace()).await.unwrap();
    let store = Store::Redis(redis);
    for kind in [Kind::Nothing, Kind::Releases, Kind::Frees, Kind::Stores] {
        for size in [1, 16, 64, 256] {
            let micros = measure(&server, &store, kind, size).await;
            writeln!(out, "{kind:?} {size}: {micros} µs").unwrap();
        }
    }
}

async fn measure(server: &RedisServer, store: &Store, kind: Kind, size: u16) -> String {
    let run = clock::new_run_id();
    let open = Open {
        name: None,
        digest: [0; 32],
        policy: FailurePolicy::FailFast,
        header: BTreeMap::new(),
        client_lease_ms: 60_000,
        retention_ms: 60_000,
    };
    store.open(run, &open).await.unwrap();
    let all = 2 * usize::from(TASKS);
    let pending = (0..all).map(|task| u32::from(task >= TASKS.into())).collect();
    let digest = [1; 16];
    let chunks = vec![Bytes::from_static(b"chunk"); all / 128];
    let stage = Stage { segment: 0, digest, pending, consumers: vec![1; all], chunks };
    store.stage(run, &stage).await.unwrap();
    let activate = Activate { segment: 0, digest, cursor: 0, edges: vec![], last: true };
    store.activate(run, &activate).await.unwrap();
    server.cli(["CONFIG", "RESETSTAT"]).unwrap();
    let commits = 500.min(TASKS / size);
    for number in 0..commits {
        let commit = commit(kind, size, number);
        let reply = store.commit(run, &commit).await.unwrap();
        let Committed::Written { ready, freed, .. } = reply else { panic!("{reply:?}") };
        assert_eq!(ready.len(), if kind == Kind::Releases { size.into() } else { 0 });
        assert_eq!(freed.len(), if kind == Kind::Frees { size.into() } else { 0 });
    }
    let stats = server.cli(["INFO", "commandstats"]).unwrap();
    let line = stats.lines().find(|line| line.starts_with("cmdstat_fcall:")).unwrap();
    let micros = line.split(',').find_map(|part| part.strip_prefix("usec_per_call="));
    store.purge(run).await.unwrap();
    micros.unwrap().to_owned()
}

fn commit(kind: Kind, size: u16, number: u16) -> Commit {
    let first = number * size;
    let end = || match kind {
        Kind::Stores => End::Done {
            locator: Locator::Stored { length: 40 },
            record: Bytes::from_static(&[7; 40]),
            keep: false,
        },
        _ => {
            End::Done { locator: Locator::embed(b"1").unwrap(), record: Bytes::new(), keep: false }
        }
    };
    let tasks = first..first + size;
    let finished =
        tasks.clone().map(|index| Finished { index, generation: 0, end: end(), lease: None });
    let each = |shift: u16| {
        tasks.clone().map(move |index| (TaskId::new(0, index + shift), 1)).collect::<Vec<_>>()
    };
    Commit {
        segment: 0,
        finished: finished.collect(),
        releases: if kind == Kind::Releases { each(TASKS) } else { vec![] },
        // Each task frees itself: as much work as freeing an input.
        consumed: if kind == Kind::Frees { each(0) } else { vec![] },
        outbox: OutboxId {
            owner: bolthole_broker::id::Incarnation::new(7),
            sequence: number.into(),
        },
        settled: if number > 0 { vec![u64::from(number) - 1] } else { vec![] },
        spawn: None,
    }
}
