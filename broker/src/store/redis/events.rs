//! Reading a run's events. Their ids are `0-1`, `0-2`, …: a reader sees when one is missing.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::{Redis, bytes, decode, list};
use crate::id::RunId;
use crate::run::FinishedEvent;
use crate::state::RunState;
use crate::store::{Error, EventCursor, Events};

/// Entries read at once, each of up to 256 tasks.
const PAGE: usize = 1_000;

/// One read of the stream.
struct Page {
    finished: Vec<FinishedEvent>,
    last: u64,
    gap: bool,
    full: bool,
    run: Option<RunState>,
}

impl Page {
    fn of_new_run() -> Self {
        Self { finished: Vec::new(), last: 0, gap: false, full: false, run: Some(RunState::Open) }
    }
}

impl Redis {
    pub(in crate::store) async fn events(
        &self,
        run: RunId,
        after: &EventCursor,
        patience: Duration,
    ) -> Result<Events, Error> {
        let deadline = Instant::now() + patience;
        let mut seen: u64 = after.0.parse().unwrap_or(0);
        let (mut finished, mut gap) = (Vec::new(), false);
        let mut known = after.is_of_new_run().then(Page::of_new_run);
        loop {
            let page = match known.take() {
                Some(page) => page,
                None => self.page(run, seen).await?,
            };
            seen = page.last;
            gap |= page.gap;
            finished.extend(page.finished);
            let over = page.run.is_none_or(|state| !state.is_running());
            // The end is told with the last events, never before them.
            if over && page.full {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !over && !gap && finished.is_empty() && !left.is_zero() {
                let news = self.wait(run, seen, left).await?;
                seen = put_entries(news, seen, &mut finished, &mut gap)?;
                if finished.is_empty() && !gap {
                    continue;
                }
            }
            // After the wait the state may be that of before: an end is seen with the next page.
            let cursor = EventCursor(seen.to_string());
            return Ok(Events { finished, cursor, gap, run: page.run });
        }
    }

    /// The state is read before the events: an end that is seen has all of its events before it.
    async fn page(&self, run: RunId, seen: u64) -> Result<Page, Error> {
        let mut read = redis::pipe();
        read.cmd("GETRANGE").arg(self.keys.header(run)).arg(4).arg(4);
        let stream = self.keys.of(run, "e");
        read.cmd("XRANGE").arg(stream).arg(format!("(0-{seen}")).arg("+").arg("COUNT").arg(PAGE);
        let mut answers = self.servers.ask_all(&run, &read).await?.into_iter();
        let state = bytes(answers.next().unwrap_or(Value::Nil))?;
        let state = state.first().copied().and_then(RunState::from_number);
        let entries = list(answers.next().unwrap_or(Value::Nil))?;
        let mut page = Page {
            finished: Vec::new(),
            last: seen,
            gap: false,
            full: entries.len() == PAGE,
            run: state.filter(|state| *state != RunState::Purging),
        };
        page.last = put_entries(entries, seen, &mut page.finished, &mut page.gap)?;
        Ok(page)
    }

    /// Waits until the stream grows, `left` at the most; the first entries that it grew by.
    async fn wait(&self, run: RunId, seen: u64, left: Duration) -> Result<Vec<Value>, Error> {
        let millis = left.as_millis().max(1);
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(millis.to_string());
        let stream = self.keys.of(run, "e");
        read.arg("STREAMS").arg(&stream).arg(format!("0-{seen}"));
        let started = Instant::now();
        let Some(answer) = self.servers.block(&stream, &read, left).await? else {
            // The connection broke; the next page says how the store is.
            tokio::time::sleep_until(started + left.min(Duration::from_millis(100))).await;
            return Ok(Vec::new());
        };
        entries_of(answer)
    }
}

/// The entries in the answer to a read of one stream: `[[name, entries]]`, a map of one in RESP3, or
/// nothing.
fn entries_of(answer: Value) -> Result<Vec<Value>, Error> {
    let entries = match answer {
        Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
        Value::Array(streams) => match streams.into_iter().next() {
            Some(stream) => list(stream)?.into_iter().nth(1),
            None => None,
        },
        _ => None,
    };
    entries.map_or(Ok(Vec::new()), list)
}

/// Appends what entries behind `last` say, and notes whether one is missing; the last one's number.
fn put_entries(
    entries: Vec<Value>,
    mut last: u64,
    out: &mut Vec<FinishedEvent>,
    gap: &mut bool,
) -> Result<u64, Error> {
    for entry in entries {
        let number = put_entry(entry, out)?;
        *gap |= number != last + 1;
        last = number;
    }
    Ok(last)
}

/// Appends the tasks of one entry; its number.
fn put_entry(entry: Value, out: &mut Vec<FinishedEvent>) -> Result<u64, Error> {
    let damaged = || Error::Corrupt("an event".to_owned());
    let mut parts = list(entry)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else { return Err(damaged()) };
    let id = bytes(id)?;
    let text = std::str::from_utf8(&id).map_err(|_| damaged())?;
    let number = text.strip_prefix("0-").and_then(|text| text.parse().ok()).ok_or_else(damaged)?;
    let mut fields = list(fields)?.into_iter();
    if let (Some(name), Some(value)) = (fields.next(), fields.next())
        && bytes(name)?.as_ref() == b"f"
    {
        decode::events(&bytes(value)?, out)?;
    }
    Ok(number)
}
