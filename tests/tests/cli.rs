//! The command `bolthole` against servers that are well, wrong, or not there.
#![cfg(test)]

use bolthole::{Client, RunState, task};
use bolthole_broker::call::States;
use bolthole_broker::clock;
use bolthole_broker::handoff::ClusterSecret;
use bolthole_broker::limits::WORKER_LEASE;
use bolthole_broker::queue::Queue;
use bolthole_broker::registry::Registry;
use bolthole_broker::store::{Redis, Store, WorkerRecord};
use bolthole_tests::cluster::PATIENCE;
use bolthole_tests::servers::{RedisOptions, RedisServer, namespace, shared};
use bolthole_worker::{Options, Worker};

/// A port on which nothing listens: the kernel gives it to nobody, and its service is extinct.
const NOBODY: &str = "127.0.0.1:1";
const SECRET: &str = "the secret of these tests";

#[task]
fn double(number: u64) -> u64 {
    number * 2
}

struct Outcome {
    code: u8,
    text: String,
}

impl Outcome {
    /// Fails unless the output says so in one line.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        let said = self.text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(said, "no line says {words:?}:\n{}", self.text);
    }

    #[track_caller]
    fn never_says(&self, word: &str) {
        assert!(!word.is_empty() && !self.text.contains(word), "{word}:\n{}", self.text);
    }
}

async fn bolthole(args: &[&str]) -> Outcome {
    let mut out = Vec::new();
    let args = std::iter::once(&"bolthole").chain(args).map(ToString::to_string);
    let code = bolthole_cli::run(args, &mut out).await;
    Outcome { code, text: String::from_utf8(out).unwrap() }
}

async fn doctor(amqp: &str, redis: &str, namespace: &str, more: &[&str]) -> Outcome {
    let args = ["doctor", "--amqp-url", amqp, "--redis-url", redis, "--namespace", namespace];
    let secret = if more.contains(&"--secret") { &[][..] } else { &["--secret", SECRET] };
    bolthole(&[&args, secret, more].concat()).await
}

fn password(url: &str) -> &str {
    let user = url.split_once("://").unwrap().1.split_once('@').unwrap().0;
    user.split_once(':').unwrap().1
}

async fn servers(namespace: &str) -> (Store, Queue) {
    let store = Redis::connect(&shared().redis.url(), namespace).await.unwrap();
    let queue = Queue::connect(&shared().rabbit.url(), namespace, "test").await.unwrap();
    (Store::Redis(store), queue)
}

