//! What is wrong with one run. It may be running: what is read is not of one moment, so only what
//! is found every time is believed.

use std::time::Duration;

use bolthole_broker::descriptor::Chunk;
use bolthole_broker::id::RunId;
use bolthole_broker::run::{Examination, Finding, RunDump};
use bolthole_broker::store::{Error, Store};
use tokio::time::sleep;

/// Looks before something is believed of a run that goes on, and the pause between them: commits
/// on their way have arrived by then.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(300);
/// Findings of a run that are written out; the others are counted.
const WORDS_MAX: usize = 10;
/// Descriptor chunks that one request reads: a reply of about a megabyte.
const CHUNKS_PER_REQUEST: usize = 64;

/// A run as it was seen.
#[derive(Debug)]
pub(super) struct Looked {
    /// How many tasks it has, and how they stand.
    pub(super) summary: String,
    /// What does not add up.
    pub(super) findings: Vec<Finding>,
    /// Why it cannot even be read.
    pub(super) damage: Option<String>,
    /// Whether tasks may still be committed.
    pub(super) running: bool,
}

impl Looked {
    /// Whether there is nothing to say, or nothing left to do about it: the run was ended.
    pub(super) fn is_well(&self) -> bool {
        !self.running || self.findings.is_empty() && self.damage.is_none()
    }

    /// Everything that is wrong, in words.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.damage.iter().cloned().collect();
        words.extend(self.findings.iter().take(WORDS_MAX).map(ToString::to_string));
        if let Some(more) = self.findings.len().checked_sub(WORDS_MAX).filter(|more| *more > 0) {
            words.push(format!("and {more} more of this kind"));
        }
        words
    }
}

/// Looks at a run until what is found stays the same; `None` when it is not there.
pub(super) async fn at(store: &Store, run: RunId) -> Result<Option<Looked>, Error> {
    let Some(mut last) = once(store, run).await? else { return Ok(None) };
    for _ in 1..LOOKS {
        if last.findings.is_empty() && last.damage.is_none() {
            break;
        }
        sleep(PAUSE).await;
        let Some(next) = once(store, run).await? else { return Ok(None) };
        let mut findings = last.findings;
        findings.retain(|finding| next.findings.contains(finding));
        let damage = last.damage.filter(|damage| next.damage.as_ref() == Some(damage));
        last = Looked { findings, damage, ..next };
    }
    Ok(Some(last))
}

async fn once(store: &Store, run: RunId) -> Result<Option<Looked>, Error> {
    let Some(status) = store.status(run).await? else { return Ok(None) };
    let (tasks, finished) = (status.tasks, status.finished);
    let summary = format!("{:?}: {finished} of {tasks} tasks finished", status.state);
    let running = status.state.is_running();
    let mut looked = Looked { summary, findings: Vec::new(), damage: None, running };
    match store.dump(run).await {
        Ok(Some(dump)) => looked.findings = examine(store, run, &dump).await?,
        Ok(None) => return Ok(None),
        Err(Error::Corrupt(words)) => {
            looked.damage = Some(format!("it cannot be read: {words} is missing or damaged"));
        }
        Err(error) => return Err(error),
    }
    Ok(Some(looked))
}

async fn examine(store: &Store, run: RunId, dump: &RunDump) -> Result<Vec<Finding>, Error> {
    let mut examination = Examination::new(dump);
    for some in examination.chunks().chunks(CHUNKS_PER_REQUEST) {
        for ((segment, number), bytes) in some.iter().zip(store.chunks(run, some).await?) {
            let chunk = bytes.and_then(|bytes| Chunk::decode(&bytes, *segment).ok());
            examination.add(*segment, *number, chunk.as_ref());
        }
    }
    Ok(examination.finish())
}
