//! What is to be known of the workers that are there.

use std::collections::BTreeMap;
use std::time::Duration;

use bolthole_broker::handoff::{Budget, FetchError, Fetcher, Peer};
use bolthole_broker::id::WorkerIndex;
use bolthole_broker::store::{Store, WorkerRecord};
use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use crate::cmd::report::Report;
use crate::servers::Servers;

/// How long one data port may take to answer.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// Data ports that are asked at the same time.
const PROBES: usize = 32;

type Workers = [(WorkerIndex, WorkerRecord)];

pub(super) async fn examine(servers: &Servers, store: &Store) -> Report {
    let mut report = Report::default();
    let workers = match store.workers().await {
        Ok(workers) => workers,
        Err(error) => {
            report.bad("workers", &error.to_string(), "let this user read the keys bh:*");
            return report;
        }
    };
    if workers.is_empty() {
        let todo = "start your program as a worker, with the same environment and namespace";
        report.doubtful("workers", "none is there", todo);
        return report;
    }
    count(&mut report, &workers);
    probe(&mut report, servers, &workers).await;
    signatures(&mut report, &workers);
    report
}

fn count(report: &mut Report, workers: &Workers) {
    let mut queues: BTreeMap<&str, u32> = BTreeMap::new();
    let mut slots = 0_u32;
    for (_, record) in workers {
        slots = slots.saturating_add(record.slots);
        for queue in &record.queues {
            let of_queue = queues.entry(queue).or_default();
            *of_queue = of_queue.saturating_add(record.slots);
        }
    }
    let queues: Vec<String> =
        queues.into_iter().map(|(queue, slots)| format!("{queue} ({slots})")).collect();
    let queues = queues.join(", ");
    let says = format!("{} with {slots} slots; slots by queue: {queues}", workers.len());
    report.good("workers", &says);
}

/// Whether large results could be fetched from here.
async fn probe(report: &mut Report, servers: &Servers, workers: &Workers) {
    let fetcher = Fetcher::new(servers.cluster_secret().as_ref(), Budget::new(0));
    let asked = workers.iter().filter(|(_, record)| !record.address.is_empty());
    let answers: Vec<_> = stream::iter(asked)
        .map(|(index, record)| {
            let peer = Peer { addr: record.address.clone(), incarnation: record.incarnation };
            let fetcher = fetcher.clone();
            async move {
                let answer = timeout(PROBE_DEADLINE, fetcher.probe(&peer)).await;
                let silent = FetchError::Unreachable {
                    addr: peer.addr.clone(),
                    cause: format!("no answer within {PROBE_DEADLINE:?}"),
                };
                (*index, answer.unwrap_or(Err(silent)))
            }
        })
        .buffered(PROBES)
        .collect()
        .await;
    let reached = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    let says = format!("{reached} of {} can be reached from here", answers.len());
    if reached == answers.len() {
        report.good("data ports", &says);
        return;
    }
    for (index, answer) in answers {
        let name = format!("worker {index}");
        match answer {
            Ok(()) => {}
            Err(error @ FetchError::Auth { .. }) => {
                let todo = "set BOLTHOLE_SECRET to what the workers have";
                report.bad(&name, &error.to_string(), todo);
            }
            Err(error) if error.is_lost() => {
                let todo = "if it was just stopped, its record runs out within 10 s; look again";
                report.doubtful(&name, &error.to_string(), todo);
            }
            Err(error) => {
                let todo = "open its data port to this machine, or set BOLTHOLE_ADVERTISE there";
                report.bad(&name, &error.to_string(), todo);
            }
        }
    }
}

/// Whether workers that know a task by the same name mean the same.
fn signatures(report: &mut Report, workers: &Workers) {
    let mut tasks: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for (index, record) in workers {
        for (task, signature) in &record.tasks {
            let found = tasks.entry(task).or_default().entry(signature).or_default();
            found.push(index.to_string());
        }
    }
    let count = tasks.len();
    let mut skewed = false;
    for (task, signatures) in tasks.into_iter().filter(|(_, signatures)| signatures.len() > 1) {
        skewed = true;
        let all = signatures.iter().map(|(text, on)| format!("{text} on {}", on.join(", ")));
        let all = all.collect::<Vec<_>>().join("; ");
        let todo = "build all workers and clients from the same source";
        report.bad("signatures", &format!("task {task:?} is {all}"), todo);
    }
    if !skewed {
        report.good("signatures", &format!("{count} tasks; all workers agree"));
    }
}
