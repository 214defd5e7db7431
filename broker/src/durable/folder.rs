//! The result folder: a file for each result, whole from the moment it has its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::is_whole;
use crate::clock::random_bytes;
use crate::id::{ResultKey, RunId};
use crate::locator::HeldRecord;

/// The result folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The setting is no URL of a folder.
    #[error("{0:?} is not a folder: write file:///absolute/path")]
    BadUrl(String),
    /// It is not there, or may not be read or written.
    #[error(
        "the result folder {path} cannot be used: {source}; it must be on a disk that all workers \
         and clients share, and theirs to write"
    )]
    Unusable {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it cannot be read or written.
    #[error("the result file {path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why: [`io::ErrorKind::StorageFull`] when the disk is full.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("the result file {0} is damaged")]
    Damaged(PathBuf),
}

/// The results of one namespace in the result folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `file:///absolute/path`, which must be there and writable. Each namespace has
    /// a folder of its own in it.
    ///
    /// # Errors
    /// [`FolderError::BadUrl`], [`FolderError::Unusable`].
    pub fn open(url: &str, namespace: &str) -> Result<Self, FolderError> {
        let path = url.strip_prefix("file://").map(Path::new).filter(|path| path.is_absolute());
        let path = path.ok_or_else(|| FolderError::BadUrl(url.to_owned()))?;
        let unusable = |source| FolderError::Unusable { path: path.to_owned(), source };
        // A folder that is not mounted must not be made on the disk below it.
        if !fs::metadata(path).map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let name = if namespace.is_empty() { "default" } else { namespace };
        let root = path.join(format!("bolthole-{name}"));
        fs::create_dir_all(&root).map_err(unusable)?;
        let probe = root.join(unfinished_name());
        File::create_new(&probe).map_err(unusable)?;
        fs::remove_file(&probe).map_err(unusable)?;
        Ok(Self { root })
    }

    /// Writes a result; when this returns, it is on disk.
    ///
    /// # Errors
    /// [`FolderError::File`]: nothing is left behind.
    pub async fn write(&self, key: ResultKey, bytes: Bytes) -> Result<(), FolderError> {
        let (dir, path) = (self.of_run(key.run), self.file(key));
        let place = path.clone();
        let write = move || write_whole(&dir, &place, &bytes);
        let written = spawn_blocking(write).await.map_err(io::Error::other).and_then(|done| done);
        written.map_err(|source| FolderError::File { path, source })
    }

    /// Reads a result and checks it against its record.
    ///
    /// # Errors
    /// [`FolderError::File`], [`FolderError::Damaged`].
    pub async fn read(&self, key: ResultKey, record: &HeldRecord) -> Result<Bytes, FolderError> {
        let path = self.file(key);
        let (place, record) = (path.clone(), *record);
        let read = move || {
            // A file of another length is not read into memory.
            if fs::metadata(&place)?.len() != record.length {
                return Ok(None);
            }
            fs::read(&place).map(|bytes| is_whole(&bytes, &record).then_some(bytes))
        };
        match spawn_blocking(read).await.map_err(io::Error::other).and_then(|done| done) {
            Ok(Some(bytes)) => Ok(bytes.into()),
            Ok(None) => Err(FolderError::Damaged(path)),
            Err(source) => Err(FolderError::File { path, source }),
        }
    }

    /// Deletes a run's results; one that has none is no error.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub async fn remove_run(&self, run: RunId) -> Result<(), FolderError> {
        let path = self.of_run(run);
        let dir = path.clone();
        let removed = spawn_blocking(move || fs::remove_dir_all(dir)).await;
        match removed.map_err(io::Error::other).and_then(|done| done) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FolderError::File { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Runs that have results here.
    ///
    /// # Errors
    /// [`FolderError::File`].
    pub async fn runs(&self) -> Result<Vec<RunId>, FolderError> {
        let root = self.root.clone();
        let list = move || -> io::Result<Vec<RunId>> {
            let names = fs::read_dir(root)?.flatten().map(|entry| entry.file_name());
            Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
        };
        let listed = spawn_blocking(list).await.map_err(io::Error::other).and_then(|done| done);
        listed.map_err(|source| FolderError::File { path: self.root.clone(), source })
    }

    fn of_run(&self, run: RunId) -> PathBuf {
        self.root.join(run.to_string())
    }

    fn file(&self, key: ResultKey) -> PathBuf {
        let ResultKey { run, task, generation, nonce } = key;
        self.of_run(run).join(format!("{task}-{generation}-{nonce:016x}"))
    }
}

fn unfinished_name() -> String {
    format!("{:032x}.tmp", u128::from_be_bytes(random_bytes()))
}

fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let unfinished = dir.join(unfinished_name());
    let written = write_synced(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // On a full disk the unfinished file would keep what space there is.
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    // The name is on disk as well, not the bytes alone.
    File::open(dir)?.sync_all()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;
    use crate::locator::Copies;

    #[tokio::test]
    async fn results_are_read_back_whole_or_not_at_all() {
        let disk = tempfile::tempdir().unwrap();
        let url = format!("file://{}", disk.path().display());
        let folder = Folder::open(&url, "test").unwrap();
        let run = RunId::new(1, 2);
        let key = ResultKey { run, task: TaskId::new(0, 7), generation: 1, nonce: 9 };
        let bytes = Bytes::from(vec![5; 100_000]);
        let (length, digest) = (bytes.len() as u64, crate::handoff::Digest::of(&bytes).to_bytes());
        let copies = Copies { folder: true, ..Copies::default() };
        let record = HeldRecord { length, digest, nonce: 9, copies };
        folder.write(key, bytes.clone()).await.unwrap();
        folder.write(key, bytes.clone()).await.unwrap();
        assert_eq!(folder.read(key, &record).await.unwrap(), bytes);
        assert_eq!(folder.runs().await.unwrap(), [run]);
        let other = HeldRecord { digest: [0; 16], ..record };
        assert!(matches!(folder.read(key, &other).await, Err(FolderError::Damaged(_))));
        let files = fs::read_dir(folder.of_run(run)).unwrap();
        assert_eq!(files.count(), 1, "nothing unfinished is left");
        folder.remove_run(run).await.unwrap();
        folder.remove_run(run).await.unwrap();
        assert!(matches!(folder.read(key, &record).await, Err(FolderError::File { .. })));
        assert!(folder.runs().await.unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_a_result_folder_is_refused() {
        assert!(matches!(Folder::open("/tmp", ""), Err(FolderError::BadUrl(_))));
        assert!(matches!(Folder::open("file://tmp", ""), Err(FolderError::BadUrl(_))));
        let missing = Folder::open("file:///no/such/folder", "");
        assert!(missing.unwrap_err().to_string().contains("/no/such/folder"));
    }
}
