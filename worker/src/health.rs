//! The health endpoint: `/livez`, `/readyz` and `/metrics` over HTTP. Read-only, and on the
//! loopback interface unless it is told otherwise.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the endpoint asks about the worker. Answers come from memory: a probe must not wait.
pub trait Vitals: Send + Sync + 'static {
    /// Why the process cannot go on and should be restarted; empty while it can. A server that is
    /// down is no such reason: a restart would not bring it back.
    fn dead(&self) -> Vec<String> {
        Vec::new()
    }

    /// Why the worker takes no work at the moment; empty when it does.
    fn unready(&self) -> Vec<String>;

    /// Brings figures that are kept elsewhere up to date before they are shown.
    fn refresh(&self, metrics: &Metrics) {
        let _ = metrics;
    }
}

/// A health endpoint that is being served. Dropping it stops it.
#[derive(Debug)]
pub struct Health {
    addr: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

struct Shared<V> {
    vitals: V,
    metrics: Metrics,
}

impl Health {
    /// Listens on `bind` (port 0: any that is free) and answers.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(bind: SocketAddr, vitals: impl Vitals, metrics: Metrics) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { vitals, metrics });
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(stopped);
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the health endpoint ended");
            }
        });
        Ok(Self { addr, stop, task: Some(task) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops answering. Connections that are open are not waited for.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.abort();
            // It was told to end: that it did is all there is to know.
            let _ = task.await;
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn router<V: Vitals>(shared: Arc<Shared<V>>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .with_state(shared)
}

async fn livez<V: Vitals>(State(shared): State<Arc<Shared<V>>>) -> impl IntoResponse {
    verdict(&shared.vitals.dead())
}

async fn readyz<V: Vitals>(State(shared): State<Arc<Shared<V>>>) -> impl IntoResponse {
    let mut reasons = shared.vitals.dead();
    reasons.extend(shared.vitals.unready());
    verdict(&reasons)
}

/// One reason a line.
fn verdict(reasons: &[String]) -> (StatusCode, String) {
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

async fn exposition<V: Vitals>(State(shared): State<Arc<Shared<V>>>) -> impl IntoResponse {
    shared.vitals.refresh(&shared.metrics);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    #[derive(Clone, Default)]
    struct Patient {
        dead: Arc<Mutex<Vec<String>>>,
        unready: Arc<Mutex<Vec<String>>>,
    }

    impl Vitals for Patient {
        fn dead(&self) -> Vec<String> {
            self.dead.lock().unwrap().clone()
        }

        fn unready(&self) -> Vec<String> {
            self.unready.lock().unwrap().clone()
        }

        fn refresh(&self, metrics: &Metrics) {
            metrics.gauge("bolthole_held_bytes", "Bytes held.").set(5);
        }
    }

    /// The status and the body of an answer.
    async fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse().unwrap(), body.to_owned())
        };
        timeout(Duration::from_secs(60), exchange).await.unwrap()
    }

    #[tokio::test]
    async fn probes_say_what_is_wrong() {
        let patient = Patient::default();
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let health = Health::bind(bind, patient.clone(), Metrics::default()).await.unwrap();
        let addr = health.local_addr();
        assert_eq!(ask(addr, "GET", "/livez").await, (200, "ok\n".into()));
        assert_eq!(ask(addr, "GET", "/readyz").await, (200, "ok\n".into()));
        patient.unready.lock().unwrap().push("draining".into());
        assert_eq!(ask(addr, "GET", "/livez").await.0, 200);
        assert_eq!(ask(addr, "GET", "/readyz").await, (503, "draining\n".into()));
        patient.dead.lock().unwrap().push("no slot thread is left".into());
        assert_eq!(ask(addr, "GET", "/livez").await, (503, "no slot thread is left\n".into()));
        let both = "no slot thread is left\ndraining\n".to_owned();
        assert_eq!(ask(addr, "GET", "/readyz").await, (503, both));
    }

    #[tokio::test]
    async fn figures_are_fresh_and_nothing_can_be_changed() {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let health = Health::bind(bind, Patient::default(), Metrics::default()).await.unwrap();
        let addr = health.local_addr();
        let (status, body) = ask(addr, "GET", "/metrics").await;
        assert!(status == 200 && body.ends_with("bolthole_held_bytes 5\n"), "{status} {body}");
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            assert_eq!(ask(addr, method, "/metrics").await.0, 405, "{method}");
        }
        assert_eq!(ask(addr, "GET", "/").await.0, 404);
        health.shutdown().await;
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
