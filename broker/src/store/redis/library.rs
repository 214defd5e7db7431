//! The functions that run inside the server, as one library.

use redis::{Cmd, Value};

/// What writes the audit: only in builds for tests.
#[cfg(feature = "failpoints")]
macro_rules! audit {
    () => {
        include_str!("functions/audit.lua")
    };
}
#[cfg(not(feature = "failpoints"))]
macro_rules! audit {
    () => {
        ""
    };
}

/// The library's text: the prelude, then a file for each group of functions. Its revision goes up
/// with each change, which a test sees to. Of two builds which share a server, the one with the higher
/// revision loads its functions and the other uses them; of equal ones, who connects last. Within a
/// version of the protocol functions are added and mended, but none is removed, and none changes what
/// it takes and answers.
pub(super) const CODE: &str = concat!(
    "#!lua name=bh_v1\n-- revision 6\n",
    include_str!("functions/prelude.lua"),
    audit!(),
    include_str!("functions/open.lua"),
    include_str!("functions/stage.lua"),
    include_str!("functions/activate.lua"),
    include_str!("functions/commit.lua"),
    include_str!("functions/rearm.lua"),
    include_str!("functions/revive.lua"),
    include_str!("functions/relocate.lua"),
    include_str!("functions/mend.lua"),
    include_str!("functions/lease.lua"),
    include_str!("functions/inspect.lua"),
    include_str!("functions/lifecycle.lua"),
    include_str!("functions/purge.lua"),
    include_str!("functions/blob.lua"),
    include_str!("functions/names.lua"),
    include_str!("functions/admit.lua"),
    include_str!("functions/bury.lua"),
);

/// Its name in the server.
pub(super) const NAME: &str = "bh_v1";

/// Asks for what a server has under that name, with its text.
pub(super) fn list() -> Cmd {
    let mut list = redis::cmd("FUNCTION");
    list.arg("LIST").arg("LIBRARYNAME").arg(NAME).arg("WITHCODE");
    list
}

/// Puts this build's text in the place of whatever stands there.
pub(super) fn load() -> Cmd {
    let mut load = redis::cmd("FUNCTION");
    load.arg("LOAD").arg("REPLACE").arg(CODE);
    load
}

/// The revision of a library's text; 0 for one that has none.
pub(super) fn revision(code: &[u8]) -> u32 {
    let line = code.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    let number = line.strip_prefix(b"-- revision ").unwrap_or_default();
    std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a server has under the library's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// This very text, or that of a later build which has all the functions of this one.
    Usable,
    /// Nothing, or the text of an earlier build, or another one of this revision: this build's is to
    /// be loaded in its place.
    Replaceable,
    /// The text of a later build, of this revision, that lacks this function.
    Later(u32, &'static str),
}

impl Found {
    /// Judges the server's list of libraries of this name, with their texts.
    pub(super) fn judge(list: &Value) -> Self {
        if contains(list, CODE.as_bytes()) {
            return Self::Usable;
        }
        let theirs = highest_revision(list);
        if theirs <= revision(CODE.as_bytes()) {
            return Self::Replaceable;
        }
        let lacking =
            Function::ALL.iter().find(|function| !contains(list, function.name.as_bytes()));
        lacking.map_or(Self::Usable, |function| Self::Later(theirs, function.name))
    }
}

/// Whether a reply contains this string.
pub(super) fn contains(value: &Value, text: &[u8]) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text,
        Value::SimpleString(string) => string.as_bytes() == text,
        Value::Array(values) => values.iter().any(|value| contains(value, text)),
        Value::Map(pairs) => pairs.iter().any(|(_, value)| contains(value, text)),
        _ => false,
    }
}

