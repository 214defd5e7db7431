//! Readers of what stands in front of the client library, as functions of bytes: for fuzzing.

use bytes::Bytes;

use super::hosts::Hosts;
use super::strain::Strainer;
use crate::queue::error::ConnectError;

/// What is said of the broker at a URL before anything is connected.
///
/// # Errors
/// When the URL is none.
pub fn url(url: &str) -> Result<String, ConnectError> {
    let hosts = Hosts::parse(url)?;
    Ok(format!("{} {hosts:?}", hosts.server()))
}

/// Reads the first frame of a broker.
pub fn greeting(bytes: &[u8]) {
    let _ = super::greeting::read(Bytes::copy_from_slice(bytes));
}

/// What passes of frames that arrive in these pieces.
pub fn strain<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut strainer, mut passed) = (Strainer::default(), Vec::new());
    for piece in pieces {
        strainer.strain(piece, &mut passed);
    }
    passed
}
