//! A large value that many calls share: encoded once, stored once for each graph.

use std::fmt;
use std::marker::PhantomData;

use bolthole_broker::args::{BlobDigest, EncodeError, encode};
use bolthole_broker::limits;
use bytes::Bytes;
use serde::Serialize;

/// An encoded `T` under its content address. Cloning it copies no data.
pub struct Blob<T> {
    digest: BlobDigest,
    bytes: Bytes,
    value: PhantomData<fn() -> T>,
}

impl<T: Serialize> Blob<T> {
    /// Encodes `value`, now and never again. Fails when `value` cannot be encoded or has more than
    /// [`limits::BLOB_BYTES_MAX`] encoded bytes: so much belongs in a task that loads it.
    pub fn new(value: &T) -> Result<Self, EncodeError> {
        let bytes = Bytes::from(encode(value)?.into_boxed_slice());
        if bytes.len() > limits::BLOB_BYTES_MAX {
            return Err(EncodeError::TooLarge {
                type_name: std::any::type_name::<T>(),
                length: bytes.len(),
                limit: limits::BLOB_BYTES_MAX,
            });
        }
        Ok(Self { digest: *blake3::hash(&bytes).as_bytes(), bytes, value: PhantomData })
    }
}

impl<T> Blob<T> {
    /// Its content address.
    pub fn digest(&self) -> BlobDigest {
        self.digest
    }

    /// The encoded value.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl<T> Clone for Blob<T> {
    fn clone(&self) -> Self {
        Self { digest: self.digest, bytes: self.bytes.clone(), value: PhantomData }
    }
}

impl<T> fmt::Debug for Blob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.bytes.len())
    }
}
