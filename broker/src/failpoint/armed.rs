//! What happens at a failpoint: the rules of this process, and how they are carried out.

use std::fs::File;
use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::Point;

/// The rules.
const RULES: &str = "BOLTHOLE_FAILPOINTS";
/// The file in which each fault that happens is written down.
const LOG: &str = "BOLTHOLE_FAILPOINTS_LOG";
/// A signal to the own process may be taken by any of its threads, which then stops the others.
const STOPPING: Duration = Duration::from_millis(20);
/// Errors that a rule may ask for.
const ERRORS: [(&str, Errno); 6] = [
    ("EACCES", Errno::ACCESS),
    ("ECONNRESET", Errno::CONNRESET),
    ("EDQUOT", Errno::DQUOT),
    ("EIO", Errno::IO),
    ("EMFILE", Errno::MFILE),
    ("ENOSPC", Errno::NOSPC),
];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
    Delay(Duration),
    Error(Errno),
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Counted from one.
    Hit(u64),
}

/// What happens where, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    point: Point,
    action: Action,
    when: When,
    /// As it was written.
    text: String,
}

/// The rules of a process, and how often each place was reached.
#[derive(Debug, Default)]
struct Rules {
    rules: Vec<Rule>,
    hits: [AtomicU64; Point::ALL.len()],
}

/// Why rules cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BadRule {
    #[error("{0:?} does not read point=action")]
    Form(String),
    #[error("there is no failpoint {0:?}")]
    Point(String),
    #[error("{0:?} is not abort, stop, delay(a time) or error(the name of an error)")]
    Action(String),
    #[error("{0:?} is neither a number from 1 on nor *")]
    When(String),
    #[error("no error can happen at {0}")]
    NoError(&'static str),
}

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let (name, rest) = text.split_once('=').ok_or_else(|| BadRule::Form(text.to_owned()))?;
        let point = Point::ALL.iter().copied().find(|point| point.name() == name);
        let point = point.ok_or_else(|| BadRule::Point(name.to_owned()))?;
        let (what, when) = match rest.split_once('@') {
            None => (rest, When::Hit(1)),
            Some((what, "*")) => (what, When::Always),
            Some((what, hit)) => match hit.parse() {
                Ok(hit @ 1..) => (what, When::Hit(hit)),
                _ => return Err(BadRule::When(hit.to_owned())),
            },
        };
        let action = action(what).ok_or_else(|| BadRule::Action(what.to_owned()))?;
        if matches!(action, Action::Error(_)) && !point.can_fail() {
            return Err(BadRule::NoError(point.name()));
        }
        Ok(Self { point, action, when, text: what.to_owned() })
    }
}

fn action(text: &str) -> Option<Action> {
    let argument = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    match text {
        "abort" => Some(Action::Abort),
        "stop" => Some(Action::Stop),
        _ => match (argument("delay"), argument("error")) {
            (Some(time), _) => Some(Action::Delay(humantime::parse_duration(time).ok()?)),
            (_, Some(error)) => {
                let found = ERRORS.iter().find(|(name, _)| *name == error);
                found.map(|(_, errno)| Action::Error(*errno))
            }
            (None, None) => None,
        },
    }
}

impl FromStr for Rules {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let rules = text.split(';').map(str::trim).filter(|rule| !rule.is_empty());
        Ok(Self { rules: rules.map(str::parse).collect::<Result<_, _>>()?, ..Self::default() })
    }
}

