//! Servers that speak TLS beside the plain protocol, with a certificate that is trusted by those who
//! are told to: the program is given it in [`TRUST`], as its users would give it that of their own
//! authority.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::port::Port;
use super::{Pair, RabbitServer, RedisOptions, RedisServer};

/// The variable that names the file of trusted certificates, in place of the system's.
pub const TRUST: &str = "SSL_CERT_FILE";

/// A certificate for loopback servers, with its key, in a folder.
#[derive(Debug, Clone)]
pub struct Certificate(PathBuf);

impl Certificate {
    /// Makes one that is good for a day, signed by itself.
    ///
    /// # Errors
    /// When `openssl` is not installed or fails.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = Self(folder.to_owned());
        let output = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            // One that signs others is not taken for a server's.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(made.key())
            .arg("-out")
            .arg(made.file())
            .stdin(Stdio::null())
            .output()
            .context("cannot start openssl; tests/run.sh installs what is missing")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "openssl: {said}");
        Ok(made)
    }

    /// The one that this process trusts, if it was made here.
    pub fn trusted() -> Option<Self> {
        let file = PathBuf::from(std::env::var_os(TRUST)?);
        let made = Self(file.parent()?.to_owned());
        (made.file() == file && made.key().exists()).then_some(made)
    }

    /// What clients trust.
    pub fn file(&self) -> PathBuf {
        self.0.join("certificate.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }
}

/// Both servers, and where they speak TLS.
pub struct TlsPair {
    /// The servers.
    pub servers: Pair,
    /// `amqps://USER:PASSWORD@127.0.0.1:PORT/%2f`.
    pub amqp_url: String,
    /// `rediss://default:PASSWORD@127.0.0.1:PORT/0`.
    pub redis_url: String,
}

impl TlsPair {
    /// Starts them, Redis without its append-only file. They are not to be started again: the ports
    /// of TLS are kept by nobody else.
    ///
    /// # Errors
    /// As for [`Pair::start`].
    pub fn start(certificate: &Certificate) -> anyhow::Result<Self> {
        let (amqps, rediss) = (Port::reserve()?, Port::reserve()?);
        let (file, key) = (certificate.file(), certificate.key());
        let (file, key) = (file.display(), key.display());
        let rabbit = RabbitServer::start_with(&[
            format!("listeners.ssl.1 = 127.0.0.1:{}", amqps.number()),
            format!("ssl_options.cacertfile = {file}\nssl_options.certfile = {file}"),
            format!("ssl_options.keyfile = {key}\nssl_options.verify = verify_none"),
        ])?;
        let config = vec![
            format!("tls-port {}\ntls-auth-clients no", rediss.number()),
            format!("tls-cert-file {file}\ntls-key-file {key}\ntls-ca-cert-file {file}"),
        ];
        let redis = RedisServer::start(&RedisOptions { config, ..RedisOptions::default() })?;
        let amqp_url = secured(&rabbit.url(), rabbit.port(), &amqps);
        let redis_url = secured(&redis.url(), redis.port(), &rediss);
        Ok(Self { servers: Pair { rabbit, redis }, amqp_url, redis_url })
    }
}

fn secured(url: &str, plain: u16, port: &Port) -> String {
    let from = format!("@127.0.0.1:{plain}/");
    url.replacen("://", "s://", 1).replacen(&from, &format!("@127.0.0.1:{}/", port.number()), 1)
}
