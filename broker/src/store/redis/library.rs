//! The functions that run inside the server, as one library.

/// The library's text: the prelude, then a file for each group of functions.
pub(super) const CODE: &str = concat!(
    "#!lua name=bh_v1\n",
    include_str!("functions/prelude.lua"),
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
