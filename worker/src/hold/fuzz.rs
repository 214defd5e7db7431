//! The reader of spill files, as a function of bytes: for fuzzing.

use std::fs;
use std::path::Path;

use bolthole_broker::handoff::Digest;

use super::spill::{self, ReadError};

/// What the file is to hold.
const RESULT: &[u8] = b"a result that was spilled";

/// Writes a file at `path` that begins with so many bytes of the right file and goes on with
/// `bytes`, and reads it.
///
/// # Panics
/// When something else is read than was written once, or the disk fails.
pub fn spill_file(path: &Path, right: usize, bytes: &[u8]) {
    let whole = spill::whole(RESULT, Digest::of(RESULT));
    let file = [&whole[..right.min(whole.len())], bytes].concat();
    assert!(fs::write(path, &file).is_ok(), "cannot write {}", path.display());
    match spill::read(path, RESULT.len() as u64, Digest::of(RESULT)) {
        Ok(read) => assert!(read == RESULT && file == whole, "a damaged file was believed"),
        Err(ReadError::Damaged) => assert!(file != whole, "a good file was not believed"),
        Err(ReadError::Io(error)) => panic!("cannot read {}: {error}", path.display()),
    }
}
