//! `bolthole doctor`: is everything there that a cluster needs, and if not, what is to be done?
//!
//! - `rabbitmq`, `redis`, `workers`: what is looked at
//!
//! It declares what every client declares and loads the functions where there are none; nothing
//! else is changed.

mod rabbitmq;
mod redis;
mod workers;

use std::io::{self, Write};

use clap::Args;
use futures_util::future::join;

use crate::cmd::report::Report;
use crate::servers::Servers;

/// Checks everything a cluster needs, and says what to do about what is missing.
///
/// Looks at RabbitMQ (version, login, virtual host, rights), at Redis (version, login, eviction,
/// persistence, functions, clock) and at the workers that are there (data ports, whether they agree
/// on the signatures of their tasks). Passwords and secrets are never shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 nothing is wrong, 1 something is, 2 the arguments are not understood.

Examples:
  eval \"$(deploy/local.sh up)\" && bolthole doctor
  bolthole doctor --amqp-url amqp://app@broker:5672/ --redis-url rediss://cache:6379/0
  bolthole doctor --json | jq '.checks[] | select(.outcome == \"bad\")'")]
pub(crate) struct Doctor {
    #[command(flatten)]
    servers: Servers,
    /// Write one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Examines everything and writes the report; the exit code.
    pub(crate) async fn run(&self, out: &mut impl Write) -> io::Result<u8> {
        let mut report = Report::default();
        let (rabbitmq, (redis, store)) =
            join(rabbitmq::examine(&self.servers), redis::examine(&self.servers)).await;
        report.extend(rabbitmq);
        report.extend(redis);
        match store {
            Some(store) => report.extend(workers::examine(&self.servers, &store).await),
            None => report.skipped("workers", "Redis cannot be asked for them"),
        }
        report.write(out, self.json)?;
        Ok(u8::from(report.is_bad()))
    }
}
