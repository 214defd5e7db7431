//! Everything the checker wants to know of a play: what should have happened, what did, what is
//! left.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bolthole::capture::capture;
use bolthole::delayed::AnyDelayed;
use bolthole::testing::Sequential;
use bolthole_broker::queue::{Queue, QueueName, Route};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::place;
use super::play::Play;
use super::schedule::Manner;
use crate::check::{Answer, Expected, Finding, History, Invariant, Left, Told};
use crate::dag::{self, Dag};
use crate::ledger::{self, LEDGER};
use crate::sockets::{self, Socket};

/// How long it may take until nothing is left of a run that is forgotten.
const LEFT_WITHIN: Duration = Duration::from_secs(20);
/// How long workers may take to go: what they may take to finish, and then some.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// How soon connections are closed at both ends when one has gone.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Runs the graph in order, in this process.
pub(super) async fn expected(dag: &Dag, folder: &Path) -> anyhow::Result<Expected> {
    let folder = folder.join("oracle");
    fs::create_dir(&folder)?;
    let dag = dag.clone();
    spawn_blocking(move || {
        let calls = dag.calls();
        let outputs: Vec<&dyn AnyDelayed> = calls.iter().map(|c| c as &dyn AnyDelayed).collect();
        let graph = capture(&outputs)?;
        let ran = Sequential::new().header(LEDGER, folder.to_string_lossy()).run(&graph);
        let digest =
            |bytes: &[u8]| rmp_serde::from_slice(bytes).map(|text: &str| dag::digest(text));
        let outputs: Result<Vec<Option<u64>>, _> = ran
            .iter()
            .map(|result| result.as_ref().ok().map(|v| digest(&v.bytes)).transpose())
            .collect();
        let executions = ledger::read(&folder)?;
        let acts = executions.into_iter().map(|execution| execution.act).collect();
        Ok(Expected { acts, outputs: outputs? })
    })
    .await?
}

/// Takes a play down and says what has happened in it.
pub(super) async fn judge(play: &mut Play<'_>, expected: Expected) -> anyhow::Result<History> {
    let store = play.cluster.store().await.context("the store after the play")?;
    let folder = play.cluster.folder().to_owned();
    let (told, changes) = (told(&folder)?, store.audit().await?);
    let (mut state, mut dump) = (None, None);
    if let Some(run) = play.seen().map(|seen| seen.run) {
        dump = store.dump(run).await?;
        state = dump.as_ref().map(|dump| dump.status.state);
        if state.is_some_and(bolthole::RunState::is_running) {
            store.cancel(run, "the play is over").await?;
        }
        store.purge(run).await?;
    }
    let queue = play.cluster.queue().await.context("the queue after the play")?;
    let left = left(play, &queue, &folder).await?;
    queue.delete_all(&[QueueName::default()]).await?;
    queue.close().await;
    let (pair, logs) = (play.servers.pair(), logs(&folder)?);
    Ok(History {
        policy: play.schedule.policy,
        may_be_cancelled: matches!(play.schedule.manner, Manner::Cancel(_)),
        expected,
        repeats: play.schedule.repeats() + hiccups(&logs),
        executions: ledger::read(&place::ledger(&folder))?,
        changes,
        told,
        state,
        dump,
        left,
        secrets: [pair.rabbit.url(), pair.redis.url()]
            .iter()
            .filter_map(|url| password(url))
            .collect(),
        logs,
    })
}

/// What is left when the workers have gone.
async fn left(play: &mut Play<'_>, queue: &Queue, folder: &Path) -> anyhow::Result<Left> {
    play.crew.bury();
    play.network.bury();
    let keys = keys(play).await?;
    empty(queue).await?;
    let mut sockets = play.crew.sockets()?;
    leave(play).await?;
    let spill = place::spill(folder);
    // What the dead have left, and what was given back by those who went, is for whoever comes next.
    if messages(queue).await? > 0 || !files(&spill)?.is_empty() {
        play.crew.sweep(&play.cluster).await?;
        empty(queue).await?;
        sockets.extend(play.crew.sockets()?);
        leave(play).await?;
    }
    let (messages, files) = (messages(queue).await?, files(&spill)?);
    let sockets = open_still(&sockets).await?;
    Ok(Left { keys, messages, files, sockets, processes: play.cluster.processes()? })
}

async fn leave(play: &mut Play<'_>) -> anyhow::Result<()> {
    if !play.crew.leave_all(&play.cluster, GONE_WITHIN).await? {
        let what = format!("a worker has not gone within {GONE_WITHIN:?}");
        play.crew.findings.push(Finding::new(Invariant::Processes, what));
    }
    Ok(())
}

/// Which of these sockets, or of their other ends, are open though their processes have gone.
async fn open_still(sockets: &[Socket]) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + CLOSED_WITHIN;
    loop {
        let open = sockets::open_of(sockets)?;
        if open.is_empty() || Instant::now() > deadline {
            return Ok(open);
        }
        sleep(LOOK).await;
    }
}

