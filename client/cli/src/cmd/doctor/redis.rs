//! What is to be known of Redis.

use bolthole_broker::store::{Error, Functions, Redis, Store, Survey};

use super::rabbitmq::version;
use crate::cmd::report::Report;
use crate::servers::Servers;

/// A difference of clocks that people should know of, in milliseconds: leases are judged by Redis
/// alone, but logs are read side by side.
const AHEAD_MAX_MS: u64 = 2_000;
/// Percent of the memory limit above which there is little left for new work.
const MEMORY_PERCENT: u64 = 90;

/// The checks, and the store when it can be read.
pub(super) async fn examine(servers: &Servers) -> (Report, Option<Store>) {
    let mut report = Report::default();
    let Some(url) = &servers.redis_url else {
        let todo = "give --redis-url or set BOLTHOLE_REDIS_URL; for servers of your own: \
                    eval \"$(deploy/local.sh up)\"";
        report.bad("redis", "no URL is given", todo);
        return (report, None);
    };
    let (redis, survey) = match Redis::survey(&url.0, &servers.namespace).await {
        Ok(found) => found,
        Err(error) => {
            let name = if matches!(error, Error::Denied { .. }) { "redis login" } else { "redis" };
            report.bad(name, &error.to_string(), advice(&error));
            return (report, None);
        }
    };
    let servers = match survey.servers {
        1 => String::new(),
        servers => format!(", a cluster with slots on {servers} servers"),
    };
    let says = format!("Redis {} at {}{servers}", survey.version, redis.address());
    if version(&survey.version).is_none_or(|found| found < (7, 0)) {
        report.bad("redis", &says, "use Redis 7.0 or newer: functions are needed");
        return (report, None);
    }
    report.good("redis", &says);
    report.good("redis login", "accepted");
    memory(&mut report, &survey);
    persistence(&mut report, &survey);
    functions(&mut report, &redis).await;
    clock(&mut report, &survey);
    (report, Some(Store::Redis(redis)))
}

fn memory(report: &mut Report, survey: &Survey) {
    let policy = survey.eviction.as_deref().unwrap_or("not said");
    let says = format!("maxmemory-policy is {policy}");
    match policy {
        "noeviction" => report.good("redis eviction", &says),
        "not said" => report.doubtful("redis eviction", &says, "make sure that it is noeviction"),
        _ => report.bad(
            "redis eviction",
            &format!("{says}: keys of running graphs may be deleted"),
            "redis-cli CONFIG SET maxmemory-policy noeviction, and in its configuration file",
        ),
    }
    let (used, max) = (survey.memory_used_bytes, survey.memory_max_bytes);
    let mebibytes = |bytes: u64| bytes >> 20;
    let says = match max {
        0 => format!("{} MiB used, no limit", mebibytes(used)),
        _ => format!("{} of {} MiB used", mebibytes(used), mebibytes(max)),
    };
    if max > 0 && used.saturating_mul(100) > max.saturating_mul(MEMORY_PERCENT) {
        report.doubtful("redis memory", &says, "raise maxmemory: soon new work is refused");
    } else {
        report.good("redis memory", &says);
    }
}

fn persistence(report: &mut Report, survey: &Survey) {
    let name = "redis persistence";
    let todo = "redis-cli CONFIG SET appendonly yes, and in its configuration file";
    match (survey.append_only, survey.append_fsync.as_deref()) {
        (false, _) => {
            report.doubtful(name, "appendonly is off: a restart loses accepted graphs", todo);
        }
        (true, Some("always")) => {
            report.good(name, "appendfsync always: what is accepted survives a power cut");
        }
        (true, Some("everysec")) => {
            report.good(name, "appendfsync everysec: a power cut may take the last second");
        }
        (true, Some(other)) => {
            let says = format!("appendfsync {other}: a power cut may take half a minute");
            report.doubtful(name, &says, "redis-cli CONFIG SET appendfsync everysec");
        }
        (true, None) => report.good(name, "appendonly is on; its fsync setting cannot be read"),
    }
}

async fn functions(report: &mut Report, redis: &Redis) {
    let name = "redis functions";
    let todo = "let this user run FUNCTION and FCALL: ACL SETUSER USER +function +fcall +fcall_ro";
    match redis.functions().await {
        Ok(Functions::Ours) => report.good(name, "loaded"),
        Ok(Functions::Missing) => match redis.load_functions().await {
            Ok(()) => report.good(name, "were missing, loaded now"),
            Err(error) => report.bad(name, &error.to_string(), todo),
        },
        Ok(Functions::Others) => report.doubtful(
            name,
            "those of another build are loaded",
            "build clients and workers from the same source; the later revision is loaded and used",
        ),
        Err(error) => report.bad(name, &error.to_string(), todo),
    }
}

fn clock(report: &mut Report, survey: &Survey) {
    let ms = survey.ahead_ms;
    let says = match ms {
        0.. => format!("{ms} ms ahead of this machine's"),
        _ => format!("{} ms behind this machine's", ms.unsigned_abs()),
    };
    if ms.unsigned_abs() > AHEAD_MAX_MS {
        report.doubtful("redis clock", &says, "let both machines keep time by NTP");
    } else {
        report.good("redis clock", &says);
    }
}

fn advice(error: &Error) -> &'static str {
    match error {
        Error::Denied { .. } => {
            "correct user and password; the user must be allowed INFO, TIME and the keys bh:*, in a \
             Redis Cluster also CLUSTER SLOTS and PING, on every server"
        }
        Error::Unsuitable { .. } => {
            "correct the URL: redis://user:password@host:port/0, or redis+cluster://…@host:port,host:port"
        }
        _ => "start it, or correct host and port; for a server of your own: deploy/local.sh up",
    }
}