impl Rules {
    /// The place is reached once more: which time this is, and the rule that holds now.
    fn count(&self, point: Point) -> Option<(u64, &Rule)> {
        if self.rules.is_empty() {
            return None;
        }
        let hit = self.hits[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let now = |rule: &&Rule| match rule.when {
            When::Always => rule.point == point,
            When::Hit(one) => rule.point == point && one == hit,
        };
        self.rules.iter().find(now).map(|rule| (hit, rule))
    }
}

/// What must happen now, written down.
fn due(point: Point) -> Option<Action> {
    static OF_PROCESS: OnceLock<Rules> = OnceLock::new();
    let rules = OF_PROCESS.get_or_init(|| {
        std::env::var(RULES).unwrap_or_default().parse().unwrap_or_else(|error| {
            give_up(&format!("{RULES}: {error}"));
        })
    });
    let (hit, rule) = rules.count(point)?;
    if let Ok(path) = std::env::var(LOG) {
        let line = format!("{} {hit} {} {}\n", point.name(), std::process::id(), rule.text);
        let log = File::options().create(true).append(true).open(&path);
        if let Err(error) = log.and_then(|mut log| log.write_all(line.as_bytes())) {
            give_up(&format!("{LOG} {path:?}: {error}"));
        }
    }
    tracing::warn!(point = point.name(), hit, action = %rule.text, "a failpoint");
    Some(rule.action)
}

/// Carries out a rule on a thread that may block.
pub(super) fn hit(point: Point) -> io::Result<()> {
    match due(point) {
        None => Ok(()),
        Some(Action::Delay(time)) => {
            wait(time);
            Ok(())
        }
        Some(action) => act(action),
    }
}

/// Carries out a rule without blocking for long.
pub(super) async fn reach(point: Point) -> io::Result<()> {
    match due(point) {
        None => Ok(()),
        Some(Action::Delay(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(action) => act(action),
    }
}

fn act(action: Action) -> io::Result<()> {
    match action {
        Action::Abort => std::process::abort(),
        Action::Stop => {
            if let Err(error) = kill_process(getpid(), Signal::STOP) {
                give_up(&format!("the process cannot stop itself: {error}"));
            }
            wait(STOPPING);
            Ok(())
        }
        Action::Delay(_) => Ok(()),
        Action::Error(errno) => Err(errno.into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a fault that takes time is what was asked for")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// A test whose faults cannot happen must not pass.
fn give_up(why: &str) -> ! {
    tracing::error!("{why}");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_say_where_what_and_when() {
        let stop = rule("commit.after_reply=stop@3");
        assert_eq!((stop.point, stop.action), (Point::CommitAfterReply, Action::Stop));
        assert_eq!(stop.when, When::Hit(3));
        assert_eq!(rule("handoff.mid=abort").when, When::Hit(1));
        let delay = rule("publish.before=delay(200ms)@*");
        assert_eq!(delay.action, Action::Delay(Duration::from_millis(200)));
        assert_eq!((delay.when, delay.text.as_str()), (When::Always, "delay(200ms)"));
        assert_eq!(rule("spill.write=error(ENOSPC)").action, Action::Error(Errno::NOSPC));
        let rules: Rules = "run.mid=abort; ack.after=stop;".parse().unwrap();
        assert_eq!(rules.rules.len(), 2);
        for point in Point::ALL {
            assert_eq!(rule(&format!("{}=abort", point.name())).point, *point);
        }
    }

    #[test]
    fn slips_are_found() {
        for (text, says) in [
            ("abort", "point=action"),
            ("run.middle=abort", "no failpoint"),
            ("run.mid=explode", "is not abort"),
            ("run.mid=delay(soon)", "is not abort"),
            ("spill.write=error(ENONE)", "is not abort"),
            ("run.mid=abort@0", "number from 1 on"),
            ("run.mid=abort@often", "number from 1 on"),
            ("run.mid=error(EIO)", "no error can happen"),
        ] {
            let error = text.parse::<Rules>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn each_place_is_counted_for_itself() {
        let rules: Rules = "run.mid=stop@2;ack.after=abort@*".parse().unwrap();
        assert_eq!(rules.count(Point::RunMid), None);
        assert_eq!(rules.count(Point::AckAfter).map(|(hit, _)| hit), Some(1));
        assert_eq!(rules.count(Point::RunMid).map(|(hit, rule)| (hit, rule.action)), {
            Some((2, Action::Stop))
        });
        assert_eq!(rules.count(Point::RunMid), None);
        assert_eq!(rules.count(Point::AckAfter).map(|(hit, _)| hit), Some(2));
    }

    #[test]
    fn an_error_is_the_one_of_the_system() {
        let error = act(Action::Error(Errno::NOSPC)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
