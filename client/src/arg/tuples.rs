//! Tuples of two to four arguments in any mixture, and vectors of such tuples.
//!
//! A tuple of plain values is an argument already (`T` for `T`), so each implementation here has one
//! place that is certainly not plain: the first one whose type differs from the parameter's. The
//! places before it are plain, those after it are anything.

use std::path::{Path, PathBuf};

use bolthole_broker::args::Arg;
use serde::Serialize;

use super::{Encoder, IntoArg};
use crate::blob::Blob;
use crate::blocking;
use crate::delayed::Delayed;
use crate::handle::Handle;

/// `$form` stands for a `$to` at each place of a tuple.
macro_rules! differing {
    ($([$($generics:tt)*] $form:ty => $to:ty;)*) => {$(
        tuple! { [$($generics)*] [] $form => $to, [X B] }
        tuple! { [$($generics)*] [A] $form => $to, [] }
        tuple! { [$($generics)*] [] $form => $to, [X B, Y C] }
        tuple! { [$($generics)*] [A] $form => $to, [Y C] }
        tuple! { [$($generics)*] [A, B] $form => $to, [] }
        tuple! { [$($generics)*] [] $form => $to, [X B, Y C, Z D] }
        tuple! { [$($generics)*] [A] $form => $to, [Y C, Z D] }
        tuple! { [$($generics)*] [A, B] $form => $to, [Z D] }
        tuple! { [$($generics)*] [A, B, C] $form => $to, [] }
    )*};
}

macro_rules! tuple {
    ([$($generics:tt)*] [$($Same:ident),*] $form:ty => $to:ty, [$($Any:ident $P:ident),*]) => {
        #[diagnostic::do_not_recommend]
        impl<$($Same: Serialize,)* $($P, $Any: IntoArg<$P>,)* $($generics)*>
            IntoArg<($($Same,)* $to, $($P,)*)> for ($($Same,)* $form, $($Any,)*)
        {
            #[expect(non_snake_case, reason = "each value bears the name of its type")]
            fn put(self, call: &mut Encoder) -> Arg {
                let ($($Same,)* differing, $($Any,)*) = self;
                Arg::List(vec![
                    $(call.value(&$Same),)*
                    IntoArg::<$to>::put(differing, call),
                    $($Any.put(call),)*
                ])
            }
        }

        #[diagnostic::do_not_recommend]
        impl<$($Same: Serialize,)* $($P, $Any: IntoArg<$P>,)* $($generics)*>
            IntoArg<Vec<($($Same,)* $to, $($P,)*)>> for Vec<($($Same,)* $form, $($Any,)*)>
        {
            fn put(self, call: &mut Encoder) -> Arg {
                let items = self.into_iter();
                let put = |item| IntoArg::<($($Same,)* $to, $($P,)*)>::put(item, call);
                Arg::List(items.map(put).collect())
            }
        }
    };
}

differing! {
    [T] Delayed<T> => T;
    [T] &Delayed<T> => T;
    [T] Handle<T> => T;
    [T] &Handle<T> => T;
    [T] blocking::Handle<T> => T;
    [T] &blocking::Handle<T> => T;
    [T] Blob<T> => T;
    [T] &Blob<T> => T;
    [T: Serialize] &T => T;
    [] &str => String;
    [] &Path => PathBuf;
    [T] Vec<Delayed<T>> => Vec<T>;
    [T] Vec<&Delayed<T>> => Vec<T>;
    [T] &[Delayed<T>] => Vec<T>;
    [T] Option<Delayed<T>> => Option<T>;
}
