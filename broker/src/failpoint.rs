//! Named places at which a fault can be made to happen, so that tests reach every step of the
//! protocol instead of hoping that a timer hits it.
//!
//! Without the feature `failpoints`, which no ordinary build has, a place costs nothing and can do
//! nothing. With it, a process reads `BOLTHOLE_FAILPOINTS` once:
//!
//! ```text
//! commit.after_reply=stop@3;publish.before=delay(200ms)@*;spill.write=error(ENOSPC)
//! ```
//!
//! Each rule names a [`Point`], what happens there, and at which time that it is reached: `@3` is the
//! third, `@*` every one, the first without either. What can happen is `abort` (the process ends at
//! once, as if it had been killed), `stop` (it stops until somebody sends it SIGCONT), `delay(…)`,
//! and, at places that can fail, `error(…)` with the name of an error of the system. A process whose
//! rules cannot be read aborts: a test must not pass because of a slip in its rules.
//!
//! Before anything happens, a line `point hit process action` is added to the file that
//! `BOLTHOLE_FAILPOINTS_LOG` names, by one write. It proves to a test that its fault has happened.

use std::io;

#[cfg(feature = "failpoints")]
mod armed;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A place at which a fault can be made to happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// Every place, in the order of a task's life.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// What rules and logs call it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// Client: nothing of a segment is stored.
    StageBefore = "stage.before",
    /// Client: a segment is stored, and not part of the run.
    ActivateBeforeSend = "activate.before_send",
    /// Client: a segment is part of the run, and nobody was told.
    ActivateAfterReply = "activate.after_reply",
    /// Client: what was ready of a segment is published.
    SubmitPublished = "submit.published",
    /// Worker: a parcel has come, and nothing of it was looked at.
    DeliveryReceived = "delivery.received",
    /// Worker: tasks are known here, and nothing was asked of anybody.
    PrepareBefore = "prepare.before",
    /// Worker: leases are about to be asked for.
    LeaseBefore = "lease.before",
    /// Worker: leases were answered, and nobody has acted on it.
    LeaseAfter = "lease.after",
    /// Worker: an attempt is on a slot.
    RunMid = "run.mid",
    /// Worker: a result is kept, and nobody else knows of it.
    ResultStored = "result.stored",
    /// Worker: a commit is about to be sent.
    CommitBeforeSend = "commit.before_send",
    /// Worker: a commit was answered, and nobody has acted on it. An error here loses the reply.
    CommitAfterReply = "commit.after_reply",
    /// Worker: released tasks are about to be published.
    PublishBefore = "publish.before",
    /// Anyone: a message was handed to the broker, which has not confirmed it.
    PublishUnconfirmed = "publish.unconfirmed",
    /// Worker: a delivery is about to be acknowledged.
    AckBefore = "ack.before",
    /// Worker: a delivery was acknowledged.
    AckAfter = "ack.after",
    /// Worker: a piece of a large result was sent to a peer, and more is to come.
    HandoffMid = "handoff.mid",
    /// Worker: a result is about to be written to disk. An error here is the disk's.
    SpillWrite = "spill.write",
    /// Worker: it was told to go, and takes no more work.
    DrainMid = "drain.mid",
}

impl Point {
    /// Whether an error can be made to happen there.
    #[cfg(feature = "failpoints")]
    const fn can_fail(self) -> bool {
        matches!(self, Self::CommitAfterReply | Self::SpillWrite)
    }
}

/// The place is reached by a thread that may block.
#[inline]
pub fn hit(point: Point) {
    let _ = try_hit(point);
}

/// The place is reached by a thread that may block, and what it is about to do may fail.
///
/// # Errors
/// When a rule says so.
#[inline]
pub fn try_hit(point: Point) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    return armed::hit(point);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = point;
        Ok(())
    }
}

/// The place is reached by code that must not block its thread.
#[inline]
pub async fn reach(point: Point) {
    let _ = try_reach(point).await;
}

/// The place is reached by code that must not block its thread, and what it is about to do may fail.
///
/// # Errors
/// When a rule says so.
#[inline]
#[cfg_attr(
    not(feature = "failpoints"),
    expect(clippy::unused_async, reason = "only a fault has something to wait for")
)]
pub async fn try_reach(point: Point) -> io::Result<()> {
    #[cfg(feature = "failpoints")]
    return armed::reach(point).await;
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = point;
        Ok(())
    }
}
