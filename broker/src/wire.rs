//! Compact binary building blocks of parcels, descriptors and function arguments: LEB128 numbers
//! and length-prefixed bytes. The reader trusts nothing: every length is checked against what is
//! there before anything is taken or allocated.

/// The formats that processes of one cluster must agree on, each with its version: what it is
/// called for people, and what its bytes begin with.
pub fn formats() -> [(&'static str, String); 5] {
    let magic = |bytes: [u8; 4]| String::from_utf8_lossy(&bytes).into_owned();
    [
        ("parcel", magic(crate::parcel::MAGIC)),
        ("control message", magic(crate::control::MAGIC)),
        ("descriptors", magic(crate::descriptor::MAGIC)),
        ("data port", crate::handoff::frame::VERSION.to_string()),
        ("functions in Redis", crate::store::functions_version()),
    ]
}

/// Bytes that are not what their format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the value does.
    #[error("the bytes end in the middle of {0}")]
    Truncated(&'static str),
    /// The first bytes name another format or a version this build does not read.
    #[error("not {expected}: the first bytes are {found:02x?}")]
    Magic {
        /// What was to be read.
        expected: &'static str,
        /// The first four bytes at the most.
        found: Vec<u8>,
    },
    /// A number is outside what its place allows.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// The name of the number.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A value that its place forbids.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// Bytes follow where the format has ended.
    #[error("{0} bytes follow the end of the value")]
    Trailing(usize),
}

/// Appends `value` as LEB128: 7 bits a byte, least significant first.
#[allow(clippy::cast_possible_truncation, reason = "the low 7 bits are meant")]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the length of `bytes`, then `bytes`.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a slice from its front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        if length > self.rest.len() {
            return Err(WireError::Truncated(what));
        }
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let bytes = self.take(N, what)?;
        bytes.try_into().map_err(|_| WireError::Truncated(what))
    }

    /// The next byte.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A number written by [`put_varint`].
    pub fn varint(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Invalid(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Invalid(what))
    }

    /// A number of at most `limit`.
    pub fn bounded(&mut self, what: &'static str, limit: usize) -> Result<usize, WireError> {
        let value = self.varint(what)?;
        match usize::try_from(value) {
            Ok(small) if small <= limit => Ok(small),
            _ => Err(WireError::Limit { what, found: value, limit: limit as u64 }),
        }
    }

    /// Bytes written by [`put_bytes`].
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let length = self.varint(what)?;
        let length = usize::try_from(length).map_err(|_| WireError::Truncated(what))?;
        self.take(length, what)
    }

    /// Checks that the next four bytes are `magic`.
    pub fn magic(&mut self, magic: [u8; 4], expected: &'static str) -> Result<(), WireError> {
        let found = &self.rest[..self.rest.len().min(4)];
        if found != magic {
            return Err(WireError::Magic { expected, found: found.to_vec() });
        }
        self.rest = &self.rest[4..];
        Ok(())
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint("value"), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.bytes("part").is_ok() {}
            prop_assert!(reader.rest().len() <= bytes.len());
        }
    }

    #[test]
    fn a_number_above_64_bits_is_refused() {
        let mut bytes = vec![0xff; 9];
        bytes.push(2);
        assert_eq!(Reader::new(&bytes).varint("value"), Err(WireError::Invalid("value")));
    }
}
