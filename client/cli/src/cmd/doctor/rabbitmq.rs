//! What is to be known of RabbitMQ.

use bolthole_broker::queue::{ConnectError, Queue, QueueName, greeting};
use bolthole_broker::task::DEFAULT_QUEUE;

use crate::cmd::report::Report;
use crate::servers::Servers;

/// The oldest that is tested.
const OLDEST: (u32, u32) = (3, 10);
/// The checks behind the first, in the order in which a connection passes them.
const LATER: [&str; 3] = ["rabbitmq login", "rabbitmq vhost", "rabbitmq rights"];

pub(super) async fn examine(servers: &Servers) -> Report {
    let mut report = Report::default();
    let Some(url) = &servers.amqp_url else {
        let todo = "give --amqp-url or set BOLTHOLE_AMQP_URL; for servers of your own: \
                    eval \"$(deploy/local.sh up)\"";
        report.bad("rabbitmq", "no URL is given", todo);
        skip(&mut report, &LATER);
        return report;
    };
    match greeting(&url.0).await {
        Ok(Some(found)) => {
            let says = format!("{} {}", found.product, found.version);
            let age = version(&found.version);
            if found.product == "RabbitMQ" && age.is_some_and(|age| age < OLDEST) {
                report.bad("rabbitmq", &says, "use RabbitMQ 3.10 or newer");
            } else if found.product != "RabbitMQ" {
                report.doubtful("rabbitmq", &says, "only RabbitMQ is tested");
            } else {
                report.good("rabbitmq", &says);
            }
        }
        Ok(None) => report.good("rabbitmq", "is there; it does not say its version"),
        Err(error) => {
            report.bad("rabbitmq", &error.to_string(), advice(&error));
            skip(&mut report, &LATER);
            return report;
        }
    }
    match Queue::connect(&url.0, &servers.namespace, "doctor").await {
        Ok(queue) => {
            report.good(LATER[0], "accepted");
            report.good(LATER[1], "can be used");
            rights(&mut report, &queue).await;
            queue.close().await;
        }
        Err(error) => refused(&mut report, &error),
    }
    report
}

/// Where on its way a connection was refused.
fn refused(report: &mut Report, error: &ConnectError) {
    let passed = match error {
        ConnectError::VhostRefused { .. } => 1,
        ConnectError::Topology { .. } => 2,
        _ => 0,
    };
    for name in &LATER[..passed] {
        report.good(name, "accepted");
    }
    report.bad(LATER[passed], &error.to_string(), advice(error));
    skip(report, &LATER[passed + 1..]);
}

/// Whether what every client and worker declares can be declared, and what lies in the dead queue.
async fn rights(report: &mut Report, queue: &Queue) {
    let Ok(name) = QueueName::new(DEFAULT_QUEUE) else { return };
    match queue.declare(&[name]).await {
        Ok(()) => report.good(LATER[2], "exchanges and queues can be declared"),
        Err(error) => {
            report.bad(LATER[2], &error.to_string(), RIGHTS);
            return;
        }
    }
    match queue.dead_letters(1).await {
        Ok(letters) => match letters.first() {
            None => report.good("dead letters", "none"),
            Some(letter) => report.doubtful(
                "dead letters",
                &format!("there are some; the oldest: {}", letter.reason),
                "look whether a worker or client of another version is connected",
            ),
        },
        Err(error) => report.bad("dead letters", &error.to_string(), RIGHTS),
    }
}

const RIGHTS: &str = "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'";

fn advice(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::BadUrl(_) => "correct the URL; /, ? and # in a password become %2F, %3F, %23",
        ConnectError::BadNamespace(_) => "choose another namespace",
        ConnectError::Unreachable { .. } => {
            "start it, or correct host and port; for a server of your own: deploy/local.sh up"
        }
        ConnectError::AccessRefused { .. } => {
            "correct user and password, or: rabbitmqctl change_password USER"
        }
        ConnectError::VhostRefused { .. } => {
            "rabbitmqctl add_vhost VHOST; rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"
        }
        ConnectError::Tls { .. } | ConnectError::NotAmqp { .. } => {
            "amqp:// is for the plain port (5672), amqps:// for that with TLS (5671)"
        }
        ConnectError::Interrupted { .. } => {
            "look into its log, and whether it has just been started; amqps:// for a port with TLS"
        }
        ConnectError::TimedOut { .. } => "look whether a firewall or a proxy is in between",
        ConnectError::Topology { .. } => RIGHTS,
    }
}

fn skip(report: &mut Report, names: &[&str]) {
    for name in names {
        report.skipped(name, "not looked at");
    }
}

/// Major and minor.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
