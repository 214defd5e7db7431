//! Segments: staged, activated, and both at once.

use anyhow::{bail, ensure};
use bolthole_broker::clock;
use bolthole_broker::id::TaskId;
use bolthole_broker::run::{Activate, Activated, Committed, Open, Refused, Stage};
use bolthole_broker::state::RunState;
use bolthole_broker::store::{Error, Store};

use super::sample::{Sample, activate, open, task};

fn is_refused<T: std::fmt::Debug>(reply: &Result<T, Error>, as_what: &str) -> bool {
    let Err(Error::Refused(refused)) = reply else { return false };
    format!("{refused:?}").starts_with(as_what)
}

/// Malformed, foreign and late segments are refused, and leave nothing.
pub async fn refusals(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 3).await?;
    let run = sample.run;
    let good = Stage { segment: 1, ..sample.stage.clone() };
    let short = Stage { consumers: vec![0; 2], ..good.clone() };
    ensure!(is_refused(&store.stage(run, &short).await, "Malformed"));
    let bare = Stage { chunks: vec![], ..good.clone() };
    ensure!(is_refused(&store.stage(run, &bare).await, "Malformed"));
    let foreign = Stage { digest: [9; 16], ..sample.stage.clone() };
    ensure!(is_refused(&store.stage(run, &foreign).await, "Conflict"));
    let unstaged = Activate { segment: 1, ..activate() };
    ensure!(is_refused(&store.activate(run, &unstaged).await, "Malformed"));
    store.stage(run, &good).await?;
    let forged = [(TaskId::new(1, 0), 1), (task(9), 0), (TaskId::new(7, 0), 0)];
    for edge in forged {
        let activate = Activate { segment: 1, edges: vec![edge], ..activate() };
        ensure!(is_refused(&store.activate(run, &activate).await, "Malformed"), "{edge:?}");
    }
    ensure!(store.segments(run).await? == [0]);
    ensure!(store.inspect(run, &[TaskId::new(1, 0), task(3)]).await? == [None, None]);
    store.close(run).await?;
    let late = store.activate(run, &unstaged).await;
    ensure!(matches!(late, Err(Error::Refused(Refused::NotOpen(RunState::Closed)))), "{late:?}");
    store.purge(run).await?;
    Ok(())
}

/// 1: columns that are written again after activation change nothing.
pub async fn staged_again(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let reply = store.commit(sample.run, &sample.finish(&[0])).await?;
    ensure!(matches!(reply, Committed::Written { .. }));
    store.stage(sample.run, &sample.stage).await?;
    ensure!(store.activate(sample.run, &activate()).await? == Activated::Already);
    let ready = store.ready(sample.run, 0).await?;
    ensure!(ready.len() == 1 && ready[0].task == task(1), "{ready:?}");
    ensure!(
        store.chunks(sample.run, &[(0, 0), (0, 1)]).await?[0].as_deref() == Some(&b"chunk"[..])
    );
    store.purge(sample.run).await?;
    Ok(())
}

/// Staging and activating at once is the same as one after the other, and may be repeated; what is
/// refused is not activated.
pub async fn begun(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    let stage = Stage { segment: 1, ..sample.stage.clone() };
    let active = Activate { segment: 1, ..activate() };
    let short = Stage { consumers: vec![0; 1], ..stage.clone() };
    ensure!(is_refused(&store.begin(run, None, &short, &active, false).await, "Malformed"));
    ensure!(store.segments(run).await? == [0]);
    let ready = match store.begin(run, None, &stage, &active, false).await? {
        Activated::Active { ready } => ready,
        other => bail!("{other:?}"),
    };
    ensure!(ready == [0], "{ready:?}");
    ensure!(store.begin(run, None, &stage, &active, false).await? == Activated::Already);
    let foreign = Stage { digest: [9; 16], ..stage.clone() };
    ensure!(is_refused(&store.begin(run, None, &foreign, &active, false).await, "Conflict"));
    ensure!(store.segments(run).await? == [0, 1]);
    let edge = (task(0), 0);
    let later = Stage { segment: 2, ..stage };
    let slice = Activate { segment: 2, edges: vec![edge], last: false, ..activate() };
    let more = store.begin(run, None, &later, &slice, false).await?;
    ensure!(matches!(more, Activated::More { .. }), "{more:?}");
    store.purge(run).await?;

    let (run, unnamed) = (clock::new_run_id(), open());
    let (stage, first) = (&sample.stage, activate());
    ensure!(is_refused(&store.begin(run, None, stage, &first, false).await, "Unknown"));
    let begun = store.begin(run, Some(&unnamed), stage, &first, false).await?;
    ensure!(matches!(begun, Activated::Active { .. }), "{begun:?}");
    ensure!(store.runs().await?.contains(&run), "it is not listed");
    ensure!(store.begin(run, Some(&unnamed), stage, &first, false).await? == Activated::Already);
    let other = Open { digest: [9; 32], ..open() };
    ensure!(is_refused(&store.begin(run, Some(&other), stage, &first, false).await, "Conflict"));
    store.purge(run).await?;
    Ok(())
}

/// The last segment closes its run, and is answered again when the answer was lost; a different one
/// closes nothing.
pub async fn begun_and_closed(store: &Store) -> anyhow::Result<()> {
    let sample = Sample::chain(store, 2).await?;
    let run = sample.run;
    let stands = async || store.status(run).await.map(|status| status.map(|status| status.state));
    let first = activate();
    let foreign = Stage { digest: [9; 16], ..sample.stage.clone() };
    ensure!(is_refused(&store.begin(run, None, &foreign, &first, true).await, "Conflict"));
    ensure!(stands().await? == Some(RunState::Open));
    let stage = Stage { segment: 1, ..sample.stage.clone() };
    let last = Activate { segment: 1, ..activate() };
    let begun = store.begin(run, None, &stage, &last, true).await?;
    ensure!(matches!(begun, Activated::Active { .. }), "{begun:?}");
    ensure!(stands().await? == Some(RunState::Closed));
    for close in [true, false] {
        ensure!(store.begin(run, None, &stage, &last, close).await? == Activated::Already);
    }
    let more = Stage { segment: 2, ..sample.stage.clone() };
    let late = Activate { segment: 2, ..activate() };
    ensure!(is_refused(&store.begin(run, None, &more, &late, true).await, "NotOpen"));
    store.purge(run).await?;
    Ok(())
}
