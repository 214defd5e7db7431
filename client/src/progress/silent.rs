//! Built without the feature `progress`: nothing is shown.

use std::sync::Arc;

use crate::run::RunInner;

/// Shows nothing.
pub(crate) struct Progress;

impl Progress {
    /// Shows nothing, wanted or not.
    pub(crate) fn start(_run: &Arc<RunInner>, _wanted: bool) -> Self {
        Self
    }

    /// Nothing was shown.
    #[expect(clippy::unused_async, reason = "the one that shows something waits")]
    pub(crate) async fn finish(self) {}
}
