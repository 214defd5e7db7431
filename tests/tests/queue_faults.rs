//! The message queue against a RabbitMQ that stops, forgets, raises alarms and refuses.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bolthole_broker::queue::{
    ConnectError, Event, PublishError, Queue, QueueError, QueueName, Route, Settings,
};
use bolthole_tests::conformance::queue::{
    delivery, depth_becomes, lost, main_queue, next, started, subscribed,
};
use bolthole_tests::proxy::{Proxy, Way};
use bolthole_tests::servers::{self, RabbitServer};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::task::block_in_place;
use tokio::time::timeout;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The server that all tests here harm, one at a time. It is up and unharmed when taken.
async fn server() -> anyhow::Result<MutexGuard<'static, RabbitServer>> {
    static SERVER: OnceCell<Mutex<RabbitServer>> = OnceCell::const_new();
    let start = async || block_in_place(RabbitServer::start).map(Mutex::new);
    let mut server = SERVER.get_or_try_init(start).await?.lock().await;
    if server.pid().is_none() {
        block_in_place(|| server.restart())?;
    }
    Ok(server)
}

async fn client(server: &RabbitServer) -> anyhow::Result<Queue> {
    Ok(Queue::connect(&server.url(), &servers::namespace(), "test").await?)
}

/// A client whose messages survive the broker, and which gives up soon.
async fn durable_client(server: &RabbitServer) -> anyhow::Result<Queue> {
    let mut settings = Settings::new(&servers::namespace(), "test");
    settings.persistent = true;
    settings.publish_deadline = Duration::from_secs(2);
    Ok(Queue::connect_with(&server.url(), settings).await?)
}