/// The highest revision of the texts in a list of libraries.
fn highest_revision(list: &Value) -> u32 {
    match list {
        Value::BulkString(bytes) => revision(bytes),
        Value::Array(values) => values.iter().map(highest_revision).max().unwrap_or(0),
        Value::Map(pairs) => {
            pairs.iter().map(|(_, list)| highest_revision(list)).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// A function of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name in the server.
    pub(super) name: &'static str,
    /// Whether it only reads.
    pub(super) reads: bool,
}

macro_rules! functions {
    ($($constant:ident $name:literal $reads:literal;)*) => {
        impl Function {
            $(pub(super) const $constant: Self =
                Self { name: concat!("bh_v1_", $name), reads: $reads };)*

            const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

functions! {
    OPEN "open" false;
    STAGE "stage" false;
    UNSTAGE "unstage" false;
    RESERVE "reserve" false;
    ACTIVATE "activate" false;
    COMMIT "commit" false;
    REARM "rearm" false;
    REVIVE "revive" false;
    RESUME "resume" false;
    RELOCATE "relocate" false;
    MEND "mend" false;
    RECOUNT "recount" false;
    LEASE "lease" false;
    UNLEASE "unlease" false;
    EVICT "evict" false;
    RETRY "retry" false;
    INSPECT "inspect" true;
    STATUS "status" true;
    READY "ready" true;
    OVERDUE "overdue" true;
    UNPIN "unpin" false;
    CLOSE "close" false;
    CANCEL "cancel" false;
    KEEP_ALIVE "keep_alive" false;
    SETTLE "settle" false;
    LOCK "lock" false;
    PURGE "purge" false;
    PUT_BLOB "put_blob" false;
    LIST "list" false;
    REBIND "rebind" false;
    UNBIND "unbind" false;
    ADMIT "admit" false;
    BURY "bury" false;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every revision, and the BLAKE3 digest of its text without what builds for tests add.
    const REVISIONS: &[(u32, &str)] = &[
        (1, "002c6039df92f05723cacaef94be1f8a9f47389bf8951b74974391ee132418e3"),
        (2, "cea2bc8d3bb8712e7122fc5b2d6ba0e65f46da9148af619750bf7e32a22053af"),
        (3, "73fb39bb316d81782a791cf697eaace69bf4d9d337d76ea4d1f9c81e971d6091"),
        (4, "28e90bd167d7292b49f0ebfcee0070e30042fa004391bab7354954e3a66a818e"),
        (5, "2bb60c06849105305c7df5c0d6a562ebba441bbb9f16c9f3b79d8d63f0fcf94b"),
        (6, "438e19c6c34f0f5009a8d672fefd006c5ddb400484ccfacc76305dca573b62de"),
    ];

    #[test]
    fn another_text_has_another_revision() {
        let text = CODE.replacen(audit!(), "", 1);
        let hash = blake3::hash(text.as_bytes()).to_hex();
        let now = (revision(CODE.as_bytes()), hash.as_str());
        let (last, digest) = REVISIONS[REVISIONS.len() - 1];
        assert!(
            now == (last, digest),
            "the functions are not those of revision {last}: servers would keep whichever were \
             loaded last. Write -- revision {} at the head of CODE, run this test again, and add \
             what it says then to REVISIONS: ({}, \"{}\")",
            last + 1,
            now.0,
            now.1
        );
        assert!(REVISIONS.iter().map(|(revision, _)| *revision).eq(1..=last), "all, in order");
    }

    /// What a server lists that has this text, with functions of these names.
    fn listed<'a>(code: &str, functions: impl Iterator<Item = &'a str>) -> Value {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let functions = functions.map(|name| Value::Array(vec![text("name"), text(name)]));
        Value::Array(vec![Value::Map(vec![
            (text("library_name"), text(NAME)),
            (text("functions"), Value::Array(functions.collect())),
            (text("library_code"), text(code)),
        ])])
    }

    #[test]
    fn only_functions_of_a_later_build_are_left_and_they_must_all_be_there() {
        let ours = revision(CODE.as_bytes());
        let line = |revision: u32| format!("-- revision {revision}\n");
        let of = |revision| CODE.replacen(&line(ours), &line(revision), 1);
        let all = || Function::ALL.iter().map(|function| function.name);
        assert_eq!(Found::judge(&Value::Array(vec![])), Found::Replaceable);
        assert_eq!(Found::judge(&listed(CODE, all())), Found::Usable);
        assert_eq!(Found::judge(&listed(&of(ours - 1), all())), Found::Replaceable);
        let other = CODE.replacen("local", "local  ", 1);
        assert_eq!(Found::judge(&listed(&other, all())), Found::Replaceable);
        assert_eq!(Found::judge(&listed(&of(ours + 1), all())), Found::Usable);
        let missing = Found::judge(&listed(&of(ours + 1), all().skip(1)));
        assert_eq!(missing, Found::Later(ours + 1, Function::ALL[0].name));
    }

    #[test]
    fn the_text_has_a_revision() {
        assert!(revision(CODE.as_bytes()) > 0);
        assert_eq!(revision(b"#!lua name=bh_v1\n-- revision 12\nlocal a"), 12);
        assert_eq!(revision(b"#!lua name=bh_v1\nlocal a"), 0);
        assert_eq!(revision(b""), 0);
    }

    #[test]
    fn every_function_is_defined_with_the_flags_it_is_called_with() {
        for function in Function::ALL {
            let name = function.name.trim_start_matches("bh_v1_");
            let start = format!("define('{name}', {{");
            let at = CODE.find(&start).unwrap_or_else(|| panic!("{name} is not defined"));
            let flags = &CODE[at + start.len()..][..16];
            assert_eq!(flags.contains("no-writes"), function.reads, "{name}: {flags}");
        }
        assert_eq!(CODE.matches("\ndefine('").count(), Function::ALL.len());
    }
}
