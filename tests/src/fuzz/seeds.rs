//! What the corpora begin with: the golden files, with what a target wants before them.

use std::fs;
use std::path::Path;

/// The first inputs of a target, by name.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let golden = |name: &str, before: &[u8]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/tests/golden");
        let stored = fs::read(folder.join(name)).unwrap_or_default();
        (name.to_owned(), [before, &stored].concat())
    };
    match target {
        "argument" => vec![
            ("value".to_owned(), b"\x01\0\x01\xc0".to_vec()),
            ("list".to_owned(), b"\x05\x02\x03\x01\x03\x02\0\0\x01\x07".to_vec()),
            ("blob".to_owned(), [&b"\0\x03"[..], &[0xab; 32], b"\x80\x80\x04"].concat()),
        ],
        "chunk" => vec![golden("chunk_v1.bin", &[3])],
        "control" => vec![golden("control_v1.bin", &[0]), golden("presence_v1.bin", &[1])],
        "parcel" => vec![golden("parcel_v1.bin", &[])],
        "records" => {
            let (_, locators) = golden("locators_v1.bin", &[]);
            let (held, record) = locators.split_at(locators.len() - 32);
            let locators = held.chunks(8).enumerate();
            let mut seeds: Vec<(String, Vec<u8>)> = locators
                .map(|(place, locator)| (format!("locator_{place}"), [&[0], locator].concat()))
                .collect();
            seeds.push(("held".to_owned(), [&[1], record].concat()));
            seeds.push(golden("task_error_v1.bin", &[2]));
            seeds.push(golden("worker_v1.bin", &[3]));
            seeds
        }
        _ => Vec::new(),
    }
}
