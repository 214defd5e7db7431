//! Every key of a namespace, on all servers, by what it is for: read for whoever wants to know what is stored, and
//! whether all of it belongs to something. Takes time in proportion to the keys; the server serves
//! others meanwhile.

use std::collections::BTreeMap;

use redis::Value;
use tokio::time::Instant;

use super::keys::{Part, Purpose};
use super::lanes::Lanes;
use super::library::Function;
use super::runs::split_name;
use super::{Redis, bytes, fcall, list, optional_bytes};
use crate::id::RunId;
use crate::limits;
use crate::store::Error;

/// Keys that one request asks for, about: a reply of some milliseconds.
const KEYS_PER_REQUEST: usize = 1_000;

/// What a namespace has in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyspace {
    /// Runs of which anything is there, or that are listed.
    pub runs: BTreeMap<RunId, RunKeys>,
    /// Names and the runs they name.
    pub names: BTreeMap<String, RunId>,
    /// What workers say of themselves, and the list of runs.
    pub bookkeeping_bytes: u64,
    /// Keys that no version of this program writes, with their bytes.
    pub strange: Vec<(String, u64)>,
}

/// The keys of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunKeys {
    /// Whether the list of runs has it.
    pub listed: bool,
    /// Whether its header is there.
    pub made: bool,
    /// How many there are.
    pub keys: u64,
    /// States, counts and locators, in bytes of the server's memory, as for all that follow.
    pub columns_bytes: u64,
    /// What workers must know to run its tasks.
    pub descriptors_bytes: u64,
    /// Small results, records of held ones, errors.
    pub results_bytes: u64,
    /// Large arguments.
    pub blobs_bytes: u64,
    /// Events that clients wait for.
    pub events_bytes: u64,
    /// Header, releases, leases, attempts.
    pub rest_bytes: u64,
}

impl RunKeys {
    /// All of it, in bytes of the server's memory.
    pub fn bytes(&self) -> u64 {
        self.columns_bytes
            + self.descriptors_bytes
            + self.results_bytes
            + self.blobs_bytes
            + self.events_bytes
            + self.rest_bytes
    }

    fn add(&mut self, part: Part, bytes: u64) {
        self.keys += 1;
        self.made |= part == Part::Header;
        *match part {
            Part::Columns => &mut self.columns_bytes,
            Part::Descriptors => &mut self.descriptors_bytes,
            Part::Results => &mut self.results_bytes,
            Part::Blobs => &mut self.blobs_bytes,
            Part::Events => &mut self.events_bytes,
            Part::Header | Part::Rest => &mut self.rest_bytes,
        } += bytes;
    }
}

impl Redis {
    /// Everything of this namespace. Needs the rights to SCAN and to ask for MEMORY USAGE. What is
    /// made or deleted meanwhile may be missing or half there.
    pub async fn keyspace(&self) -> Result<Keyspace, Error> {
        let mut all = Keyspace::default();
        // Before the keys: a run is listed first.
        for (run, _) in self.listed().await? {
            all.runs.entry(run).or_default().listed = true;
        }
        let prefix = self.keys.all();
        for server in self.servers.masters(deadline()).await? {
            let mut cursor = "0".to_owned();
            loop {
                let (next, keys) = self.scan(&server, &cursor, &prefix).await?;
                for (key, bytes) in self.sizes(keys).await? {
                    self.sort(&mut all, key, bytes).await?;
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(all)
    }

    /// Puts a run on the list that was missing from it.
    pub async fn relist(&self, run: RunId) -> Result<(), Error> {
        self.list_run(run).await
    }

    /// Deletes every key of a run, whatever state it is in, and takes it off the list.
    pub async fn sweep_run(&self, run: RunId) -> Result<(), Error> {
        let prefix = self.keys.run(run);
        for server in self.servers.masters(deadline()).await? {
            let mut cursor = "0".to_owned();
            loop {
                let (next, keys) = self.scan(&server, &cursor, &prefix).await?;
                if !keys.is_empty() {
                    let mut unlink = redis::cmd("UNLINK");
                    unlink.arg(&keys);
                    self.servers.ask(&run, &unlink).await?;
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        self.unlist(run).await
    }

    /// Deletes a name if it still names this run.
    pub async fn unname(&self, name: &str, run: RunId) -> Result<(), Error> {
        let unbind = fcall(&self.keys.name(name), Function::UNBIND, &[run.to_bytes()]);
        self.servers.ask(&run, &unbind).await.map(drop)
    }

    /// The next keys of a server that begin with `prefix`, and where to go on: at `0` they were the
    /// last.
    async fn scan(
        &self,
        server: &Lanes,
        cursor: &str,
        prefix: &str,
    ) -> Result<(String, Vec<String>), Error> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern(prefix)).arg("COUNT").arg(KEYS_PER_REQUEST);
        let mut answer = list(self.servers.ask_at(server, &scan, deadline()).await?)?.into_iter();
        let (Some(next), Some(keys)) = (answer.next(), answer.next()) else {
            return Err(Error::Corrupt("SCAN".to_owned()));
        };
        let text = |value| Ok(String::from_utf8_lossy(&bytes(value)?).into_owned());
        let keys: Result<Vec<String>, Error> = list(keys)?.into_iter().map(text).collect();
        Ok((text(next)?, keys?))
    }

    async fn sizes(&self, keys: Vec<String>) -> Result<Vec<(String, u64)>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut usage = redis::pipe();
        for key in &keys {
            usage.cmd("MEMORY").arg("USAGE").arg(key);
        }
        let sizes = self.servers.ask_all(&0, &usage).await?;
        let size = |value| match value {
            Value::Int(size) => u64::try_from(size).ok(),
            // It was deleted meanwhile.
            _ => None,
        };
        let sizes = keys.into_iter().zip(sizes);
        Ok(sizes.filter_map(|(key, value)| Some((key, size(value)?))).collect())
    }

    async fn sort(&self, all: &mut Keyspace, key: String, size: u64) -> Result<(), Error> {
        match self.keys.purpose(&key) {
            Some(Purpose::Run(run, part)) => all.runs.entry(run).or_default().add(part, size),
            Some(Purpose::Name(name)) => {
                let mut get = redis::cmd("GET");
                get.arg(&key);
                if let Some(value) = optional_bytes(self.servers.ask(&0, &get).await?)? {
                    all.names.insert(name.to_owned(), split_name(&value)?.0);
                }
            }
            Some(Purpose::Bookkeeping) => all.bookkeeping_bytes += size,
            None => all.strange.push((key, size)),
        }
        Ok(())
    }
}

/// When a server must have answered a request that begins now.
fn deadline() -> Instant {
    Instant::now() + limits::STORE_DEADLINE
}

/// A pattern that matches what begins with `prefix`, whatever characters are in it.
fn pattern(prefix: &str) -> String {
    let mut out = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if "*?[]\\^".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('*');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_what_they_are_for() {
        let mut run = RunKeys::default();
        run.add(Part::Columns, 1);
        run.add(Part::Blobs, 2);
        assert!(!run.made);
        run.add(Part::Header, 4);
        run.add(Part::Blobs, 8);
        assert!(run.made);
        assert_eq!((run.keys, run.bytes(), run.blobs_bytes), (4, 15, 10));
    }

    #[test]
    fn a_pattern_matches_a_namespace_to_the_letter() {
        assert_eq!(pattern("a[1]:{*"), "a\\[1\\]:{\\**");
    }
}