async fn worker(namespace: &str) -> Worker {
    let (store, queue) = servers(namespace).await;
    let secret = Some(ClusterSecret::new(SECRET).unwrap());
    let options = Options { slots: 2, secret, spill_dir: None, ..Options::default() };
    let registry = Registry::linked().unwrap();
    Worker::start(store, queue, registry, States::new(), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_well_is_said_to_be() {
    let (amqp, redis) = (shared().rabbit.url(), shared().redis.url());
    let namespace = namespace();
    let alone = doctor(&amqp, &redis, &namespace, &[]).await;
    assert_eq!(alone.code, 0, "{}", alone.text);
    alone.says(&["note", "workers", "none is there"]);
    let worker = worker(&namespace).await;
    let outcome = doctor(&amqp, &redis, &namespace, &[]).await;
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    outcome.says(&["ok", "rabbitmq", "RabbitMQ 3."]);
    outcome.says(&["ok", "rabbitmq rights"]);
    outcome.says(&["ok", "redis", "Redis 7."]);
    outcome.says(&["ok", "redis eviction", "noeviction"]);
    outcome.says(&["ok", "redis persistence", "appendfsync"]);
    outcome.says(&["ok", "redis functions", "loaded"]);
    outcome.says(&["ok", "workers", "1 with 2 slots", "default (2)"]);
    outcome.says(&["ok", "data ports", "1 of 1"]);
    outcome.says(&["ok", "signatures", "all workers agree"]);
    outcome.says(&["All is well."]);
    for secret in [password(&amqp), password(&redis), SECRET] {
        outcome.never_says(secret);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_another_secret_or_another_signature_are_found() {
    let (amqp, redis) = (shared().rabbit.url(), shared().redis.url());
    let namespace = namespace();
    let worker = worker(&namespace).await;
    let outcome = doctor(&amqp, &redis, &namespace, &["--secret", "another secret"]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["BAD", "cluster secret"]);
    outcome.never_says("another secret");

    let (store, _) = servers(&namespace).await;
    let (_, like) = store.workers().await.unwrap().remove(0);
    let (name, signature) = like.tasks.first().cloned().unwrap();
    let record = WorkerRecord {
        incarnation: clock::new_incarnation(),
        address: String::new(),
        tasks: vec![(name.clone(), "(of another build)".to_owned())],
        ..like
    };
    let index = store.join(&record, WORKER_LEASE).await.unwrap();
    let outcome = doctor(&amqp, &redis, &namespace, &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["BAD", "signatures", &name, &signature, "(of another build)"]);
    store.leave(index).await.unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_are_told_apart_and_never_shown() {
    let wrong = "hunter2-is-not-it";
    let (amqp, redis) = (shared().rabbit.url(), shared().redis.url());
    let amqp = amqp.replace(password(&amqp), wrong);
    let redis = redis.replace(password(&redis), wrong);
    for format in [&[][..], &["--json"]] {
        let outcome = doctor(&amqp, &redis, &namespace(), format).await;
        assert_eq!(outcome.code, 1, "{}", outcome.text);
        outcome.says(&["rabbitmq login", "refused user"]);
        outcome.says(&["redis login", "refused this user"]);
        outcome.says(&["workers"]);
        outcome.never_says(wrong);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_there_are_named() {
    let wrong = "hunter2-is-not-it";
    let (amqp, redis) =
        (format!("amqp://u:{wrong}@{NOBODY}/"), format!("redis://u:{wrong}@{NOBODY}/0"));
    let outcome = doctor(&amqp, &redis, "", &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["BAD", "rabbitmq", NOBODY]);
    outcome.says(&["BAD", "redis", NOBODY]);
    outcome.never_says(wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_none_are_refused_without_being_shown() {
    let outcome = doctor("amqp:/u:hunter2@broker", "redis//u:hunter2@store", "", &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["BAD", "rabbitmq", "URL"]);
    outcome.says(&["BAD", "redis", "URL"]);
    outcome.never_says("hunter2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_that_is_not_there_is_not_taken_for_a_wrong_password() {
    let (amqp, redis) = (shared().rabbit.url(), shared().redis.url());
    let (server, _) = amqp.rsplit_once('/').unwrap();
    let amqp = format!("{server}/nowhere");
    let outcome = doctor(&amqp, &redis, &namespace(), &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["ok", "rabbitmq login"]);
    outcome.says(&["BAD", "rabbitmq vhost", "nowhere"]);
    outcome.says(&["-", "rabbitmq rights"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_or_that_other_builds_use_is_seen() {
    let config = vec!["maxmemory-policy allkeys-lru".to_owned()];
    let redis = RedisServer::start(&RedisOptions { config, ..Default::default() }).unwrap();
    let other = "#!lua name=bh_v1\nredis.register_function('bh_v1_other', function() end)";
    redis.cli(["FUNCTION", "LOAD", other]).unwrap();
    let outcome = doctor(&shared().rabbit.url(), &redis.url(), &namespace(), &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["BAD", "redis eviction", "allkeys-lru"]);
    outcome.says(&["CONFIG SET maxmemory-policy noeviction"]);
    outcome.says(&["note", "redis persistence", "appendonly is off"]);
    outcome.says(&["note", "redis functions", "another build"]);
    // What others use was left alone.
    assert!(redis.cli(["FUNCTION", "LIST"]).unwrap().contains("bh_v1_other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_named() {
    let rabbit = &shared().rabbit;
    rabbit.ctl(["add_user", "weak", "of-the-weak"]).unwrap();
    rabbit.ctl(["set_permissions", "-p", "/", "weak", "", "", ""]).unwrap();
    let amqp = format!("amqp://weak:of-the-weak@127.0.0.1:{}/%2f", rabbit.port());
    let options = RedisOptions { append_only: true, ..Default::default() };
    let redis = RedisServer::start(&options).unwrap();
    let rights = ["ACL", "SETUSER", "weak", "on", ">of-the-weak", "~*", "+info", "+time", "+get"];
    redis.cli(rights).unwrap();
    let weak = format!("redis://weak:of-the-weak@127.0.0.1:{}/0", redis.port());
    let outcome = doctor(&amqp, &weak, &namespace(), &[]).await;
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["ok", "rabbitmq vhost"]);
    outcome.says(&["BAD", "rabbitmq rights"]);
    outcome.says(&["rabbitmqctl set_permissions"]);
    outcome.says(&["ok", "redis login"]);
    outcome.says(&["redis persistence", "cannot be read"]);
    outcome.says(&["BAD", "redis functions"]);
    outcome.says(&["ACL SETUSER"]);
    outcome.says(&["BAD", "workers"]);
    outcome.never_says("of-the-weak");
}

#[task]
fn odd(number: u64) -> Result<u64, String> {
    if number % 2 == 1 { Ok(number) } else { Err(format!("{number}\u{1b}[2J is not odd")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_workers_are_listed_and_shown() {
    let (amqp, redis, namespace) = (shared().rabbit.url(), shared().redis.url(), namespace());
    let at = ["--redis-url", &redis, "--namespace", &namespace];
    let ask = async |words: &[&str]| bolthole(&[words, &at].concat()).await;
    ask(&["ps", "--all"]).await.says(&["There is no run."]);
    ask(&["workers"]).await.says(&["There is no worker"]);
    assert_eq!(ask(&["show", "nightly"]).await.code, 1);

    let client = Client::builder(&amqp, &redis).namespace(&namespace).secret(SECRET).unwrap();
    let client = client.connect().await.unwrap();
    let waiting = client.run("a\u{1b}[2J b").open().await.unwrap();
    let handle = double::submit(&waiting, double::delayed(4)).await.unwrap();
    let listed = || async {
        let listed = ask(&["ps"]).await;
        listed.text.contains("0 of 2").then_some(listed)
    };
    let listed = soon(listed).await;
    listed.says(&[&waiting.id().to_string(), "open", "0 of 2", "a\\u{1b}[2J b"]);
    let shown = ask(&["show", &waiting.id().to_string()]).await;
    shown.says(&["tasks", "finished", "ready", "waiting", "name"]);
    shown.says(&["2", "0", "0", "0", "0", "1", "1", "double"]);

    let worker = worker(&namespace).await;
    assert_eq!(handle.result().await.unwrap(), 16);
    waiting.close().await.unwrap();
    waiting.wait().await.unwrap();
    ask(&["workers"]).await.says(&["127.0.0.1:", "2", "default"]);
    ask(&["workers", "--json"]).await.says(&["\"slots\":2", "\"queues\":[\"default\"]"]);
    ask(&["ps"]).await.says(&["1 have ended"]);
    let run = client.run("parity");
    let parity = run.compute(vec![odd::delayed(1), odd::delayed(2), odd::delayed(3)]).await;
    assert!(parity.is_err());
    let shown = ask(&["show", "parity"]).await;
    assert_eq!(shown.code, 0, "{}", shown.text);
    shown.says(&["failed, begun", "failed first"]);
    shown.says(&["failed", "odd", "2\\u{1b}[2J is not odd"]);
    shown.never_says("\u{1b}");
    let json = ask(&["show", "parity", "--json"]).await;
    json.says(&["\"state\":\"failed\"", "\"tasks\":3", "\"failed\":1", "is not odd"]);
    ask(&["ps", "--all"]).await.says(&["parity", "1 failed"]);

    let endless = client.run("endless").open().await.unwrap();
    let cancel = ["cancel", "endless", "--reason", "enough\u{7}", "--amqp-url", &amqp];
    let cancelled = ask(&cancel).await;
    assert_eq!(cancelled.code, 0, "{}", cancelled.text);
    cancelled.says(&["run endless is cancelled"]);
    assert_eq!(endless.wait().await.unwrap().state, RunState::Cancelled);
    ask(&cancel).await.says(&["endless", "cancelled"]);
    ask(&["show", "endless"]).await.says(&["cancelled", "enough\\u{7}"]);
    // JSON has an escape of its own.
    ask(&["show", "endless", "--json"]).await.says(&["\"reason\":\"enough\\u0007\""]);
    assert_eq!(ask(&["cancel", "nothing"]).await.code, 1);
    worker.stop().await;
}

/// Asks again until there is an answer.
async fn soon<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("no answer in time")
}

#[tokio::test]
async fn versions_of_program_and_formats_are_shown() {
    let text = bolthole(&["version"]).await;
    assert_eq!(text.code, 0);
    text.says(&["bolthole", env!("CARGO_PKG_VERSION")]);
    text.says(&["parcel", "BHP1"]);
    text.says(&["functions in Redis", "bh_v1"]);
    let json = bolthole(&["version", "--json"]).await;
    json.says(&["{\"version\":\"", "\"parcel\":\"BHP1\""]);
}

#[tokio::test]
async fn every_verb_has_a_help_with_examples_and_nonsense_is_no_success() {
    for verb in ["cancel", "doctor", "version", "ps", "show", "workers"] {
        let help = bolthole(&[verb, "--help"]).await;
        assert_eq!(help.code, 0);
        help.says(&["Examples:"]);
    }
    assert_eq!(bolthole(&["cure"]).await.code, 2);
    assert_eq!(bolthole(&["doctor", "--amqp"]).await.code, 2);
}
