//! Redis's append-only file: the commands it has carried out, each an array of bulk strings. What a
//! function did stands between `MULTI` and `EXEC`.

use anyhow::{Context as _, bail};

/// How many bytes of the file are left when its last `count` commands are cut off, a transaction
/// being one.
pub(super) fn without_last(bytes: &[u8], count: usize) -> anyhow::Result<usize> {
    let mut begins = Vec::new();
    let (mut at, mut inside) = (0, false);
    while at < bytes.len() {
        let begin = at;
        let Some(words) = command(bytes, &mut at)? else {
            // Its end was never written, so Redis drops it as well.
            begins.push(begin);
            break;
        };
        if !inside {
            begins.push(begin);
        }
        inside = match words.first().map(|name| name.to_ascii_uppercase()).as_deref() {
            Some(b"MULTI") => true,
            Some(b"EXEC") => false,
            _ => inside,
        };
    }
    let keep = begins.len().saturating_sub(count);
    Ok(begins.get(keep).copied().unwrap_or(bytes.len()))
}

/// The commands of the file, each with its words.
pub(super) fn commands(bytes: &[u8]) -> anyhow::Result<Vec<Vec<&[u8]>>> {
    let (mut commands, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let Some(words) = command(bytes, &mut at)? else { break };
        commands.extend(Some(words).filter(|words| !words.is_empty()));
    }
    Ok(commands)
}

/// Steps over the command at `at`; its words, or nothing when the file ends within it.
fn command<'a>(bytes: &'a [u8], at: &mut usize) -> anyhow::Result<Option<Vec<&'a [u8]>>> {
    // Notes of the time stand between commands.
    if bytes.get(*at) == Some(&b'#') {
        return Ok(line(bytes, at).map(|_| Vec::new()));
    }
    let Some(count) = number(bytes, at, b'*')? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some(length) = number(bytes, at, b'$')? else { return Ok(None) };
        let end = *at + length;
        let Some(word) = bytes.get(*at..end).filter(|_| end + 2 <= bytes.len()) else {
            return Ok(None);
        };
        words.push(word);
        *at = end + 2;
    }
    Ok(Some(words))
}

fn number(bytes: &[u8], at: &mut usize, mark: u8) -> anyhow::Result<Option<usize>> {
    let Some(line) = line(bytes, at) else { return Ok(None) };
    let Some(digits) = line.strip_prefix(&[mark]) else {
        bail!("no append-only file: {:?}", String::from_utf8_lossy(line));
    };
    Ok(Some(std::str::from_utf8(digits)?.parse().context("a number")?))
}

fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = bytes.get(*at..)?;
    let length = rest.windows(2).position(|two| two == b"\r\n")?;
    *at += length + 2;
    Some(&rest[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] =
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$5\r\nMULTI\r\n*2\r\n$3\r\nDEL\r\n\
        $2\r\n\r\n\r\n*1\r\n$4\r\nEXEC\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\n";

    #[test]
    fn a_transaction_is_cut_off_as_a_whole() {
        let cut = |count| without_last(FILE, count).unwrap();
        let (select, incr) = (23, 21);
        assert_eq!(cut(0), FILE.len());
        assert_eq!(cut(1), FILE.len() - incr);
        assert_eq!(cut(2), select);
        assert_eq!((cut(3), cut(9)), (0, 0));
    }

    #[test]
    fn a_command_without_an_end_is_one_too() {
        let torn = &FILE[..FILE.len() - 3];
        assert_eq!(without_last(torn, 1).unwrap(), FILE.len() - 21);
        assert!(without_last(b"hello\r\n", 1).is_err());
    }

    #[test]
    fn commands_have_their_words() {
        let found = commands(FILE).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found[2], [&b"DEL"[..], b"\r\n"]);
    }
}
