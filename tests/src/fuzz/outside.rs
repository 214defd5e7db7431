//! What comes from servers, from whoever configures a process, and from its disk.

use std::sync::OnceLock;

use bolthole::Client;
use bolthole_broker::limits::PROPERTIES_BYTES_MAX;
use bolthole_broker::{queue, store};
use bolthole_worker::hold;
use tempfile::TempDir;

/// Where spill files are.
static FOLDER: OnceLock<TempDir> = OnceLock::new();

/// A password that must not come back.
const CANARY: &str = "hunter2canary";

/// Answers of the store's functions and what is stored in keys of its own. The first byte of the
/// input says which.
pub fn replies(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    store::fuzz::reply(*which, input);
}

/// URLs of servers, of which no text that is made may hold the password. The first byte of the input
/// says which scheme; what follows stands before the password up to a zero, and after it.
pub fn urls(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(input);
    let (before, after) = text.split_once('\0').unwrap_or((&text, "host"));
    let scheme = ["amqp", "amqps", "redis", "rediss", "valkey"][usize::from(which % 5)];
    let url = match which / 5 % 3 {
        0 => format!("{scheme}://{before}:{CANARY}@{after}"),
        1 => format!("{scheme}://user:{before}{CANARY}{after}@host:1/x"),
        _ => format!("redis+unix:///{before}?pass={CANARY}&{after}"),
    };
    // What stands there by itself may be shown, and so may a user's name. Hosts lose their case, and
    // all parts of a URL their line ends.
    let letters = |text: &str| text.replace(|one: char| !one.is_ascii_alphanumeric(), "");
    if [before, after].iter().any(|text| letters(text).to_lowercase().contains(CANARY)) {
        return;
    }
    let said = [
        queue::fuzz::url(&url).unwrap_or_else(|error| format!("{error} {error:?}")),
        store::fuzz::url(&url).unwrap_or_else(|error| format!("{error} {error:?}")),
        format!("{:?}", Client::builder(&url, &url)),
    ];
    for said in said {
        assert!(!said.to_lowercase().contains(CANARY), "{url:?}: {said}");
    }
}

/// What a broker sends before anyone has logged in, and frames with properties that are too large.
/// The first byte of the input says which, and in which pieces the frames arrive.
pub fn amqp(input: &[u8]) {
    let Some((which, input)) = input.split_first() else { return };
    if which % 2 == 0 {
        queue::fuzz::greeting(input);
        return;
    }
    let whole = queue::fuzz::strain([input]);
    let pieces = input.chunks(usize::from(*which));
    assert_eq!(queue::fuzz::strain(pieces), whole, "pieces make a difference");
    // That there are no properties is said in two bytes, perhaps before they have arrived.
    assert!(whole.len() <= input.len() + 2);
    let mut rest = &whole[..];
    while let Some(([kind, _, _, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        assert!(*kind != 2 || length <= 12 + PROPERTIES_BYTES_MAX, "large properties have passed");
        rest = after.get(length + 1..).unwrap_or_default();
    }
}

/// A file with a result, which is to be what its length and digest say. The input is the file, but
/// for its first byte: how much of the beginning is as it should be.
pub fn spill(input: &[u8]) {
    let Some((right, input)) = input.split_first() else { return };
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"));
    let path = folder.path().join(format!("{:?}", std::thread::current().id()));
    hold::fuzz::spill_file(&path, usize::from(*right), input);
}
