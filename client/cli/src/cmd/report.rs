//! What was found, as text and as JSON.

use std::io::{self, Write};

use crate::json;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// As it must be.
    Good,
    /// It works, but somebody should know.
    Doubtful,
    /// It does not work.
    Bad,
    /// It could not be looked at, because of something else.
    Skipped,
}

impl Outcome {
    fn mark(self) -> &'static str {
        match self {
            Self::Good => "ok  ",
            Self::Doubtful => "note",
            Self::Bad => "BAD ",
            Self::Skipped => "-   ",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Doubtful => "doubtful",
            Self::Bad => "bad",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug)]
struct Check {
    name: String,
    outcome: Outcome,
    found: String,
    todo: Option<String>,
}

/// Checks in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Check>);

impl Report {
    fn add(&mut self, name: &str, outcome: Outcome, found: &str, todo: Option<String>) {
        self.0.push(Check { name: name.to_owned(), outcome, found: found.to_owned(), todo });
    }

    pub(crate) fn good(&mut self, name: &str, found: &str) {
        self.add(name, Outcome::Good, found, None);
    }

    pub(crate) fn doubtful(&mut self, name: &str, found: &str, todo: impl Into<String>) {
        self.add(name, Outcome::Doubtful, found, Some(todo.into()));
    }

    pub(crate) fn bad(&mut self, name: &str, found: &str, todo: impl Into<String>) {
        self.add(name, Outcome::Bad, found, Some(todo.into()));
    }

    pub(crate) fn skipped(&mut self, name: &str, because: &str) {
        self.add(name, Outcome::Skipped, because, None);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether something does not work.
    pub(crate) fn is_bad(&self) -> bool {
        self.0.iter().any(|check| check.outcome == Outcome::Bad)
    }

    /// As text, or as one JSON object.
    pub(crate) fn write(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json { self.write_json(out) } else { self.write_text(out) }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        let widest = self.0.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        for check in &self.0 {
            let mark = check.outcome.mark();
            writeln!(out, "{mark}  {:widest$}  {}", check.name, check.found)?;
            if let Some(todo) = &check.todo {
                writeln!(out, "      {:widest$}  -> {todo}", "")?;
            }
        }
        let count = |outcome| self.0.iter().filter(|check| check.outcome == outcome).count();
        let (bad, doubtful) = (count(Outcome::Bad), count(Outcome::Doubtful));
        match (bad, doubtful) {
            (0, 0) => writeln!(out, "All is well."),
            (0, _) => writeln!(out, "Nothing is wrong; {doubtful} to know."),
            _ => writeln!(out, "{bad} wrong, {doubtful} to know."),
        }
    }

    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let checks: Vec<String> = self.0.iter().map(Check::json).collect();
        let well = (!self.is_bad()).to_string();
        writeln!(out, "{}", json::object(&[("well", well), ("checks", json::list(&checks))]))
    }
}

impl Check {
    fn json(&self) -> String {
        let todo = self.todo.as_ref().map_or_else(|| "null".to_owned(), |todo| json::text(todo));
        json::object(&[
            ("name", json::text(&self.name)),
            ("outcome", json::text(self.outcome.name())),
            ("found", json::text(&self.found)),
            ("todo", todo),
        ])
    }
}
