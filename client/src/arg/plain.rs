//! Values that are here: encoded at the call.

use std::path::{Path, PathBuf};

use bolthole_broker::args::Arg;
use serde::Serialize;

use super::{Encoder, IntoArg};

/// `$from` is encoded as it is and decodes as `$to`.
macro_rules! encoded_as_it_is {
    ($([$($generics:tt)*] $from:ty => $to:ty;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> IntoArg<$to> for $from {
            fn put(self, call: &mut Encoder) -> Arg {
                call.value(&self)
            }
        }
    )*};
}

encoded_as_it_is! {
    [T: Serialize] T => T;
    [T: Serialize] &T => T;
    [T: Serialize] &&T => T;
    [] &str => String;
    [] &&str => String;
    [] &Path => PathBuf;
    [] &str => PathBuf;
    [] String => PathBuf;
    [] &String => PathBuf;
    [T: Serialize] &[T] => Vec<T>;
    [T: Serialize] Vec<&T> => Vec<T>;
    [] Vec<&str> => Vec<String>;
    [] &Vec<&str> => Vec<String>;
    [] &[&str] => Vec<String>;
    [] Option<&str> => Option<String>;
    [T: Serialize] Option<&T> => Option<T>;
}

/// Serde knows arrays of up to 32 items, as tuples; slices of any length are the same when encoded.
macro_rules! encoded_as_a_slice {
    ($([$($generics:tt)*] $from:ty => $to:ty;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($generics)*> IntoArg<$to> for $from {
            fn put(self, call: &mut Encoder) -> Arg {
                call.value(&self[..])
            }
        }
    )*};
}

encoded_as_a_slice! {
    [T: Serialize, const N: usize] [T; N] => Vec<T>;
    [T: Serialize, const N: usize] &[T; N] => Vec<T>;
    [const N: usize] [&str; N] => Vec<String>;
    [const N: usize] &[&str; N] => Vec<String>;
}
