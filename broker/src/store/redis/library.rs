//! The functions that run inside the server, as one library.

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
/// with each release that changes it. Of two builds which share a server, the one with the higher
/// revision loads its functions and the other uses them; of equal ones, who connects last. Within a
/// version of the protocol functions are added and mended, but none is removed, and none changes what
/// it takes and answers.
pub(super) const CODE: &str = concat!(
    "#!lua name=bh_v1\n-- revision 1\n",
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
);

/// Its name in the server.
pub(super) const NAME: &str = "bh_v1";

/// The revision of a library's text; 0 for one that has none.
pub(super) fn revision(code: &[u8]) -> u32 {
    let line = code.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    let number = line.strip_prefix(b"-- revision ").unwrap_or_default();
    std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
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
        }

        #[cfg(test)]
        const ALL: &[Function] = &[$(Function::$constant),*];
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_a_revision() {
        assert!(revision(CODE.as_bytes()) > 0);
        assert_eq!(revision(b"#!lua name=bh_v1\n-- revision 12\nlocal a"), 12);
        assert_eq!(revision(b"#!lua name=bh_v1\nlocal a"), 0);
        assert_eq!(revision(b""), 0);
    }

    #[test]
    fn every_function_is_defined_with_the_flags_it_is_called_with() {
        for function in ALL {
            let name = function.name.trim_start_matches("bh_v1_");
            let start = format!("define('{name}', {{");
            let at = CODE.find(&start).unwrap_or_else(|| panic!("{name} is not defined"));
            let flags = &CODE[at + start.len()..][..16];
            assert_eq!(flags.contains("no-writes"), function.reads, "{name}: {flags}");
        }
        assert_eq!(CODE.matches("\ndefine('").count(), ALL.len());
    }
}
