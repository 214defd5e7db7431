//! Rules left out on purpose: the model must find what each of them is there for.

/// A rule that the store or the workers do not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Plant {
    /// The store commits whatever generation was computed.
    AnyGeneration,
    /// The store takes the end of an effect or a failure from an attempt without the lease.
    NoFence,
    /// A commit counts its successors down twice.
    ReleaseTwice,
    /// A commit leaves its inputs' consumers as they are.
    ForgetConsumed,
    /// A lost result does not block its consumers again.
    RearmWithoutBlocking,
    /// What was computed from an uncommitted value is kept when that value's commit loses.
    KeepAfterLoss,
    /// A worker goes on with what it knew when the store has begun another life.
    TrustThePast,
    /// A worker that is refused a lease runs the task all the same.
    IgnoreRefusal,
    /// Nobody looks for ready tasks without a message.
    NeverScan,
    /// A worker whose commit lost keeps its value as if it were the committed one.
    ServeUncommitted,
}
