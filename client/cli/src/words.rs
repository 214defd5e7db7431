//! How things are said to people.

use std::time::Duration;

use bolthole_broker::clock;
use bolthole_broker::id::RunId;
use bolthole_broker::run::{Reason, RunStatus};
use bolthole_broker::state::RunState;

/// A text of users, in which nothing moves the cursor or clears the screen: names of tasks and runs,
/// errors and reasons may hold anything.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Also what changes the direction of the text around it.
        if c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Where a run stands, in a word.
pub(crate) fn state(state: RunState) -> &'static str {
    match state {
        RunState::Open => "open",
        RunState::Closed => "running",
        RunState::Done => "done",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
        RunState::Purging => "deleted",
    }
}

/// Why a run ended early, if it did; in words that may be its user's.
pub(crate) fn reason(status: &RunStatus) -> Option<String> {
    status.reason.as_ref().map(|reason| match reason {
        Reason::Task(task) => format!("task {task} failed first"),
        Reason::Cancelled(why) => why.clone(),
    })
}

/// How long ago a run was begun, by this machine's clock.
pub(crate) fn age(run: RunId) -> Duration {
    Duration::from_millis(clock::unix_ms().saturating_sub(run.unix_ms()))
}

/// A time in its largest unit.
pub(crate) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_users_wrote_moves_the_cursor() {
        assert_eq!(harmless("\u{1b}[2J<b>ü\n"), "\\u{1b}[2J<b>ü\\n");
        assert_eq!(harmless("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn times_are_short() {
        let said = [3, 119, 120, 7_199, 7_200, 172_799, 172_800].map(Duration::from_secs);
        let said = said.map(short);
        assert_eq!(said, ["3 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
    }
}
