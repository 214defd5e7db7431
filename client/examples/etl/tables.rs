//! Gzipped CSV tables, read by the names of their columns.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;

/// All rows of a gzipped CSV file, in the file's order, reduced to the named columns. A value that
/// is empty or `NA` is `None`. Fails when the file is missing, broken, or lacks a column.
pub(crate) fn read_columns<const N: usize>(
    path: &Path,
    columns: [&str; N],
) -> Result<Vec<[Option<String>; N]>> {
    read(path, columns).with_context(|| format!("failed to read {}", path.display()))
}

fn read<const N: usize>(path: &Path, columns: [&str; N]) -> Result<Vec<[Option<String>; N]>> {
    let mut reader = csv::Reader::from_reader(MultiGzDecoder::new(File::open(path)?));
    let headers = reader.headers()?.clone();
    let mut positions = [0; N];
    for (position, column) in positions.iter_mut().zip(columns) {
        *position = (headers.iter().position(|header| header == column))
            .with_context(|| format!("there is no column `{column}`"))?;
    }
    let mut rows = Vec::new();
    for record in reader.into_records() {
        let record = record?;
        rows.push(positions.map(|position| known(record.get(position))));
    }
    Ok(rows)
}

fn known(value: Option<&str>) -> Option<String> {
    value.filter(|value| !matches!(*value, "" | "NA")).map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// Writes `text` as a gzipped file, for the tests of this example.
    pub(crate) fn write_gz(path: &Path, text: &str) {
        let mut encoder = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }

    #[test]
    fn columns_are_found_by_name_and_missing_values_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv.gz");
        write_gz(&path, "a,b,c\n1,NA,x\n,2,\"y,z\"\n");
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(
            read_columns(&path, ["c", "a"]).unwrap(),
            [[some("x"), some("1")], [some("y,z"), None]]
        );
        assert_eq!(read_columns(&path, ["b"]).unwrap(), [[None], [some("2")]]);
    }

    #[test]
    fn every_failure_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole.csv.gz");
        write_gz(&whole, "a,b\n1,2\n");
        let bytes = std::fs::read(&whole).unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let broken = [
            folder.path().join("missing.csv.gz"),
            write("empty.csv.gz", b""),
            write("plain.csv.gz", b"a,b\n1,2\n"),
            write("cut.csv.gz", &bytes[..bytes.len() - 9]),
            write("no_column.csv.gz", &{
                write_gz(&whole, "b\n2\n");
                std::fs::read(&whole).unwrap()
            }),
        ];
        for path in broken {
            let error = read_columns(&path, ["a"]).unwrap_err();
            assert!(format!("{error:#}").contains(path.to_str().unwrap()), "{error:#}");
        }
    }
}
