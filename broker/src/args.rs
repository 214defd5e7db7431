//! Arguments of a call as they travel: for each parameter a small tree whose leaves are encoded
//! values, results of other tasks, and blobs. Lists stand for vectors, arrays and tuples alike:
//! MessagePack does not tell them apart, so a worker assembles a tree into one MessagePack value and
//! decodes that as the parameter's type.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::wire::{Reader, WireError, put_bytes, put_varint};

/// Lists inside lists inside one argument.
pub(crate) const DEPTH_MAX: usize = 8;

/// Items for which there is room in a list before the first has been read.
const LIST_RESERVE: usize = 64;

const TAG_VALUE: u8 = 0;
const TAG_INPUT: u8 = 1;
const TAG_LIST: u8 = 2;
const TAG_BLOB: u8 = 3;

/// The content address of a blob: its BLAKE3 hash.
pub type BlobDigest = [u8; 32];

/// One argument, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arg {
    /// A MessagePack value.
    Value(Bytes),
    /// The result of the call's input number so-and-so.
    Input(u32),
    /// A vector, array or tuple.
    List(Vec<Arg>),
    /// A MessagePack value stored under its digest.
    Blob {
        /// BLAKE3 of the encoded value.
        digest: BlobDigest,
        /// Encoded bytes.
        length: u64,
    },
}

/// A value could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Its `Serialize` implementation said no.
    #[error("the value of type {type_name} cannot be encoded: {reason}")]
    Serialize {
        /// The Rust type.
        type_name: &'static str,
        /// What its `Serialize` said.
        reason: String,
    },
    /// It is larger than the system carries.
    #[error(
        "the value of type {type_name} has {length} encoded bytes, more than the {limit} allowed; load it in a task instead"
    )]
    TooLarge {
        /// The Rust type.
        type_name: &'static str,
        /// Encoded bytes.
        length: usize,
        /// [`limits::BLOB_BYTES_MAX`].
        limit: usize,
    },
}

/// Encodes a value as MessagePack with named fields, so that fields can be added later.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(value).map_err(|error| EncodeError::Serialize {
        type_name: std::any::type_name::<T>(),
        reason: error.to_string(),
    })
}

impl Arg {
    /// The argument that carries `value`; a large one becomes a blob, whose bytes come beside it.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<(Self, Option<Bytes>), EncodeError> {
        // Cut to size: the encoder starts with a buffer that most arguments do not fill.
        let encoded = Bytes::from(encode(value)?.into_boxed_slice());
        if encoded.len() > limits::BLOB_BYTES_MAX {
            return Err(EncodeError::TooLarge {
                type_name: std::any::type_name::<T>(),
                length: encoded.len(),
                limit: limits::BLOB_BYTES_MAX,
            });
        }
        if encoded.len() <= limits::INLINE_ARGUMENT_MAX {
            return Ok((Self::Value(encoded), None));
        }
        let digest = *blake3::hash(&encoded).as_bytes();
        Ok((Self::Blob { digest, length: encoded.len() as u64 }, Some(encoded)))
    }

    /// Appends the argument's wire form.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.put_renumbered(out, &|number| number);
    }

    /// Appends the argument's wire form with other input numbers: for a call whose inputs have been
    /// put into another order.
    pub(crate) fn put_renumbered(&self, out: &mut Vec<u8>, number_of: &dyn Fn(u32) -> u32) {
        match self {
            Self::Value(bytes) => {
                out.push(TAG_VALUE);
                put_bytes(out, bytes);
            }
            Self::Input(number) => {
                out.push(TAG_INPUT);
                put_varint(out, u64::from(number_of(*number)));
            }
            Self::List(items) => {
                out.push(TAG_LIST);
                put_varint(out, items.len() as u64);
                for item in items {
                    item.put_renumbered(out, number_of);
                }
            }
            Self::Blob { digest, length } => {
                out.push(TAG_BLOB);
                out.extend_from_slice(digest);
                put_varint(out, *length);
            }
        }
    }

    /// Gives every input its new number.
    pub(crate) fn renumber(&mut self, number_of: &dyn Fn(u32) -> u32) {
        match self {
            Self::Input(number) => *number = number_of(*number),
            Self::List(items) => items.iter_mut().for_each(|item| item.renumber(number_of)),
            Self::Value(_) | Self::Blob { .. } => {}
        }
    }

    /// Reads what [`Arg::put`] wrote; `whole` is the buffer behind `reader`, of which values are
    /// slices without a copy. `inputs` bounds the input numbers.
    pub fn take(reader: &mut Reader<'_>, whole: &Bytes, inputs: u32) -> Result<Self, WireError> {
        Self::take_at(reader, whole, inputs, 0)
    }

    fn take_at(
        reader: &mut Reader<'_>,
        whole: &Bytes,
        inputs: u32,
        depth: usize,
    ) -> Result<Self, WireError> {
        if depth > DEPTH_MAX {
            return Err(WireError::Invalid("nesting of an argument"));
        }
        match reader.byte("argument tag")? {
            TAG_VALUE => Ok(Self::Value(whole.slice_ref(reader.bytes("argument")?))),
            TAG_INPUT => {
                let number = reader.varint("input number")?;
                let number = u32::try_from(number).ok().filter(|number| *number < inputs);
                number.map(Self::Input).ok_or(WireError::Invalid("input number"))
            }
            TAG_LIST => {
                // An item takes two bytes at least.
                let count = reader.bounded("list", reader.rest().len() / 2)?;
                // Not more at once: each of the lists inside one another may claim as many items.
                let mut items = Vec::with_capacity(count.min(LIST_RESERVE));
                for _ in 0..count {
                    items.push(Self::take_at(reader, whole, inputs, depth + 1)?);
                }
                Ok(Self::List(items))
            }
            TAG_BLOB => Ok(Self::Blob {
                digest: reader.array("blob digest")?,
                length: reader.bounded("blob length", limits::BLOB_BYTES_MAX)? as u64,
            }),
            _ => Err(WireError::Invalid("argument tag")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_reads_back() {
        let tree = Arg::List(vec![
            Arg::Value(Bytes::from_static(b"\x01")),
            Arg::Input(2),
            Arg::List(vec![]),
            Arg::Blob { digest: [7; 32], length: 70_000 },
        ]);
        let mut out = Vec::new();
        tree.put(&mut out);
        let whole = Bytes::from(out);
        assert_eq!(Arg::take(&mut Reader::new(&whole), &whole, 3), Ok(tree));
        assert!(Arg::take(&mut Reader::new(&whole), &whole, 2).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut out = Vec::new();
        for _ in 0..1000 {
            out.extend_from_slice(&[TAG_LIST, 1]);
        }
        let whole = Bytes::from(out);
        assert!(Arg::take(&mut Reader::new(&whole), &whole, 0).is_err());
    }

    #[test]
    fn large_values_become_blobs_and_huge_ones_are_refused() {
        let (small, none) = Arg::of(&1_u8).unwrap();
        assert_eq!((small, none), (Arg::Value(Bytes::from_static(&[1])), None));
        let (large, bytes) = Arg::of(&"x".repeat(limits::INLINE_ARGUMENT_MAX)).unwrap();
        let bytes = bytes.unwrap();
        assert_eq!(
            large,
            Arg::Blob { digest: *blake3::hash(&bytes).as_bytes(), length: bytes.len() as u64 }
        );
        assert!(Arg::of(&"x".repeat(limits::BLOB_BYTES_MAX)).is_err());
    }
}
