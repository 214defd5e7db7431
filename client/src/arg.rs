//! What may stand where a call expects a `P`: a `P` or something that becomes one on the way to
//! the worker.
//!
//! | given | for a parameter of type |
//! |---|---|
//! | `T`, `Delayed<T>`, `Handle<T>`, `Blob<T>`, also behind `&` or `&&` | `T` |
//! | `&str`, `&&str` | `String` |
//! | `&Path`, `&str`, `String` | `PathBuf` |
//! | a slice, an array or a vector of any of those | `Vec<T>`, `[T; N]` |
//! | a vector of such vectors | `Vec<Vec<T>>` |
//! | `Option` of a reference to a result | `Option<T>` |
//! | tuples of two to four of those in any mixture, and vectors of such tuples | the same of `T`s |
//!
//! An empty list or a `None` does not tell which of these it is: `Vec::<u8>::new()`, `None::<u8>`.
//!
//! The implementations are concrete, written out by macros: one that says "a vector of anything
//! that is an argument" would cover `Vec<T>` twice, since every `T` is an argument itself.

mod collections;
mod plain;
mod tuples;

use std::collections::HashMap;
use std::sync::Arc;

use bolthole_broker::args::Arg;
use bolthole_broker::registry::TaskEntry;
use bytes::Bytes;
use serde::Serialize;

use crate::blob::Blob;
use crate::blocking;
use crate::delayed::{CallNode, Delayed, Extras};
use crate::handle::Handle;

/// A value that a call accepts for a parameter of type `P`; see the [table](crate::arg).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument for a parameter of type `{P}`",
    label = "expected `{P}`, or a `Delayed` or `Handle` of it",
    note = "a `{P}` may be given as it is or behind `&`, when it implements `serde::Serialize`, or \
            as `Delayed`, `Handle` or `Blob` of it"
)]
pub trait IntoArg<P>: Sized {
    #[doc(hidden)]
    fn put(self, call: &mut Encoder) -> Arg;
}

/// Names a value that is elsewhere.
pub(crate) trait Reference {
    fn refer(&self, call: &mut Encoder) -> Arg;
}

/// Inputs below this number are found by looking at each; more need an index.
const SCAN_MAX: usize = 16;

/// Collects the arguments of one call.
#[doc(hidden)]
pub struct Encoder {
    entry: &'static TaskEntry,
    inputs: Vec<Arc<CallNode>>,
    /// The inputs' places by address, once there are more than [`SCAN_MAX`].
    places: HashMap<*const CallNode, u32>,
    args: Vec<Arg>,
    extras: Option<Box<Extras>>,
}

impl Encoder {
    /// For a call of `entry` with so many arguments.
    pub fn new(entry: &'static TaskEntry, arguments: usize) -> Self {
        Self {
            entry,
            inputs: Vec::new(),
            places: HashMap::new(),
            args: Vec::with_capacity(arguments),
            extras: None,
        }
    }

    /// The next argument.
    pub fn arg<P>(&mut self, value: impl IntoArg<P>) {
        let arg = value.put(self);
        self.args.push(arg);
    }

    /// The call.
    pub fn finish<T>(mut self) -> Delayed<T> {
        if self.extras.as_ref().is_some_and(|extras| !extras.earlier.is_empty()) {
            let inputs = u32::try_from(self.inputs.len()).unwrap_or(u32::MAX);
            self.args.iter_mut().for_each(|arg| number_earlier(arg, inputs));
        }
        Delayed::new(CallNode {
            entry: self.entry,
            inputs: self.inputs.into_boxed_slice(),
            args: self.args.into_boxed_slice(),
            extras: self.extras,
        })
    }

    /// A part of an argument that is here. An error is kept for when the graph is captured: the
    /// call site stays as plain as a function call.
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Arg {
        match Arg::of(value) {
            Ok((arg, None)) => arg,
            Ok((arg, Some(bytes))) => {
                if let Arg::Blob { digest, .. } = &arg {
                    self.extras.get_or_insert_default().blobs.push((*digest, bytes));
                }
                arg
            }
            Err(error) => {
                let number = self.args.len();
                self.extras.get_or_insert_default().error.get_or_insert((number, error));
                nil()
            }
        }
    }

    fn list(&mut self, items: impl Iterator<Item = impl Reference>) -> Arg {
        Arg::List(items.map(|item| item.refer(self)).collect())
    }

    /// The number of an input, the same whenever the same call is named again.
    fn input(&mut self, node: &Arc<CallNode>) -> u32 {
        let next = u32::try_from(self.inputs.len()).unwrap_or(u32::MAX);
        if self.inputs.len() < SCAN_MAX {
            let found = (0..).zip(&self.inputs).find(|(_, input)| Arc::ptr_eq(input, node));
            if let Some((place, _)) = found {
                return place;
            }
        } else {
            if self.places.is_empty() {
                self.places = self.inputs.iter().map(Arc::as_ptr).zip(0..).collect();
            }
            let place = *self.places.entry(Arc::as_ptr(node)).or_insert(next);
            if place != next {
                return place;
            }
        }
        self.inputs.push(Arc::clone(node));
        next
    }
}

/// Inputs that are tasks of the run already are numbered down from the top while the arguments are
/// collected, since they follow the other inputs, whose count is not yet known.
fn number_earlier(arg: &mut Arg, inputs: u32) {
    match arg {
        Arg::Input(number) if *number > u32::MAX / 2 => *number = inputs + (u32::MAX - *number),
        Arg::List(items) => items.iter_mut().for_each(|item| number_earlier(item, inputs)),
        _ => {}
    }
}

/// MessagePack's nil: `None` and `()`.
fn nil() -> Arg {
    Arg::Value(Bytes::from_static(&[0xc0]))
}

impl<T> Reference for Delayed<T> {
    fn refer(&self, call: &mut Encoder) -> Arg {
        Arg::Input(call.input(&self.node))
    }
}

impl<T> Reference for Handle<T> {
    fn refer(&self, call: &mut Encoder) -> Arg {
        let earlier = &mut call.extras.get_or_insert_default().earlier;
        let id = (self.run(), self.task());
        let place = earlier.iter().position(|known| *known == id).unwrap_or(earlier.len());
        if place == earlier.len() {
            earlier.push(id);
        }
        Arg::Input(u32::MAX - u32::try_from(place).unwrap_or(u32::MAX / 4))
    }
}

impl<T> Reference for blocking::Handle<T> {
    fn refer(&self, call: &mut Encoder) -> Arg {
        self.as_async().refer(call)
    }
}

impl<T> Reference for Blob<T> {
    fn refer(&self, call: &mut Encoder) -> Arg {
        let blobs = &mut call.extras.get_or_insert_default().blobs;
        if blobs.iter().all(|(digest, _)| *digest != self.digest()) {
            blobs.push((self.digest(), self.bytes().clone()));
        }
        Arg::Blob { digest: self.digest(), length: self.bytes().len() as u64 }
    }
}

impl<R: Reference> Reference for &R {
    fn refer(&self, call: &mut Encoder) -> Arg {
        (**self).refer(call)
    }
}
