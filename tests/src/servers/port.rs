//! Loopback ports that stay ours while the server that uses them is down.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use tokio::net::TcpSocket;

/// A loopback port taken from the operating system and kept until this value is dropped.
///
/// The kernel lets a second socket listen on a port when both sockets allow reuse and the first
/// does not listen. So the server (which allows reuse, as servers do) can come and go, while a
/// search for a free port, or the local end of somebody's connection, is never given this one.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _reservation: TcpSocket,
}

impl Port {
    /// A port nobody uses, chosen by the kernel.
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("no socket to reserve a port with")?;
        // Bound before reuse is allowed: the kernel then hands out only a port that is unused.
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no free port")?;
        socket.set_reuseaddr(true)?;
        Ok(Self { number: socket.local_addr()?.port(), _reservation: socket })
    }

    /// The port's number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_on_again_and_again() {
        let port = Port::reserve().unwrap();
        for _ in 0..3 {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).unwrap();
        }
    }

    #[test]
    fn a_reserved_port_is_given_to_nobody_else() {
        let ports: Vec<_> = (0..500).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }
}
