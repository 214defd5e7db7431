//! Values that a worker keeps for its tasks, made when it starts.

use std::any::TypeId;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bolthole_broker::call::{Shared, States};

type Make = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Shared> + Send>> + Send>;

/// How to make the values, by their types.
#[derive(Default)]
pub(crate) struct MakeStates(Vec<(TypeId, Make)>);

impl MakeStates {
    /// Adds a value to be made; of one type the last counts.
    pub(crate) fn add<T, F, R>(&mut self, make: F)
    where
        T: Send + Sync + 'static,
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        let make: Make = Box::new(move || Box::pin(async { Arc::new(make().await) as Shared }));
        self.0.push((TypeId::of::<T>(), make));
    }

    /// Makes them, one after the other.
    pub(crate) async fn make(self) -> States {
        let mut states = States::new();
        for (id, make) in self.0 {
            states.insert(id, make().await);
        }
        states
    }
}
