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
        "control" => vec![
            golden("control_v1.bin", &[0]),
            golden("control_relay_v1.bin", &[0]),
            golden("presence_v1.bin", &[1]),
        ],
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
        _ => outside(target),
    }
}

/// Of the targets that read what comes from outside.
fn outside(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    match target {
        "amqp" => vec![
            named("greeting", b"\0\0\x0a\0\x0a\0\x09\0\0\0\x11\x07productS\0\0\0\x04fuzz"),
            named("nested", b"\0\0\x0a\0\x0a\0\x09\0\0\0\x0c\x01xA\0\0\0\x05A\0\0\0\0"),
            named("method", b"\x03\x01\0\x01\0\0\0\x04\0\x3c\0\x3c\xce"),
            named("header", &large_header()),
        ],
        "frames" => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let seed = |path: std::path::PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let stored = fs::read(path).unwrap_or_default();
                name.starts_with("handoff").then(|| (name, [&[7], &stored[..]].concat()))
            };
            entries.filter_map(|entry| seed(entry.path())).collect()
        }
        "handshake" => {
            let golden = |name: &str| {
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
                fs::read(folder.join(format!("handoff_{name}.bin"))).unwrap_or_default()
            };
            let server = [golden("challenge"), golden("welcome")].concat();
            let client = [golden("hello"), golden("proof")].concat();
            vec![
                named("server", &[&[0], &server[..]].concat()),
                named("client", &[&[1], &client[..]].concat()),
                named("forth", b"\x02\x09\x01"),
                named("back", b"\x03\x06\x80"),
                named("friends", b"\x02"),
            ]
        }
        "replies" => (0..18).map(|which| (format!("reply_{which}"), reply(which))).collect(),
        "spill" => {
            vec![named("whole", b"\xff"), named("cut", b"\x20a result"), named("none", b"\0")]
        }
        "urls" => (0..15)
            .map(|which| (format!("url_{which}"), [&[which], &b"user\0host:5672/x"[..]].concat()))
            .collect(),
        _ => Vec::new(),
    }
}

/// A content header whose properties are too large.
fn large_header() -> Vec<u8> {
    let payload = [&b"\0\x3c\0\0\0\0\0\0\0\0\0\x05\x20\0"[..], &[0; 1100]].concat();
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&b"\x05\x02\0\x01"[..], &length, &payload, b"\xce"].concat()
}

/// Something like what a function answers, or what is stored.
fn reply(which: u8) -> Vec<u8> {
    let held = b"\x0a\x12\x34\x56\0\0\0\x02";
    let task = b"\0\0\0\x01\0\x07";
    let arena = || {
        let columns = [&[0x10, 0][..], &[0; 8], &[0, 0, 0, 1, 0, 0, 0, 2], held, held].concat();
        [&b"BHA1\0\0\0\x02"[..], &[0; 56], &columns].concat()
    };
    let body = match which {
        0 => vec![4, 2],
        1 => b"\0\x01\0\x05\0\x09\0\x09".to_vec(),
        2 => [&b"\0\x01"[..], task, b"\x02\x01", task, b"\0\0\0\x01\x80\x01\0\x01\0\x05"].concat(),
        3 => [&task[..], b"\0\x01\x03", held].concat(),
        4 => b"\x01\0\x01\0\x05".to_vec(),
        5 => {
            [&b"\0\x01\0\0\0\x0a\0\0\0\0\0\x01\0\x01\0\x03"[..], task, b"\0\x01\x03", held].concat()
        }
        6..=8 => b"\0\0\0\0\x01\x01\0\0\0\0".to_vec(),
        9 => [&[1][..], &[7; 24]].concat(),
        10 => [&b"\x01\x03\0\0\0\0\0\0\0\x01"[..], held, b"\0\0\0\0\x01\0\0\0\x02ok"].concat(),
        11 => {
            let header = [&b"BHR1\x01"[..], &[0; 99]].concat();
            [&header[..], b"\0\0\0\x03run\0\0\0\x01\x80\0\0\0\x07T", task].concat()
        }
        12 => [&task[..], b"\x03", held].concat(),
        13 => b"0000000000000000000000000000002a:7".to_vec(),
        _ => arena(),
    };
    [&[which], &body[..]].concat()
}
