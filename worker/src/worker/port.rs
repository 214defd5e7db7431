//! The worker's data port, on the network or in a simulation.

use bolthole_broker::id::Incarnation;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::hold::Held;
use crate::options::Options;
use crate::serve::{ServeOptions, Server};
use crate::shell::Drain;
use crate::simulate::SimulatedPort;

/// A data port that is open.
pub(super) enum OpenPort {
    Network(Server),
    Simulated(SimulatedPort),
}

impl OpenPort {
    /// Serves results until the worker stops; takes none over once it is told to go.
    pub(super) async fn serve_until(
        self,
        mut drain: watch::Receiver<Drain>,
        stop: CancellationToken,
    ) {
        let asked = async { drain.wait_for(|asked| *asked != Drain::Stay).await.is_ok() };
        if stop.run_until_cancelled(asked).await.is_some()
            && let Self::Network(server) = &self
        {
            server.drain();
        }
        stop.cancelled().await;
        match self {
            Self::Network(server) => server.shutdown().await,
            Self::Simulated(port) => port.close(),
        }
    }
}

/// Opens the data port, if there is to be one; its address.
pub(super) async fn open_port(
    options: &Options,
    incarnation: Incarnation,
    held: &Held,
) -> Result<(String, Option<OpenPort>), StartError> {
    if let Some(simulated) = &options.simulated {
        let port = SimulatedPort::open(simulated, incarnation, held.clone());
        return Ok((port.address().to_owned(), Some(OpenPort::Simulated(port))));
    }
    let Some(bind) = options.bind else { return Ok((String::new(), None)) };
    let secret = options.secret.clone();
    let server = Server::bind(ServeOptions { bind, secret, incarnation }, held.clone()).await?;
    let address = options.advertise.clone().unwrap_or_else(|| server.local_addr().to_string());
    Ok((address, Some(OpenPort::Network(server))))
}
