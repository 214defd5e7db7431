//! References to results and blobs, and lists of them.

use bolthole_broker::args::Arg;

use super::{Encoder, IntoArg, Reference, nil};
use crate::blob::Blob;
use crate::blocking;
use crate::delayed::Delayed;
use crate::handle::Handle;

macro_rules! references {
    ($($form:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T> IntoArg<T> for $form {
            fn put(self, call: &mut Encoder) -> Arg {
                self.refer(call)
            }
        }

        list! { [T] Vec<$form> => Vec<T> }
        list! { [T] &Vec<$form> => Vec<T> }
        list! { [T] &[$form] => Vec<T> }
        list! { [T, const N: usize] [$form; N] => Vec<T> }
        list! { [T, const N: usize] &[$form; N] => Vec<T> }
        list! { [T, const N: usize] [$form; N] => [T; N] }
        list! { [T, const N: usize] &[$form; N] => [T; N] }
        list_of_lists! { Vec<Vec<$form>> }
        list_of_lists! { &Vec<Vec<$form>> }
        list_of_lists! { &[Vec<$form>] }

        #[diagnostic::do_not_recommend]
        impl<T> IntoArg<Option<T>> for Option<$form> {
            fn put(self, call: &mut Encoder) -> Arg {
                self.map_or_else(nil, |some| some.refer(call))
            }
        }

        #[diagnostic::do_not_recommend]
        #[allow(clippy::ref_option_ref, reason = "a field may be of that type")]
        impl<T> IntoArg<Option<T>> for &Option<$form> {
            fn put(self, call: &mut Encoder) -> Arg {
                self.as_ref().map_or_else(nil, |some| some.refer(call))
            }
        }
    )*};
}

macro_rules! list {
    ([$($generics:tt)*] $list:ty => $to:ty) => {
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> IntoArg<$to> for $list {
            fn put(self, call: &mut Encoder) -> Arg {
                call.list(self.iter())
            }
        }
    };
}

macro_rules! list_of_lists {
    ($list:ty) => {
        #[diagnostic::do_not_recommend]
        impl<T> IntoArg<Vec<Vec<T>>> for $list {
            fn put(self, call: &mut Encoder) -> Arg {
                Arg::List(self.iter().map(|inner| call.list(inner.iter())).collect())
            }
        }
    };
}

/// What iterating over references gives.
macro_rules! references_of_references {
    ($($form:ty),*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T> IntoArg<T> for &&$form {
            fn put(self, call: &mut Encoder) -> Arg {
                self.refer(call)
            }
        }
    )*};
}

references_of_references!(Delayed<T>, Handle<T>, Blob<T>, blocking::Handle<T>);
references!(Delayed<T>, &Delayed<T>, Handle<T>, &Handle<T>, Blob<T>, &Blob<T>);
references!(blocking::Handle<T>, &blocking::Handle<T>);
