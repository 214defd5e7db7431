//! Workers that are killed or stopped with tasks of several ages.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use bolthole::{Client, Handle};
use bolthole_broker::clock;
use bolthole_tests::cluster::{Cluster, Member, until};
use bolthole_tests::recovery::{Ledger, Start, hold, pass};
use bolthole_tests::servers::Pair;
use tokio::time::{Instant, sleep, sleep_until};

use crate::table::Table;

/// Tasks of each age.
const EACH: u64 = 4;
/// They end long after they are no longer needed.
const MILLIS: u64 = 600_000;
/// Ages in milliseconds when the worker is killed, the oldest first: its delivery acknowledged and
/// only a lease left; leased; just leased; too young for that.
const KILLED: [u64; 4] = [25_000, 5_000, 400, 50];
/// And when it is stopped.
const STOPPED: [u64; 3] = [5_000, 400, 50];
/// The lease of the workers that are stopped.
const LEASE: Duration = Duration::from_secs(3);

/// Kills workers.
pub(crate) async fn killed(repeats: usize, table: &mut Table) -> Result<()> {
    let pair = tokio::task::block_in_place(Pair::start)?;
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for _ in 0..repeats {
        round(&pair, &KILLED, &[], Member::kill, &mut times).await?;
    }
    for (what, times) in times {
        table.times(&format!("killed, {what}"), times, 500, 2_000);
    }
    Ok(())
}

/// Stops workers, as if their hosts were lost.
pub(crate) async fn stopped(repeats: usize, table: &mut Table) -> Result<()> {
    let pair = tokio::task::block_in_place(Pair::start)?;
    let lease = format!("{}s", LEASE.as_secs());
    let mut times: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for _ in 0..repeats {
        let mut stopped = Vec::new();
        let stop = |victim: Member| {
            let _ = victim.signal("STOP");
            stopped.push(victim);
        };
        round(&pair, &STOPPED, &[("BOLTHOLE_LEASE", &lease)], stop, &mut times).await?;
    }
    let most = u64::try_from(LEASE.as_millis())? + 1_000;
    for (what, times) in times {
        table.times(&format!("stopped, lease {lease}, {what}"), times, most, most);
    }
    Ok(())
}

/// Two workers with tasks of these ages; one of them ends by `harm`, and what it had is awaited.
async fn round(
    pair: &Pair,
    ages: &[u64],
    environment: &[(&str, &str)],
    harm: impl FnOnce(Member),
    times: &mut BTreeMap<String, Vec<u64>>,
) -> Result<()> {
    let cluster = Cluster::new(std::env::current_exe()?, pair)?;
    let ledger = Ledger::new(cluster.folder());
    let mut environment = environment.to_vec();
    environment.push(("BOLTHOLE_SLOTS", "32"));
    let one = cluster.worker_with("one", &environment).await?;
    let two = cluster.worker_with("two", &environment).await?;
    let client = cluster.client().await?;
    let (kinds, handles) = submit(&client, &ledger, ages).await?;
    let starts = ledger.starts()?;
    let share = |member: &Member| {
        let of = |starts: &Vec<Start>| starts.iter().any(|start| start.process == member.id());
        starts.values().filter(|starts| of(starts)).count()
    };
    let (victim, heir) = if share(&one) >= share(&two) { (one, two) } else { (two, one) };
    ensure!(share(&victim) > 0, "neither worker has a task");
    let process = victim.id();
    let at_ms = clock::unix_ms();
    harm(victim);
    for (number, kind) in kinds {
        let again = until("a lost task is started again", async || {
            let starts = ledger.starts()?.remove(&number).unwrap_or_default();
            let lost = starts.first().is_some_and(|start| start.process == process);
            let again = starts.iter().find(|start| start.process != process);
            Ok(if lost { again.map(|again| Some(again.at_ms)) } else { Some(None) })
        })
        .await?;
        if let Some(again) = again {
            times.entry(kind).or_default().push(again.saturating_sub(at_ms));
        }
    }
    for handle in handles {
        handle.in_run().cancel("measured").await?;
    }
    drop(heir);
    Ok(())
}

/// Tasks of each age, and some that other tasks have released; returns when they have these ages.
async fn submit(
    client: &Client,
    ledger: &Ledger,
    ages: &[u64],
) -> Result<(BTreeMap<u64, String>, Vec<Handle<u64>>)> {
    let (mut kinds, mut handles) = (BTreeMap::new(), Vec::new());
    let oldest = ages.first().copied().unwrap_or(0);
    let began = Instant::now();
    let mut number = 0;
    for age in ages {
        sleep_until(began + Duration::from_millis(oldest - age)).await;
        for _ in 0..EACH {
            number += 1;
            kinds.insert(number, format!("running for {age:>5} ms"));
            let task = hold::delayed(number, MILLIS, ledger.path());
            handles.push(client.submit(&task).await?);
        }
        if *age == oldest {
            for _ in 0..EACH {
                number += 1;
                kinds.insert(number, format!("released, running for {age:>5} ms"));
                let task =
                    hold::delayed(pass::delayed(number, ledger.path()), MILLIS, ledger.path());
                handles.push(client.submit(&task).await?);
            }
        }
        ledger.started(kinds.len() + usize::try_from(EACH)?).await?;
    }
    sleep(Duration::from_millis(ages.last().copied().unwrap_or(0))).await;
    Ok((kinds, handles))
}
