//! The reference database: what is known of planes and airports, in `SQLite`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};

use crate::tables::read_columns;

const SCHEMA: &str = "
    CREATE TABLE planes (tailnum TEXT PRIMARY KEY, year INTEGER) WITHOUT ROWID;
    CREATE TABLE airports (faa TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
";

/// What every day is processed against.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reference {
    /// Year of manufacture by registration; a plane of unknown year is absent.
    pub(crate) years: BTreeMap<String, i32>,
    /// Codes of the airports.
    pub(crate) airports: BTreeSet<String>,
}

impl Reference {
    /// Reads the database that [`build_if_missing`] wrote.
    pub(crate) fn read(database: &Path) -> Result<Self> {
        Self::query(database).with_context(|| {
            format!("failed to read {}: delete it, and the next run builds it", database.display())
        })
    }

    fn query(database: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let years = connection
            .prepare("SELECT tailnum, year FROM planes WHERE year IS NOT NULL")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let airports = connection
            .prepare("SELECT faa FROM airports")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Self { years, airports })
    }
}

/// The path, in `folder`, of the database of these reference tables, which is built first when it
/// is not there. Its name tells its content, so equal data give an equal path in every process.
pub(crate) fn build_if_missing(data: &Path, folder: &Path) -> Result<PathBuf> {
    let [planes, airports] = ["planes.csv.gz", "airports.csv.gz"].map(|name| data.join(name));
    let mut digest = blake3::Hasher::new();
    digest.update(SCHEMA.as_bytes());
    for table in [&planes, &airports] {
        let bytes =
            std::fs::read(table).with_context(|| format!("failed to read {}", table.display()))?;
        digest.update(blake3::hash(&bytes).as_bytes());
    }
    let name = format!("bolthole-etl-{}.db", &digest.finalize().to_hex()[..16]);
    let database = std::path::absolute(folder)?.join(name);
    if !database.exists() {
        build(&planes, &airports, &database)
            .with_context(|| format!("failed to build {}", database.display()))?;
    }
    Ok(database)
}

/// Writes the database beside its place and moves it there whole: of processes that do so at the
/// same time each sees no file or a complete one.
fn build(planes: &Path, airports: &Path, database: &Path) -> Result<()> {
    let folder = database.parent().context("it has no folder")?;
    let scratch = tempfile::tempdir_in(folder)?;
    let unfinished = scratch.path().join("reference.db");

    let mut connection = Connection::open(&unfinished)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    {
        let mut insert = transaction.prepare("INSERT INTO planes VALUES (?, ?)")?;
        for [tailnum, year] in read_columns(planes, ["tailnum", "year"])? {
            let year: Option<i32> = year
                .map(|year| year.parse())
                .transpose()
                .with_context(|| format!("failed to read {}: year", planes.display()))?;
            insert.execute(params![tailnum, year])?;
        }
        let mut insert = transaction.prepare("INSERT INTO airports VALUES (?, ?)")?;
        for [faa, name] in read_columns(airports, ["faa", "name"])? {
            insert.execute(params![faa, name])?;
        }
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;

    std::fs::rename(unfinished, database)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::tests::write_gz;

    fn write_tables(data: &Path) {
        write_gz(&data.join("planes.csv.gz"), "tailnum,year,type\nN2,NA,jet\nN1,1999,jet\n");
        write_gz(&data.join("airports.csv.gz"), "faa,name\nMIA,Miami\nIAH,Houston\n");
    }

    #[test]
    fn the_database_gives_back_the_tables() {
        let folder = tempfile::tempdir().unwrap();
        write_tables(folder.path());
        let database = build_if_missing(folder.path(), folder.path()).unwrap();
        let reference = Reference::read(&database).unwrap();
        assert_eq!(reference.years, BTreeMap::from([("N1".to_owned(), 1999)]));
        assert_eq!(reference.airports, ["IAH", "MIA"].map(str::to_owned).into());
    }

    #[test]
    fn processes_that_race_all_find_a_whole_database_and_leave_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_tables(data.path());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let database = build_if_missing(data.path(), folder.path()).unwrap();
                    assert_eq!(Reference::read(&database).unwrap().years.len(), 1);
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn other_tables_make_another_database() {
        let folder = tempfile::tempdir().unwrap();
        write_tables(folder.path());
        let before = build_if_missing(folder.path(), folder.path()).unwrap();
        assert_eq!(build_if_missing(folder.path(), folder.path()).unwrap(), before);
        write_gz(&folder.path().join("planes.csv.gz"), "tailnum,year\nN1,2000\n");
        assert_ne!(build_if_missing(folder.path(), folder.path()).unwrap(), before);
    }

    #[test]
    fn failures_name_the_file_and_leave_none_half_built() {
        let folder = tempfile::tempdir().unwrap();
        write_tables(folder.path());
        let planes = folder.path().join("planes.csv.gz");
        std::fs::write(&planes, "broken").unwrap();
        let error = format!("{:#}", build_if_missing(folder.path(), folder.path()).unwrap_err());
        assert!(error.contains(planes.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);

        let error = Reference::read(&planes).unwrap_err();
        assert!(error.to_string().contains(planes.to_str().unwrap()), "{error}");
    }
}
