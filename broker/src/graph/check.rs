//! What every call must keep to, wherever it comes from. Checked before anything is written, so that
//! a descriptor that can be encoded can also be decoded.

use crate::args::{Arg, DEPTH_MAX};
use crate::descriptor::ARGUMENTS_MAX;
use crate::limits;
use crate::task::TaskClass;

/// A call that cannot be part of a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The task's name, or the name given to the call, is empty or too long.
    #[error(
        "a task's name has 1 to {} bytes, this one has {length}; give it a shorter one with \
         `name = \"..\"`",
        limits::TASK_NAME_BYTES_MAX
    )]
    Name {
        /// Bytes of the name.
        length: usize,
    },
    /// The class cannot be encoded.
    #[error("the options of the task cannot be encoded")]
    Class,
    /// There are too many arguments.
    #[error("{count} arguments, at most {ARGUMENTS_MAX} are possible; put them into a struct")]
    Arguments {
        /// How many.
        count: usize,
    },
    /// An argument has too many lists inside lists.
    #[error("an argument has more than {DEPTH_MAX} lists inside each other; flatten it")]
    Nesting,
    /// An argument refers to an input that the call does not have.
    #[error("an argument uses input {number} of a call with {inputs} inputs")]
    InputNumber {
        /// The number.
        number: u32,
        /// Inputs of the call.
        inputs: usize,
    },
}

/// Checks a class's names.
pub(super) fn check_class(class: &TaskClass) -> Result<(), CallError> {
    for name in [Some(&class.task), class.options.name.as_ref()].into_iter().flatten() {
        if name.is_empty() || name.len() > limits::TASK_NAME_BYTES_MAX {
            return Err(CallError::Name { length: name.len() });
        }
    }
    Ok(())
}

/// Checks a call's arguments and returns how many bytes they take in a descriptor at the most,
/// whatever the order of the inputs.
pub(super) fn check_args(args: &[Arg], inputs: usize) -> Result<usize, CallError> {
    if args.len() > ARGUMENTS_MAX {
        return Err(CallError::Arguments { count: args.len() });
    }
    let mut bytes = 1;
    for arg in args {
        bytes += check_arg(arg, inputs, 0)?;
    }
    Ok(bytes)
}

fn check_arg(arg: &Arg, inputs: usize, depth: usize) -> Result<usize, CallError> {
    /// A tag and a number of 32 bits.
    const HEAD: usize = 6;
    if depth > DEPTH_MAX {
        return Err(CallError::Nesting);
    }
    match arg {
        Arg::Value(bytes) => Ok(HEAD + bytes.len()),
        Arg::Input(number) if (*number as usize) < inputs => Ok(HEAD),
        Arg::Input(number) => Err(CallError::InputNumber { number: *number, inputs }),
        Arg::List(items) => {
            let mut bytes = HEAD;
            for item in items {
                bytes += check_arg(item, inputs, depth + 1)?;
            }
            Ok(bytes)
        }
        Arg::Blob { digest, .. } => Ok(HEAD + digest.len()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        let nest = |depth| (0..depth).fold(Arg::List(vec![]), |arg, _| Arg::List(vec![arg]));
        assert!(check_args(&[nest(DEPTH_MAX)], 0).is_ok());
        assert_eq!(check_args(&[nest(DEPTH_MAX + 1)], 0), Err(CallError::Nesting));
        let missing = CallError::InputNumber { number: 2, inputs: 2 };
        assert_eq!(check_args(&[Arg::List(vec![Arg::Input(2)])], 2), Err(missing));
        let many = vec![Arg::Value(Bytes::new()); ARGUMENTS_MAX + 1];
        assert!(check_args(&many[1..], 0).is_ok());
        assert_eq!(check_args(&many, 0), Err(CallError::Arguments { count: many.len() }));
    }

    #[test]
    fn names_have_a_length() {
        let named = |length| TaskClass { task: "x".repeat(length), ..TaskClass::relay("q") };
        assert_eq!(check_class(&named(0)), Err(CallError::Name { length: 0 }));
        assert_eq!(check_class(&named(limits::TASK_NAME_BYTES_MAX)), Ok(()));
        assert!(check_class(&named(limits::TASK_NAME_BYTES_MAX + 1)).is_err());
    }
}
