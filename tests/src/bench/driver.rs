//! One measurement of one system: a program that prints a line of JSON, with a limit to its time. All
//! that it starts ends with it.

use std::ffi::{OsStr, OsString};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use crate::servers::group::{Group, Process};

/// How often a driver is looked at: rarely enough to take nothing from what is measured.
const POLL: Duration = Duration::from_millis(100);
/// How long a driver that is told to go may take to end what it has started.
const GRACE: Duration = Duration::from_secs(20);
/// How much of what a driver said last explains why it failed.
const REASON_LINES: usize = 3;

/// What to start.
#[derive(Debug)]
pub struct Driver<'a> {
    /// The program.
    pub program: &'a OsStr,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What its environment holds besides a path, a home and a folder for its files, `PEERS_TMP`.
    pub environment: Vec<(&'a str, String)>,
    /// How long it may take in all.
    pub limit: Duration,
}

/// How it went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The line that it printed.
    Measured(Map<String, Value>),
    /// It ended without a line, or with an error: its last words.
    Failed(String),
    /// It was ended when its time was over.
    OverLimit,
}

impl Outcome {
    /// It failed, after these words: the last of them count.
    pub fn failed(words: &str) -> Self {
        let lines: Vec<_> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(REASON_LINES)..].join(" / ");
        Self::Failed(if last.is_empty() { "it printed nothing".to_owned() } else { last })
    }
}

impl Driver<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self) -> Result<Outcome> {
        let group = Group::new()?;
        let mut command = group.command(self.program)?;
        command
            .args(&self.arguments)
            .env("PEERS_TMP", group.folder())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut process = group.spawn("driver", command)?;
        if let Some(status) = ended(&mut process, self.limit).await? {
            return Ok(judge(status.success(), &process.output()?));
        }
        process.signal("TERM")?;
        // What does not go by itself is killed with its group.
        ended(&mut process, GRACE).await?;
        Ok(Outcome::OverLimit)
    }
}

async fn ended(process: &mut Process, patience: Duration) -> Result<Option<ExitStatus>> {
    let waiting = async {
        loop {
            match process.ended() {
                Ok(None) => sleep(POLL).await,
                end => return end,
            }
        }
    };
    timeout(patience, waiting).await.unwrap_or(Ok(None))
}

/// What a driver's end means; `output` is all that it and what it started have said.
fn judge(succeeded: bool, output: &str) -> Outcome {
    let objects = output.lines().rev().filter_map(|line| serde_json::from_str(line.trim()).ok());
    match objects.into_iter().next() {
        Some(line) if succeeded => Outcome::Measured(line),
        _ => Outcome::failed(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(script: &str, limit: Duration) -> Driver<'static> {
        let arguments = vec!["-c".into(), script.into()];
        let environment = vec![("GIVEN", "7".to_owned())];
        Driver { program: OsStr::new("sh"), arguments, environment, limit }
    }

    #[test]
    fn the_last_line_of_json_counts() {
        let output = "a warning\n{\"median_s\": 1}\n{\"median_s\": 2.5}\n[1]\nbye {\n";
        let Outcome::Measured(line) = judge(true, output) else { panic!("not measured") };
        assert_eq!(line["median_s"], 2.5);
    }

    #[test]
    fn without_a_line_or_with_an_error_it_has_failed() {
        let failed = |words: &str| Outcome::Failed(words.to_owned());
        assert_eq!(judge(true, " \n"), failed("it printed nothing"));
        assert_eq!(judge(true, "a\nb\n\nc\nd"), failed("b / c / d"));
        assert_eq!(judge(false, "{\"median_s\": 1}\nwrong"), failed("{\"median_s\": 1} / wrong"));
    }

    #[tokio::test]
    async fn a_driver_gets_its_environment_and_a_folder() {
        let script = r#"test -d "$PEERS_TMP" && printf '{"given": %s}\n' "$GIVEN""#;
        let outcome = driver(script, Duration::from_secs(60)).run().await.unwrap();
        let Outcome::Measured(line) = outcome else { panic!("{outcome:?}") };
        assert_eq!(line["given"], 7);
    }

    #[tokio::test]
    async fn a_driver_that_takes_too_long_is_ended() {
        let outcome = driver("sleep 600", Duration::from_millis(1)).run().await.unwrap();
        assert_eq!(outcome, Outcome::OverLimit);
    }
}
