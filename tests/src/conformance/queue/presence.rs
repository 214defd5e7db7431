//! What a consumer leaves behind for the others.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bolthole_broker::queue::{ConsumeOptions, Consumer, Event, Queue};
use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{Backend, PATIENCE, main_queue, next, started, text};

/// A consumer that leaves `presence` behind, and has subscribed.
async fn present(queue: &Queue, presence: &'static str) -> anyhow::Result<Consumer> {
    let (queues, presence) = (vec![main_queue()], Some(text(presence)));
    let options = ConsumeOptions { queues, prefetch_hi: 5, prefetch_lo: 5, presence };
    let mut consumer = queue.consume(options);
    started(&mut consumer).await?;
    Ok(consumer)
}

/// Another consumer is told of one that is gone, and again when it goes without an answer.
pub async fn absence_is_told(backend: &Backend) -> anyhow::Result<()> {
    let (ours, theirs) = (backend.alone().await?, backend.alone().await?);
    let mut stranger = present(&theirs, "stranger").await?;
    let mut witness = present(&ours, "witness").await?;
    let deadline = Instant::now() + PATIENCE;
    // A presence is left behind a moment after the subscription: one that went before has none.
    let mut life = Duration::from_millis(10);
    loop {
        let gone = present(&ours, "gone").await?;
        tokio::time::sleep(life).await;
        drop(gone);
        life *= 2;
        match timeout(life * 4, witness.next()).await {
            Ok(Some(Event::Absent { presence, .. })) => break ensure!(presence == "gone"),
            Ok(other) => anyhow::bail!("not an absence: {other:?}"),
            Err(_) => ensure!(Instant::now() < deadline, "nobody was told"),
        }
    }
    drop(witness);
    let mut heir = present(&ours, "heir").await?;
    let Event::Absent { presence, tag } = next(&mut heir).await? else {
        anyhow::bail!("the heir was not told")
    };
    ensure!(presence == "gone" && heir.settler().ack(tag).await, "{presence:?}");
    let Event::Absent { presence, .. } = next(&mut heir).await? else {
        anyhow::bail!("the heir was told once")
    };
    ensure!(presence == "witness");
    ensure!(stranger.next().now_or_never().is_none(), "a namespace hears of another");
    Ok(())
}
