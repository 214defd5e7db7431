//! Faults, one kind after the other, against two workers that come and go and against the servers.

use anyhow::Result;
use bolthole_tests::cluster::{Cluster, Member};
use bolthole_tests::servers::Pair;
use tokio::task::block_in_place;
use tokio::time::{Duration, sleep};

/// How long a worker stands still: longer than its lease.
const STOPPED: Duration = Duration::from_secs(5);
/// How long a server is away.
const OUTAGE: Duration = Duration::from_secs(3);

const FAULTS: [(&str, Fault); 8] = [
    ("a worker is killed", Fault::Kill),
    ("a worker stands still for longer than its lease", Fault::Stop),
    ("a worker is told to go", Fault::Drain),
    ("all connections to RabbitMQ are closed", Fault::Sessions),
    ("Redis loses its functions", Fault::Functions),
    ("RabbitMQ is killed and started", Fault::Rabbit),
    ("Redis is killed and started", Fault::Redis),
    ("RabbitMQ loses everything", Fault::Wipe),
];

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Stop,
    Drain,
    Sessions,
    Functions,
    Rabbit,
    Redis,
    Wipe,
}

/// Two workers that are harmed, and whose turn it is.
pub(crate) struct Harm {
    victims: Vec<Member>,
    environment: Vec<(&'static str, &'static str)>,
    caused: usize,
}

impl Harm {
    pub(crate) async fn new(
        cluster: &Cluster,
        environment: &[(&'static str, &'static str)],
    ) -> Result<Self> {
        let victims = vec![
            cluster.worker_with("victim-1", environment).await?,
            cluster.worker_with("victim-2", environment).await?,
        ];
        Ok(Self { victims, environment: environment.to_vec(), caused: 2 })
    }

    /// Causes the next fault, and makes good what does not heal by itself; which one it was.
    pub(crate) async fn cause(
        &mut self,
        cluster: &Cluster,
        servers: &mut Pair,
    ) -> Result<&'static str> {
        let (words, fault) = FAULTS[self.caused % FAULTS.len()];
        self.caused += 1;
        match fault {
            Fault::Kill => {
                self.victims.remove(0).kill();
                self.heal(cluster).await?;
            }
            Fault::Stop => {
                let victim = &self.victims[0];
                victim.signal("STOP")?;
                sleep(STOPPED).await;
                victim.signal("CONT")?;
            }
            Fault::Drain => {
                let code = self.victims.remove(0).terminate()?;
                anyhow::ensure!(code == 0, "a worker that was told to go ended with {code}");
                self.heal(cluster).await?;
            }
            Fault::Sessions => {
                block_in_place(|| servers.rabbit.ctl(["close_all_connections", "soak"]))?;
            }
            Fault::Functions => drop(servers.redis.cli(["FUNCTION", "FLUSH"])?),
            Fault::Rabbit => {
                block_in_place(|| servers.rabbit.kill());
                sleep(OUTAGE).await;
                block_in_place(|| servers.rabbit.restart())?;
            }
            Fault::Redis => {
                // Its append-only file is written every second: what is not there yet is lost.
                block_in_place(|| servers.redis.kill());
                sleep(OUTAGE).await;
                block_in_place(|| servers.redis.restart())?;
            }
            Fault::Wipe => block_in_place(|| servers.rabbit.wipe())?,
        }
        Ok(words)
    }

    /// As many workers as there should be.
    pub(crate) async fn heal(&mut self, cluster: &Cluster) -> Result<()> {
        while self.victims.len() < 2 {
            let name = format!("victim-{}-{}", self.caused, self.victims.len());
            self.victims.push(cluster.worker_with(&name, &self.environment).await?);
        }
        Ok(())
    }
}
