//! Byte strings. Their encoding is the bytes themselves behind a short head, so they go from result
//! to parameter as parts of the same memory: not copied, not decoded.

use std::any::Any;

use bytes::Bytes;

use super::Call;
use crate::args::{Arg, EncodeError, encode};
use crate::handoff::buffers;

/// MessagePack's byte strings, by the width of their length.
const BIN_8: u8 = 0xc4;
const BIN_16: u8 = 0xc5;
const BIN_32: u8 = 0xc6;

/// The byte string whose encoding this is; `None` for every other value.
fn part_of(encoded: &Bytes) -> Option<Bytes> {
    let (head, length) = match *encoded.get(..5)? {
        [BIN_8, length, ..] => (2, usize::from(length)),
        [BIN_16, high, low, ..] => (3, usize::from(u16::from_be_bytes([high, low]))),
        [BIN_32, a, b, c, d] => (5, usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?),
        _ => return None,
    };
    (encoded.len() - head == length).then(|| encoded.slice(head..))
}

/// `value`, when it is a byte string. A result is in memory once, inside its encoding.
pub(super) fn bytes_of<T: 'static>(value: &T) -> Option<Bytes> {
    (value as &dyn Any).downcast_ref::<Bytes>().cloned()
}

/// Bytes from which on a string is encoded where it is: to move it up by the length of its head takes
/// a fraction of the time that a system takes to find as much new memory.
const IN_PLACE_BYTES: usize = 256 << 10;

/// The encoding of a byte string; in the same memory when it is a large one that nobody else has.
pub(super) fn encoded(bytes: Bytes) -> Result<Bytes, EncodeError> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() >= IN_PLACE_BYTES);
    let Some(length) = length else { return Ok(encode(&bytes)?.into()) };
    let [a, b, c, d] = length.to_be_bytes();
    let head = [BIN_32, a, b, c, d];
    let mut own = match bytes.try_into_mut() {
        Ok(own) => Vec::from(own),
        Err(shared) => return copied(&shared, head),
    };
    // Not twice as much, as it would grow by itself.
    own.reserve_exact(head.len());
    own.splice(..0, head);
    Ok(buffers::freeze(own))
}

/// The encoding of a byte string that others have, too.
fn copied(bytes: &Bytes, head: [u8; 5]) -> Result<Bytes, EncodeError> {
    let Ok(mut buffer) = buffers::take(head.len() + bytes.len()) else {
        return Ok(encode(bytes)?.into());
    };
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(bytes);
    Ok(buffers::freeze(buffer))
}

impl Call {
    /// The argument of parameter `number`, when it is a byte string, or a list of them, and `T` is,
    /// too.
    pub(super) fn raw<T: 'static>(&self, number: usize) -> Option<T> {
        let mut found = None::<T>;
        let place = &mut found as &mut dyn Any;
        if let Some(place) = place.downcast_mut::<Option<Bytes>>() {
            *place = self.raw_leaf(self.args.get(number)?);
        } else if let Some(place) = place.downcast_mut::<Option<Vec<Bytes>>>() {
            let Arg::List(items) = self.args.get(number)? else { return None };
            *place = items.iter().map(|item| self.raw_leaf(item)).collect();
        }
        found
    }

    fn raw_leaf(&self, arg: &Arg) -> Option<Bytes> {
        match arg {
            Arg::List(_) => None,
            leaf => part_of(&self.leaf(leaf).ok()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, done};
    use super::*;

    fn lies_in(part: &[u8], whole: &[u8]) -> bool {
        whole.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn byte_strings_of_all_lengths_are_parts_of_their_encodings() {
        for length in [0, 1, 3, 255, 256, 65_535, 65_536, 1 << 20] {
            let bytes = Bytes::from(vec![7; length]);
            let result = done(bytes.clone());
            assert_eq!(rmp_serde::from_slice::<Bytes>(&result.bytes).unwrap(), bytes);
            let call = call(vec![Arg::Input(0)], vec![result.clone()]);
            let lent = call.lend::<Bytes>(0).unwrap();
            assert_eq!(*lent, bytes);
            assert!(length < 3 || lies_in(&lent, &result.bytes), "{length}");
            assert_eq!(call.take::<Bytes>(0).unwrap(), bytes);
        }
    }

    #[test]
    fn a_large_byte_string_is_encoded_where_it_is_unless_somebody_else_has_it() {
        let mut string = Vec::with_capacity(IN_PLACE_BYTES + 5);
        string.resize(IN_PLACE_BYTES, 7);
        let (place, copy) = (string.as_ptr(), string.clone());
        let own = encoded(Bytes::from(string)).unwrap();
        assert_eq!(own.as_ptr(), place);
        let shared = Bytes::from(copy);
        let other = encoded(shared.clone()).unwrap();
        assert_eq!((&own, part_of(&other)), (&other, Some(shared.clone())));
        let end = encoded(shared.slice(5..)).unwrap();
        assert_eq!((end.len(), shared.len()), (other.len() - 5, IN_PLACE_BYTES));
    }

    #[test]
    fn lists_of_byte_strings_are_not_copied() {
        let results = vec![done(Bytes::from(vec![1; 100])), done(Bytes::from(vec![2; 70_000]))];
        let encoded = Bytes::from(encode(&Bytes::from_static(b"abcdef")).unwrap());
        let list = Arg::List(vec![Arg::Input(1), Arg::Value(encoded.clone()), Arg::Input(0)]);
        let call = call(vec![list], results.clone());
        let lent = call.lend::<Vec<Bytes>>(0).unwrap();
        let lengths: Vec<usize> = lent.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [70_000, 6, 100]);
        assert!(lies_in(&lent[0], &results[1].bytes) && lies_in(&lent[1], &encoded));
    }

    #[test]
    fn what_only_looks_like_bytes_is_decoded() {
        for encoded in
            [&[BIN_8, 2, 1][..], &[BIN_8, 1, 1, 1, 1], &[BIN_32, 0, 0, 0], &[0x93, 1, 2, 3], &[]]
        {
            assert_eq!(part_of(&Bytes::copy_from_slice(encoded)), None, "{encoded:?}");
        }
        let list = Arg::Value(Bytes::from(encode(&[1_u8, 2, 3]).unwrap()));
        let call = call(vec![list], vec![]);
        assert_eq!(call.take::<Bytes>(0).unwrap(), [1, 2, 3][..]);
        assert!(call.take::<Bytes>(1).is_err());
    }
}
