//! Slots of a Redis Cluster: which one a key is in, and which server has which.

use redis::{Arg, Cmd, Value};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// The slot of a key: that of its hash tag, when it has one.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// What stands between the first `{` and the next `}`, unless that is nothing; else all of the key.
fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|byte| *byte == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// CRC-16 with the polynomial 0x1021 and nothing else to it, as XMODEM has it. Tags are short.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// The first key of a command, as this program writes commands: one that has several has them all in
/// one slot.
pub(super) fn key_of(command: &Cmd) -> &[u8] {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    let behind = match arguments.next() {
        // The function, the number of keys.
        Some(b"FCALL" | b"FCALL_RO") => 2,
        // What of it is asked.
        Some(b"MEMORY") => 1,
        _ => 0,
    };
    arguments.nth(behind).unwrap_or_default()
}

/// Slots from one to another, and host and port of the server that has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads the answer to `CLUSTER SLOTS`; `asked` is the host that was asked, for a server that does not
/// know by what name it is reached. Ascending; what cannot be read is `None`.
pub(super) fn layout(answer: &Value, asked: &str) -> Option<Vec<Range>> {
    let Value::Array(rows) = answer else { return None };
    let mut ranges: Vec<Range> = rows.iter().map(|row| range(row, asked)).collect::<Option<_>>()?;
    ranges.sort_unstable_by_key(|range| range.first);
    let apart = ranges.windows(2).all(|two| two[0].last < two[1].first);
    let sound = ranges.iter().all(|range| range.first <= range.last && range.last < SLOTS);
    (apart && sound).then_some(ranges)
}

/// One row: first slot, last slot, its master, the master's replicas.
fn range(row: &Value, asked: &str) -> Option<Range> {
    let Value::Array(row) = row else { return None };
    let [first, last, Value::Array(master), ..] = &row[..] else { return None };
    let [host, port, ..] = &master[..] else { return None };
    let host = match host {
        Value::Nil => asked,
        Value::BulkString(bytes) => match std::str::from_utf8(bytes).ok()? {
            "" | "?" => asked,
            host => host,
        },
        _ => return None,
    };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let (first, last, port) = (number(first)?, number(last)?, number(port)?);
    Some(Range { first, last, host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slot_in_which_the_servers_look_for_it() {
        for (key, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("a{foo}b", 12_182),
            ("{foo}{bar}", 12_182),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(tag(b"foo{bar"), b"foo{bar");
        assert_eq!(tag(b"foo{{bar}}zap"), b"{bar");
    }

    #[test]
    fn the_key_of_a_command_is_found() {
        let of = |parts: &[&str]| {
            let mut command = redis::cmd(parts[0]);
            command.arg(&parts[1..]);
            String::from_utf8(key_of(&command).to_vec()).unwrap()
        };
        assert_eq!(of(&["GET", "k"]), "k");
        assert_eq!(of(&["MEMORY", "USAGE", "k"]), "k");
        assert_eq!(of(&["FCALL_RO", "f", "1", "k", "x"]), "k");
        assert_eq!(of(&["PING"]), "");
    }

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let id = Value::BulkString(b"0123".to_vec());
        let master = Value::Array(vec![host, Value::Int(port), id, Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn a_layout_is_read_and_nothing_else_is_taken_for_one() {
        let host = |name: &str| Value::BulkString(name.as_bytes().to_vec());
        let answer = Value::Array(vec![
            row(5_461, 16_383, Value::Nil, 7_001),
            row(0, 5_460, host("cache"), 7_000),
        ]);
        let of = |first, last, host: &str, port| Range { first, last, host: host.into(), port };
        let expected = vec![of(0, 5_460, "cache", 7_000), of(5_461, 16_383, "here", 7_001)];
        assert_eq!(layout(&answer, "here"), Some(expected));
        assert_eq!(layout(&Value::Array(vec![]), "here"), Some(vec![]));
        for strange in [
            Value::Nil,
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![row(7, 3, host("a"), 1)]),
            Value::Array(vec![row(0, 16_384, host("a"), 1)]),
            Value::Array(vec![row(0, 5, host("a"), 70_000)]),
            Value::Array(vec![row(0, 5, host("a"), 1), row(5, 9, host("b"), 1)]),
            Value::Array(vec![row(0, 5, Value::Int(1), 1)]),
        ] {
            assert_eq!(layout(&strange, "here"), None, "{strange:?}");
        }
    }
}
