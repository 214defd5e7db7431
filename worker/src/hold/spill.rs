//! Spill files: results that left memory. All of it blocks.
//!
//! A worker spills into a folder of its own, named by its incarnation, beside a lock file that it
//! keeps locked while it lives. A folder whose lock is free belongs to nobody and is removed. The
//! lock is the kernel's, so it holds across containers that share the disk, where process numbers
//! mean nothing. Nothing here is meant to survive its process, so nothing is synchronised to disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bolthole_broker::clock::random_bytes;
use bolthole_broker::failpoint::{self, Point};
use bolthole_broker::handoff::{Digest, buffers};
use bolthole_broker::id::Incarnation;
use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

/// What every spill file begins with.
const MAGIC: [u8; 8] = *b"BHSPILL1";
/// Magic, length and digest.
const HEADER_BYTES: usize = 32;

/// The folder of one incarnation.
#[derive(Debug)]
pub(super) struct SpillFolder {
    dir: PathBuf,
    lock_path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// Why a result could not be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file is not what was written.
    #[error("the spill file is damaged or gone")]
    Damaged,
    /// The disk failed, perhaps for the moment.
    #[error("failed to read the spill file: {0}")]
    Io(io::Error),
}

impl SpillFolder {
    /// Makes the folder of `incarnation` in `parent`, after removing those of the dead.
    pub(super) fn open(parent: &Path, incarnation: Incarnation) -> io::Result<Self> {
        private_dir(parent)?;
        remove_dead(parent);
        let dir = parent.join(incarnation.to_string());
        let lock_path = lock_path(&dir);
        // The lock first: a folder without one is anybody's to remove.
        let lock = own_lock(&lock_path)?;
        private_dir(&dir)?;
        Ok(Self { dir, lock_path, _lock: lock })
    }

    /// Writes a result to a new file, which is whole when it appears under its name.
    pub(super) fn write(&self, bytes: &[u8], digest: Digest) -> io::Result<PathBuf> {
        let name = format!("{:032x}", u128::from_be_bytes(random_bytes()));
        let (path, unfinished) = (
            self.dir.join(&name).with_extension("spill"),
            self.dir.join(&name).with_extension("tmp"),
        );
        let written =
            write_new(&unfinished, bytes, digest).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            // On a full disk the unfinished file would keep what space there is.
            let _ = fs::remove_file(&unfinished);
        }
        written.map(|()| path)
    }

    /// Removes the folder with all that is in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)?;
        fs::remove_file(&self.lock_path)
    }
}

fn write_new(path: &Path, bytes: &[u8], digest: Digest) -> io::Result<()> {
    failpoint::try_hit(Point::SpillWrite)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&header(bytes, digest))?;
    file.write_all(bytes)
}

fn header(bytes: &[u8], digest: Digest) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    header[16..].copy_from_slice(&digest.to_bytes());
    header
}

/// A spill file.
#[cfg(feature = "fuzzing")]
pub(super) fn whole(bytes: &[u8], digest: Digest) -> Vec<u8> {
    [&header(bytes, digest), bytes].concat()
}

/// Reads a result back and checks it against what was written.
pub(super) fn read(path: &Path, length: u64, digest: Digest) -> Result<Bytes, ReadError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ReadError::Damaged,
        _ => ReadError::Io(error),
    };
    let mut file = File::open(path).map_err(io)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let expected = header[..8] == MAGIC
        && header[8..16] == length.to_be_bytes()
        && header[16..] == digest.to_bytes()
        && size == length.saturating_add(HEADER_BYTES as u64);
    if !expected {
        return Err(ReadError::Damaged);
    }
    let no_memory = || ReadError::Io(io::ErrorKind::OutOfMemory.into());
    let size = usize::try_from(length).map_err(|_| no_memory())?;
    let mut bytes = buffers::take(size).map_err(|_| no_memory())?;
    file.take(length).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 != length || Digest::of(&bytes) != digest {
        return Err(ReadError::Damaged);
    }
    Ok(buffers::freeze(bytes))
}

/// Deletes files; those that cannot be go with their folder.
pub(super) fn delete(paths: &[PathBuf]) {
    for path in paths {
        let _ = fs::remove_file(path);
    }
}

/// Makes a folder that nobody else may look into, unless it exists.
fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.with_extension("lock")
}

/// Takes the lock at `path`, making its file; `None` when another has it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Whoever held the lock before may have removed the file: then the lock is on nothing.
        let here = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (here.dev(), here.ino()) => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes the lock of this worker's own folder. Its file is locked before it has its name: others
/// that start at the same time would take one that is not for a dead worker's.
fn own_lock(path: &Path) -> io::Result<File> {
    let taken =
        || io::Error::new(io::ErrorKind::AlreadyExists, "the spill folder has another owner");
    if path.exists() {
        return Err(taken());
    }
    let unnamed = path.with_extension("new");
    let lock = try_lock(&unnamed)?.ok_or_else(taken)?;
    fs::rename(&unnamed, path)?;
    Ok(lock)
}

/// Removes the folders in `parent` whose owners are dead. What fails is left to the next start.
fn remove_dead(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let ours = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let dir = parent.join(name);
        if !ours || (path != dir && path != lock_path(&dir)) {
            continue;
        }
        if let Ok(Some(_lock)) = try_lock(&lock_path(&dir)) {
            match fs::remove_dir_all(&dir) {
                Ok(()) => {
                    tracing::info!(dir = %dir.display(), "removed a dead worker's spill folder");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "failed to remove a spill folder");
                    continue;
                }
            }
            let _ = fs::remove_file(lock_path(&dir));
        }
    }
}
