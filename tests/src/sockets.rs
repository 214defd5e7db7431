//! Who has which TCP sockets of this machine, as the system tells: so that a test can say that a
//! process which has gone has left none, and that nobody keeps the other end of its connections.

use std::collections::BTreeSet;
use std::fs;

/// A socket of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// The system's number for it, which no other has at the same time.
    inode: u64,
    local: String,
    /// Nobody, of one that listens.
    remote: String,
    state: u8,
}

/// The address of nobody.
const NOBODY: &str = "00000000:0000";
/// A connection that both ends have closed, which the system remembers for a minute.
const TIME_WAIT: u8 = 6;

/// The sockets of these processes; those of one that has gone are none.
///
/// # Errors
/// When the system does not tell.
pub fn of(processes: &[u32]) -> anyhow::Result<Vec<Socket>> {
    let mut inodes = BTreeSet::new();
    for process in processes {
        let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { continue };
        // A file may be closed meanwhile.
        let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        let links = links.map(|link| link.to_string_lossy().into_owned());
        inodes.extend(links.filter_map(|link| {
            link.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        }));
    }
    Ok(all()?.into_iter().filter(|socket| inodes.contains(&socket.inode)).collect())
}

/// Which of these sockets, whose processes have gone, are open still, and which connections to them
/// others have not closed.
///
/// # Errors
/// When the system does not tell.
pub fn open_of(gone: &[Socket]) -> anyhow::Result<Vec<String>> {
    let inodes: BTreeSet<u64> = gone.iter().map(|socket| socket.inode).collect();
    let connections = gone.iter().filter(|socket| socket.remote != NOBODY);
    let others: BTreeSet<(&str, &str)> =
        connections.map(|socket| (socket.remote.as_str(), socket.local.as_str())).collect();
    let is_open = |socket: &Socket| {
        let end = (socket.local.as_str(), socket.remote.as_str());
        inodes.contains(&socket.inode) || (socket.state != TIME_WAIT && others.contains(&end))
    };
    let open = all()?.into_iter().filter(is_open);
    Ok(open
        .map(|Socket { local, remote, state, .. }| format!("{local} {remote} {state}"))
        .collect())
}

/// All TCP sockets of this machine.
fn all() -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A system without the newer protocol has no such table.
        let Ok(text) = fs::read_to_string(table) else { continue };
        sockets.extend(text.lines().skip(1).filter_map(parse));
    }
    anyhow::ensure!(!sockets.is_empty(), "the system does not tell of its sockets");
    Ok(sockets)
}

/// `sl local remote state tx:rx timer retransmits uid timeout inode …`, numbers in hexadecimal.
fn parse(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
    let inode = words.get(9)?.parse().ok()?;
    // The two ends of one connection may be told in the words of two protocols.
    let short = |address: &str| {
        let (host, port) = address.split_once(':')?;
        Some(format!("{}:{port}", host.get(host.len().checked_sub(8)?..)?))
    };
    Some(Socket { inode, local: short(words[1])?, remote: short(words[2])?, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn what_is_open_is_found_and_what_is_closed_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = format!(":{:04X}", listener.local_addr().unwrap().port());
        let ours = |sockets: Vec<Socket>| -> Vec<Socket> {
            let has =
                |socket: &Socket| socket.local.ends_with(&port) || socket.remote.ends_with(&port);
            sockets.into_iter().filter(has).collect()
        };
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let sockets = ours(of(&[std::process::id()]).unwrap());
        assert_eq!(sockets.len(), 3, "{sockets:?}");
        let listening: Vec<Socket> =
            sockets.iter().filter(|socket| socket.remote == NOBODY).cloned().collect();
        assert_eq!(open_of(&listening).unwrap().len(), 1);
        drop(listener);
        assert!(open_of(&listening).unwrap().is_empty());
        // The near end alone: its other end is open while nobody closes it.
        let is_near = |socket: &&Socket| socket.remote.ends_with(&port);
        let end: Vec<Socket> = sockets.iter().filter(is_near).cloned().collect();
        assert_eq!(end.len(), 1);
        drop(near);
        assert_eq!(open_of(&end).unwrap().len(), 1, "the far end");
        drop(far);
        assert!(open_of(&end).unwrap().is_empty());
    }
}
