//! How servers are named: by flags, else by the environment.

use std::fmt;
use std::io::{self, Write as _};

use bolthole_broker::handoff::ClusterSecret;
use bolthole_broker::store::{Error, Redis};
use clap::Args;

/// Where the cluster is.
#[derive(Debug, Args)]
pub(crate) struct Servers {
    /// RabbitMQ, as amqp://user:password@host:port/vhost (or amqps://); of a cluster, some of its
    /// hosts: amqp://user:password@host:port,host:port/vhost.
    #[arg(long, value_name = "URL", env = "BOLTHOLE_AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: Option<Hidden>,
    /// Redis, as redis://user:password@host:port/db (or rediss://), or a Redis Cluster, as
    /// redis+cluster://user:password@host:port,host:port (or rediss+cluster://).
    #[arg(long, value_name = "URL", env = "BOLTHOLE_REDIS_URL", hide_env_values = true)]
    pub(crate) redis_url: Option<Hidden>,
    /// What every queue and key of the cluster begins with; nothing by default.
    #[arg(
        long,
        value_name = "NAME",
        env = "BOLTHOLE_NAMESPACE",
        hide_env_values = true,
        default_value = ""
    )]
    pub(crate) namespace: String,
    /// What workers and clients of the cluster share; better given by the environment, where other
    /// users of the machine do not see it.
    #[arg(long, value_name = "TEXT", env = "BOLTHOLE_SECRET", hide_env_values = true)]
    pub(crate) secret: Option<Hidden>,
}

impl Servers {
    /// The store, when it can be used; else what is wrong and what to do.
    pub(crate) async fn redis(&self) -> Result<Redis, (String, &'static str)> {
        let Some(url) = &self.redis_url else {
            return Err((
                "no URL of Redis is given".to_owned(),
                "--redis-url or BOLTHOLE_REDIS_URL",
            ));
        };
        let connected = Redis::connect(&url.0, &self.namespace).await;
        connected.map_err(|error| (error.to_string(), "bolthole doctor says more"))
    }

    /// What `question` finds in the store. `None` when there is no answer; why is said on standard
    /// error then.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Redis) -> Result<T, Error>,
    ) -> io::Result<Option<T>> {
        let complaint = match self.redis().await {
            Ok(redis) => match question(&redis).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => error.to_string(),
            },
            Err((found, todo)) => format!("{found}\n  -> {todo}"),
        };
        writeln!(io::stderr(), "{complaint}")?;
        Ok(None)
    }

    /// The secret, when there is one that is not empty.
    pub(crate) fn cluster_secret(&self) -> Option<ClusterSecret> {
        self.secret.as_ref().and_then(|secret| ClusterSecret::new(&secret.0).ok())
    }
}

/// A text with a secret in it.
#[derive(Clone)]
pub(crate) struct Hidden(pub(crate) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}
