//! The attribute `#[task]`. Used through the crate `bolthole`, which documents it.
//!
//! | module | what it does |
//! |---|---|
//! | `options` | reads the attribute's arguments |
//! | `function` | reads the function: its parameters and what it returns |
//! | `signature` | writes types as text that no compiler version changes |
//! | `expand` | writes the code: a struct of the function's name and a registered body |

mod expand;
mod function;
mod options;
mod signature;

use proc_macro::TokenStream;

/// Makes a function a task.
///
/// The function stays as it is and can be called and tested as any other. Beside it stands a type
/// of the same name, with `delayed` (a call that runs later, elsewhere), `submit` (the same, handed
/// to a client, a run or the context of a task at once) and `map` (`delayed` for each item).
///
/// # Parameters
/// `T`, `&T`, `&str`, `&[T]` and `&Path` are arguments; borrowed ones are lent by the worker, which
/// need not copy or decode a value that it has. `State<T>` (a value that the worker keeps) and
/// `&Ctx` (what a task may ask about its attempt) are no arguments.
///
/// # Results
/// A `T`; a `Result<T, E>`, whose error is the task's failure (any `E` that turns into
/// `Box<dyn Error + Send + Sync>`); or a `Delayed<T>`, whose result becomes the task's own.
///
/// # Options
/// ```text
/// pure                          equal calls are one task; may be cached and computed again
/// effect                        acts on the outside: leased, committed alone, its result kept
/// retries = 3                   attempts after the first that fails with an error of its own
/// backoff = "1s..2m"            the waits between them: the first, doubled up to the last
/// timeout = "10m"               the longest that one attempt may run
/// isolated                      in a process of its own, which the time limit kills
/// queue = "gpu"                 the queue whose workers run it
/// priority = 5                  -128 to 127; higher runs first among what is ready
/// resources(gpu = 1)            what a worker must have free to run it
/// concurrency = 4               calls of it that run at once, in all workers together
/// not_before = "5m"             not started earlier, from the submission
/// expires = "1h"                not started later, from the submission
/// name = "billing::charge"      its name in messages, in place of `module::path::function`
/// crate = "path"                where the crate `bolthole` is found
/// ```
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let item = proc_macro2::TokenStream::from(item);
    let code = expand::task(attribute.into(), item.clone());
    // A mistake is reported beside the untouched function, so that nothing else seems missing.
    code.unwrap_or_else(|error| {
        let error = error.into_compile_error();
        quote::quote!(#item #error)
    })
    .into()
}