/// Publishes until it succeeds: what a caller does about an error that says it may.
async fn publish_at_last(queue: &Queue, route: &Route, body: &'static str) -> anyhow::Result<()> {
    let publishing = async {
        loop {
            match queue.publish(route, Bytes::from_static(body.as_bytes())).await {
                Ok(()) => return Ok(()),
                Err(error) => ensure!(error.is_retryable(), "{error}"),
            }
        }
    };
    timeout(PATIENCE, publishing).await.context("never published")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_broker_gives_again() -> anyhow::Result<()> {
    let mut server = server().await?;
    let queue = durable_client(&server).await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, "one".into()).await?;
    let (mut consumer, first) = subscribed(&queue, 5, 5).await?;
    let one = delivery(&mut consumer).await?;
    block_in_place(|| server.restart())?;
    ensure!(lost(&mut consumer).await? == first);
    let settler = consumer.settler();
    ensure!(!settler.ack(one.tag).await, "a delivery of a lost session was settled");
    let second = started(&mut consumer).await?;
    ensure!(second > first, "{second} is not above {first}");
    let again = delivery(&mut consumer).await?;
    ensure!(again.body == "one" && again.redelivered && again.tag.epoch == second, "{again:?}");
    ensure!(!settler.ack(one.tag).await, "an old tag settled a new delivery");
    ensure!(settler.ack(again.tag).await);
    publish_at_last(&queue, &route, "two").await?;
    ensure!(delivery(&mut consumer).await?.body == "two");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_gives_back() -> anyhow::Result<()> {
    let server = server().await?;
    let queue = client(&server).await?;
    let (hi, lo) = (Route::hi(&main_queue()), Route::lo(&main_queue()));
    queue.publish(&hi, "one".into()).await?;
    let (mut consumer, first) = subscribed(&queue, 5, 5).await?;
    consumer.settler().pause_lo().await;
    ensure!(delivery(&mut consumer).await?.body == "one");
    block_in_place(|| server.ctl(["close_all_connections", "--silent", "a test"]))?;
    ensure!(lost(&mut consumer).await? == first);
    ensure!(started(&mut consumer).await? > first);
    let again = delivery(&mut consumer).await?;
    ensure!(again.body == "one" && again.redelivered, "{again:?}");
    // The pause holds in the new session.
    publish_at_last(&queue, &lo, "lo").await?;
    publish_at_last(&queue, &hi, "hi").await?;
    ensure!(delivery(&mut consumer).await?.body == "hi");
    ensure!(queue.depth(&lo).await? == 1);
    consumer.settler().resume_lo().await;
    ensure!(delivery(&mut consumer).await?.body == "lo");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_broker_is_declared_anew() -> anyhow::Result<()> {
    let mut server = server().await?;
    let queue = durable_client(&server).await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, "forgotten".into()).await?;
    let (mut consumer, first) = subscribed(&queue, 5, 5).await?;
    ensure!(delivery(&mut consumer).await?.body == "forgotten");
    block_in_place(|| server.wipe())?;
    ensure!(lost(&mut consumer).await? == first);
    publish_at_last(&queue, &route, "new").await?;
    ensure!(started(&mut consumer).await? > first);
    let new = delivery(&mut consumer).await?;
    ensure!(new.body == "new" && !new.redelivered, "{new:?}");
    queue.broadcast("heard".into()).await?;
    ensure!(next(&mut consumer).await? == Event::Control("heard".into()));
    queue.dead_letter("unreadable".into(), "a test").await?;
    ensure!(queue.dead_letters(5).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_an_error_and_then_none() -> anyhow::Result<()> {
    let mut server = server().await?;
    let queue = durable_client(&server).await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, "one".into()).await?;
    server.kill();
    let error = queue.publish(&route, "two".into()).await.err().context("published to nobody")?;
    ensure!(error.is_retryable(), "{error}");
    // By now it is known that there is no connection, so nothing can have been sent.
    let bodies = (0..600).map(|_| (route.clone(), Bytes::from_static(b"three"))).collect();
    for result in queue.publish_all(bodies).await {
        ensure!(matches!(result, Err(PublishError::Disconnected(_))), "{result:?}");
    }
    let error = queue.depth(&route).await.err().context("counted what is not there")?;
    ensure!(matches!(error, QueueError::Disconnected(_)), "{error}");
    block_in_place(|| server.restart())?;
    publish_at_last(&queue, &route, "four").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_under_load_leaves_no_answer_open() -> anyhow::Result<()> {
    let mut server = server().await?;
    let queue = durable_client(&server).await?;
    let route = Route::hi(&main_queue());
    queue.declare(&[main_queue()]).await?;
    let publishing = tokio::spawn({
        let (queue, route) = (queue.clone(), route.clone());
        async move {
            let body = Bytes::from(vec![1; 1_000]);
            loop {
                let batch = vec![(route.clone(), body.clone()); 2_000];
                let results = queue.publish_all(batch).await;
                if results.iter().any(Result::is_err) {
                    break results;
                }
            }
        }
    });
    while queue.depth(&route).await? == 0 {}
    server.kill();
    let results = timeout(PATIENCE, publishing).await.context("an answer is open")??;
    ensure!(results.len() == 2_000, "{}", results.len());
    for error in results.into_iter().filter_map(Result::err) {
        let expected =
            matches!(error, PublishError::Unconfirmed(_) | PublishError::Disconnected(_));
        ensure!(expected && error.is_retryable(), "{error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_memory_alarm_acks_flow_and_publishes_say_so() -> anyhow::Result<()> {
    let server = server().await?;
    let queue = client(&server).await?;
    let route = Route::hi(&main_queue());
    for body in ["one", "two", "three"] {
        queue.publish(&route, body.into()).await?;
    }
    let (mut consumer, _) = subscribed(&queue, 1, 1).await?;
    let one = delivery(&mut consumer).await?;
    block_in_place(|| server.ctl(["set_vm_memory_high_watermark", "0"]))?;
    // The broker says that it is blocked to whoever publishes; that message it may keep.
    let first = timeout(PATIENCE, queue.publish(&route, "first".into())).await?;
    let sent = matches!(&first, Err(PublishError::Blocked { sent: true, .. }));
    ensure!(sent && queue.is_blocked(), "{first:?}");
    ensure!(first.is_err_and(|error| error.is_ambiguous() && error.is_retryable()));
    let second = queue.publish(&route, "second".into()).await;
    let refused = matches!(&second, Err(PublishError::Blocked { sent: false, .. }));
    ensure!(refused, "{second:?}");
    let all = queue.publish_all(vec![(route.clone(), "third".into())]).await;
    ensure!(all.iter().all(|result| result.as_ref().is_err_and(|error| !error.is_ambiguous())));
    // With a prefetch of one, each delivery proves that the acknowledgement before it arrived.
    let settler = consumer.settler();
    ensure!(settler.ack(one.tag).await);
    let two = delivery(&mut consumer).await?;
    ensure!(two.body == "two" && settler.ack(two.tag).await);
    ensure!(delivery(&mut consumer).await?.body == "three");
    block_in_place(|| server.ctl(["set_vm_memory_high_watermark", "0.4"]))?;
    timeout(PATIENCE, queue.unblocked()).await.context("the alarm never ended")?;
    ensure!(!queue.is_blocked());
    publish_at_last(&queue, &Route::lo(&main_queue()), "after").await?;
    ensure!(delivery(&mut consumer).await?.body == "after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_in_which_messages_are_refused_makes_room_for_another() -> anyhow::Result<()> {
    let server = server().await?;
    let queue = Queue::connect(&server.url(), &servers::namespace(), "refused").await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, "one".into()).await?;
    let connections = || -> anyhow::Result<HashSet<String>> {
        let command = ["list_connections", "--silent", "pid", "client_properties"];
        let list = block_in_place(|| server.ctl(command))?;
        Ok(list.lines().filter(|line| line.contains("refused")).map(str::to_owned).collect())
    };
    let before = connections()?;
    ensure!(!before.is_empty());
    let full = r#"{"max-length": 1, "overflow": "reject-publish"}"#;
    block_in_place(|| server.ctl(["set_policy", "full", "hi$", full]))?;
    let renewing = async {
        while before.is_subset(&connections()?) {
            match queue.publish(&route, "two".into()).await {
                Err(PublishError::Refused(_) | PublishError::Disconnected(_)) => {}
                other => bail!("{other:?}"),
            }
        }
        Ok(())
    };
    timeout(PATIENCE, renewing).await.context("the connection stays")??;
    block_in_place(|| server.ctl(["clear_policy", "full"]))?;
    publish_at_last(&queue, &route, "three").await?;
    depth_becomes(&queue, &route, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delay_queues_expire_unused_and_are_made_again() -> anyhow::Result<()> {
    let server = server().await?;
    let queue = client(&server).await?;
    let name = QueueName::new("slow")?;
    let route = Route::lo(&name);
    queue.publish_delayed(&route, "one".into(), Duration::ZERO).await?;
    depth_becomes(&queue, &route, 1).await?;
    let list = block_in_place(|| server.ctl(["list_queues", "--silent", "name", "arguments"]))?;
    let delay = list.lines().find(|line| line.contains("slow.lo.delay.100ms"));
    let delay = delay.context("the delay queue is not listed")?;
    for argument in ["x-expires", "x-message-ttl", "x-dead-letter-exchange", "classic"] {
        ensure!(delay.contains(argument), "{delay}");
    }
    // As if it had expired.
    let queue_name = delay.split_whitespace().next().context("no name")?;
    block_in_place(|| server.ctl(["delete_queue", "--silent", queue_name]))?;
    queue.publish_delayed(&route, "two".into(), Duration::ZERO).await?;
    depth_becomes(&queue, &route, 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_ends_everything() -> anyhow::Result<()> {
    let server = server().await?;
    let queue = client(&server).await?;
    let route = Route::hi(&main_queue());
    queue.publish(&route, "one".into()).await?;
    let (mut consumer, _) = subscribed(&queue, 5, 5).await?;
    let one = delivery(&mut consumer).await?;
    timeout(PATIENCE, queue.close()).await.context("closing took too long")?;
    let error = queue.publish(&route, "two".into()).await;
    ensure!(matches!(error, Err(PublishError::Disconnected(_))), "{error:?}");
    ensure!(!consumer.settler().ack(one.tag).await);
    while timeout(PATIENCE, consumer.next()).await.context("the end did not come")?.is_some() {}
    Ok(())
}

/// The URL with another part in the place of one.
fn altered(server: &RabbitServer, part: &str, other: &str) -> String {
    server.url().replace(part, other)
}

async fn refusal(url: &str, password: &str) -> anyhow::Result<ConnectError> {
    let namespace = servers::namespace();
    let connecting = timeout(PATIENCE, Queue::connect(url, &namespace, "test"));
    let error = connecting.await?.err().context("connected")?;
    let texts = format!("{error} {error:?}");
    ensure!(!texts.contains(password), "the password is in {texts}");
    Ok(error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_explained_without_the_password() -> anyhow::Result<()> {
    let server = server().await?;
    let (url, at) = (server.url(), format!("127.0.0.1:{}", server.port()));
    let password = url.split([':', '@']).nth(2).context("no password")?.to_owned();

    let error = refusal(&altered(&server, &password, "hunter2"), "hunter2").await?;
    let expected = ConnectError::AccessRefused { server: at.clone(), user: "bolthole".into() };
    ensure!(error == expected && !error.is_retryable(), "{error:?}");

    let error = refusal(&altered(&server, "%2f", "nowhere"), &password).await?;
    ensure!(matches!(&error, ConnectError::VhostRefused { vhost, .. } if vhost == "nowhere"));
    ensure!(error.to_string().contains(&at), "{error}");

    let error = refusal(&altered(&server, "amqp://", "amqps://"), &password).await?;
    ensure!(matches!(error, ConnectError::Tls { .. }), "{error:?}");

    // A port that was free a moment ago, and is below those given out for free.
    let error = refusal(&altered(&server, &at, "127.0.0.1:1"), &password).await?;
    ensure!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    ensure!(error.is_retryable() && error.to_string().contains("127.0.0.1:1"), "{error}");

    let error = refusal(&altered(&server, &at, "no-such-host.invalid:5672"), &password).await?;
    ensure!(error.to_string().contains("no-such-host.invalid"), "{error}");

    let error = refusal(&altered(&server, "amqp://", "http://"), &password).await?;
    ensure!(matches!(error, ConnectError::BadUrl(_)), "{error:?}");

    let error = Queue::connect(&url, "not a name", "test").await.err().context("connected")?;
    ensure!(matches!(error, ConnectError::BadNamespace(_)), "{error:?}");

    let queue = client(&server).await?;
    ensure!(!format!("{queue:?}").contains(&password), "{queue:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_speak_amqp_is_named() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = [0; 8];
            let _ = stream.read_exact(&mut said).await;
            let _ = stream.write_all(b"-ERR unknown command 'AMQP'\r\n").await;
        }
    });
    let error = refusal(&format!("amqp://u:hunter2@127.0.0.1:{port}"), "hunter2").await?;
    ensure!(matches!(error, ConnectError::NotAmqp { .. }), "{error:?}");
    serving.abort();

    // Accepts, and then says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let error = refusal(&format!("amqp://u:hunter2@127.0.0.1:{port}"), "hunter2").await?;
    ensure!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    ensure!(error.to_string().contains(&port.to_string()), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_breaks_off_is_begun_again() -> anyhow::Result<()> {
    let server = server().await?;
    let proxy = Proxy::before(server.port()).await?;
    let url = proxy.through(&server.url());
    // The broker's greeting has 500 bytes; what is negotiated and declared comes after it.
    for (way, bytes) in [
        (Way::Up, 3),
        (Way::Up, 100),
        (Way::Up, 500),
        (Way::Down, 0),
        (Way::Down, 300),
        (Way::Down, 520),
        (Way::Down, 600),
    ] {
        let before = proxy.faults().resets;
        proxy.cut_after(way, bytes);
        let namespace = servers::namespace();
        let connecting = Queue::connect(&url, &namespace, "test");
        timeout(PATIENCE, connecting).await?.with_context(|| format!("{way:?} {bytes}"))?;
        ensure!(proxy.faults().resets == before + 1, "{way:?} {bytes}: not in the handshake");
    }
    // What nothing but a change can mend is said at once, after a reset as well.
    let password = url.split([':', '@']).nth(2).context("no password")?;
    proxy.cut_after(Way::Down, 300);
    let error = refusal(&url.replace(password, "hunter2"), "hunter2").await?;
    ensure!(matches!(error, ConnectError::AccessRefused { .. }), "{error:?}");
    proxy.cut_after(Way::Down, 300);
    let error = refusal(&url.replace("%2f", "nowhere"), password).await?;
    ensure!(matches!(error, ConnectError::VhostRefused { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_always_breaks_off_is_given_up() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    let breaking = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let _ = stream.read_exact(&mut [0; 4]).await;
            // With bytes unread, closing resets.
            drop(stream);
        }
    });
    let error = refusal(&format!("amqp://u:hunter2@127.0.0.1:{port}"), "hunter2").await?;
    breaking.abort();
    ensure!(matches!(error, ConnectError::Interrupted { .. }), "{error:?}");
    ensure!(error.is_retryable() && error.to_string().contains(&port.to_string()), "{error}");
    // Each attempt makes two: to see whether anything listens is one.
    let connections = connections.load(Ordering::Relaxed);
    ensure!(connections > 2, "{connections}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_permissions_are_named() -> anyhow::Result<()> {
    let server = server().await?;
    block_in_place(|| {
        server.ctl(["add_user", "reader", "hunter2"])?;
        server.ctl(["set_permissions", "reader", "^$", ".*", ".*"])
    })?;
    let url = format!("amqp://reader:hunter2@127.0.0.1:{}/%2f", server.port());
    let error = refusal(&url, "hunter2").await?;
    ensure!(matches!(error, ConnectError::Topology { .. }), "{error:?}");
    ensure!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
    block_in_place(|| server.ctl(["delete_user", "reader"]))?;
    Ok(())
}