/// Waits until workers have emptied the lanes, as long as that may take.
async fn empty(queue: &Queue) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEFT_WITHIN;
    while messages(queue).await? > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Keys of the run that will not go by themselves, once nothing changes any more.
async fn keys(play: &Play<'_>) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + LEFT_WITHIN;
    let pair = play.servers.pair();
    loop {
        let keys = block_in_place(|| play.cluster.keys_of_runs(pair))?;
        let audit = format!("{}:bh:audit", play.cluster.namespace());
        let stays = |key: &String| {
            let lasts = pair.redis.cli(["TTL", key]).is_ok_and(|ttl| ttl == "-1");
            *key != audit && lasts && !is_list_of_unmade_runs(play, key)
        };
        let keys: Vec<String> = block_in_place(|| keys.into_iter().filter(stays).collect());
        if keys.is_empty() || Instant::now() > deadline {
            return Ok(keys);
        }
        sleep(LOOK).await;
    }
}

/// Whether this is the list of all runs, and has only some that their client listed and, being
/// killed, never made: each is taken off when the client has been silent for its lease.
fn is_list_of_unmade_runs(play: &Play<'_>, key: &str) -> bool {
    let (redis, namespace) = (&play.servers.pair().redis, play.cluster.namespace());
    let ours = play.seen().map(|seen| seen.run.to_string());
    let is_unmade = |run: &str| {
        let header = format!("{namespace}:bh:{{{run}}}:h");
        Some(run) != ours.as_deref() && redis.cli(["EXISTS", &header]).is_ok_and(|some| some == "0")
    };
    key == format!("{namespace}:bh:runs")
        && redis.cli(["ZRANGE", key, "0", "-1"]).is_ok_and(|runs| runs.lines().all(is_unmade))
}

/// Messages in the lanes that no consumer holds.
async fn messages(queue: &Queue) -> anyhow::Result<u64> {
    let name = QueueName::default();
    queue.declare(&[QueueName::default()]).await?;
    let mut count = 0;
    for route in Route::all(&name) {
        count += u64::from(queue.depth(&route).await?);
    }
    Ok(count)
}

fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn logs(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "log") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            logs.push((name, String::from_utf8_lossy(&fs::read(&path)?).into_owned()));
        }
    }
    Ok(logs)
}

/// How often a machine that was too busy may have made a body run again: a worker that was late looked
/// dead, or a run without progress was searched and rung for.
fn hiccups(logs: &[(String, String)]) -> u64 {
    let late = ["the worker's record had run out", "rings again for ready tasks"];
    let lines = logs.iter().flat_map(|(_, log)| log.lines());
    lines.filter(|line| late.iter().any(|what| line.contains(what))).count() as u64
}

fn password(url: &str) -> Option<String> {
    let (user, _) = url.split_once("://")?.1.rsplit_once('@')?;
    Some(user.split_once(':')?.1.to_owned())
}

/// What clients wrote down.
fn told(folder: &Path) -> anyhow::Result<Vec<Told>> {
    let text = fs::read_to_string(place::history(folder)).unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let what = match words[..] {
            [_, _, "connected"] => continue,
            [_, _, "submitted", run] => Answer::Submitted(run.to_owned()),
            [_, _, "end", state] => Answer::End(state.to_owned()),
            [_, _, "output" | "again", place, "done", digest] => {
                Answer::Output(place.parse()?, u64::from_str_radix(digest, 16)?)
            }
            [_, _, "output" | "again", place, "error", why] => {
                Answer::Error(place.parse()?, why.to_owned())
            }
            _ => anyhow::bail!("no line of a history: {line:?}"),
        };
        all.push(Told { process: words[0].parse()?, what });
    }
    Ok(all)
}

/// Copies everything that may explain the findings.
pub(super) fn keep(
    play: &Play<'_>,
    history: &History,
    findings: &[Finding],
    to: &Path,
) -> anyhow::Result<()> {
    let from = play.cluster.folder();
    fs::create_dir_all(to)?;
    for path in [place::schedule(from), place::history(from)] {
        let name = path.file_name().context("a file's name")?;
        if path.exists() {
            fs::copy(&path, to.join(name))?;
        }
    }
    for (name, log) in &history.logs {
        fs::write(to.join(name), log)?;
    }
    for path in files(&place::ledger(from))? {
        let name = Path::new(&path).file_name().context("a file's name")?.to_owned();
        fs::copy(&path, to.join(name))?;
    }
    let changes: Vec<String> = history.changes.iter().map(|one| format!("{one:?}")).collect();
    fs::write(to.join("changes"), changes.join("\n") + "\n")?;
    fs::write(to.join("dump"), format!("{:#?}\n", history.dump))?;
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    fs::write(to.join("findings"), findings.join("\n") + "\n")?;
    Ok(())
}
