//! The servers the other tests rely on: private, durable where they say so, and gone afterwards.

#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bolthole_tests::servers::{self, Pair, RabbitServer, RedisOptions, RedisServer};

/// Set in the copy of this program that is to be killed.
const VICTIM: &str = "BOLTHOLE_TESTS_VICTIM";

#[test]
fn redis_with_its_log_on_keeps_data_over_stop_and_kill() {
    let options = RedisOptions { append_only: true, config: vec!["appendfsync always".to_owned()] };
    let mut redis = RedisServer::start(&options).unwrap();
    let (url, port) = (redis.url(), redis.port());
    redis.cli(["SET", "k", "v"]).unwrap();

    redis.restart().unwrap();
    assert_eq!(redis.cli(["GET", "k"]).unwrap(), "v");
    redis.kill();
    assert!(redis.cli(["PING"]).is_err(), "a killed server answers");
    assert_eq!(redis.pid(), None);
    redis.restart().unwrap();
    assert_eq!(redis.cli(["GET", "k"]).unwrap(), "v");
    assert_eq!((redis.url(), redis.port()), (url, port));

    redis.wipe().unwrap();
    assert_eq!(redis.cli(["DBSIZE"]).unwrap(), "0");
}

#[test]
fn redis_takes_options_and_asks_for_its_password() {
    let config = vec!["maxmemory-policy allkeys-lru".to_owned()];
    let redis = RedisServer::start(&RedisOptions { append_only: false, config }).unwrap();
    let policy = redis.cli(["CONFIG", "GET", "maxmemory-policy"]).unwrap();
    assert_eq!(policy, "maxmemory-policy\nallkeys-lru");

    let stranger = Command::new("redis-cli")
        .args(["-p", &redis.port().to_string(), "PING"])
        .env_remove("REDISCLI_AUTH")
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&stranger.stdout);
    assert!(answer.contains("NOAUTH"), "{answer}");
    let password = redis.url().split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!format!("{redis:?}").contains(&password), "{redis:?}");
}

#[test]
fn redis_that_cannot_start_says_why() {
    let config = vec!["no-such-setting 1".to_owned()];
    let error = RedisServer::start(&RedisOptions { append_only: false, config }).unwrap_err();
    assert!(format!("{error:#}").contains("no-such-setting"), "{error:#}");
}

#[test]
fn rabbit_keeps_data_over_stop_and_kill_until_wiped() {
    let mut rabbit = RabbitServer::start().unwrap();
    let (url, port) = (rabbit.url(), rabbit.port());
    assert_eq!(vhosts(&rabbit), ["/"]);
    rabbit.ctl(["add_vhost", "kept"]).unwrap();

    rabbit.restart().unwrap();
    assert_eq!(vhosts(&rabbit), ["/", "kept"]);
    rabbit.kill();
    assert_eq!(rabbit.pid(), None);
    rabbit.restart().unwrap();
    assert_eq!(vhosts(&rabbit), ["/", "kept"]);
    assert_eq!((rabbit.url(), rabbit.port()), (url, port));

    rabbit.wipe().unwrap();
    assert_eq!(vhosts(&rabbit), ["/"]);
}

#[test]
fn rabbit_has_one_user_and_listens_on_loopback_only() {
    let rabbit = RabbitServer::start().unwrap();
    let users = rabbit.ctl(["list_users", "--silent", "--no-table-headers"]).unwrap();
    assert_eq!(users, "bolthole\t[administrator]");
    let password = rabbit.url().split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!format!("{rabbit:?}").contains(&password), "{rabbit:?}");

    let addresses = listeners_of(rabbit.folder());
    assert!(!addresses.is_empty());
    let loopback = ["0100007F", "00000000000000000000000001000000"];
    assert!(addresses.iter().all(|it| loopback.contains(&it.as_str())), "{addresses:?}");
}

#[test]
fn dropped_servers_leave_nothing_behind() {
    let pair = Pair::start().unwrap();
    let folders = [pair.rabbit.folder().to_owned(), pair.redis.folder().to_owned()];
    assert!(folders.iter().all(|folder| !processes_of(folder).is_empty()));
    drop(pair);
    wait_until_gone(&folders);
}

#[test]
fn shared_servers_end_with_a_killed_process() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let folders: Vec<PathBuf> = lines
        .map_while(Result::ok)
        .filter_map(|line| Some(line.split_once("folder: ")?.1.into()))
        .take(2)
        .collect();
    assert_eq!(folders.len(), 2, "the victim did not come up");
    assert!(folders.iter().all(|folder| !processes_of(folder).is_empty()));
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until_gone(&folders);
}

/// Not a test by itself: what `shared_servers_end_with_a_killed_process` starts and kills.
#[test]
fn the_process_that_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let pair = servers::shared();
        for folder in [pair.rabbit.folder(), pair.redis.folder()] {
            #[expect(clippy::print_stdout, reason = "read by the test that kills this process")]
            {
                println!("folder: {}", folder.display());
            }
        }
        // Nobody writes: this returns when whoever should have killed this process has ended.
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}

#[test]
fn namespaces_differ() {
    assert_ne!(servers::namespace(), servers::namespace());
}

fn vhosts(rabbit: &RabbitServer) -> Vec<String> {
    let list = rabbit.ctl(["list_vhosts", "--silent", "--no-table-headers"]).unwrap();
    let mut names: Vec<_> = list.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// The ids of all processes whose home is `folder`.
fn processes_of(folder: &Path) -> Vec<u32> {
    let home = format!("HOME={}", folder.display());
    let is_own = |id: &u32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == home.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(is_own).collect()
}

/// The local addresses, as `/proc/net/tcp` writes them, on which processes of `folder` listen.
fn listeners_of(folder: &Path) -> Vec<String> {
    let sockets: Vec<String> = processes_of(folder)
        .iter()
        .flat_map(|id| fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten())
        .filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|table| fs::read_to_string(table).unwrap_or_default())
        .concat();
    tables
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        // The fourth column is the state (0A: listening), the tenth the socket's number.
        .filter(|row| row[3] == "0A" && sockets.contains(&format!("socket:[{}]", row[9])))
        .filter_map(|row| Some(row[1].split_once(':')?.0.to_owned()))
        .collect()
}

fn wait_until_gone(folders: &[PathBuf]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while folders.iter().any(|folder| folder.exists() || !processes_of(folder).is_empty()) {
        let left: Vec<_> = folders.iter().map(|folder| processes_of(folder)).collect();
        assert!(Instant::now() < deadline, "left behind: {folders:?}, {left:?}");
        #[expect(clippy::disallowed_methods, reason = "the pause of a poll that has a deadline")]
        std::thread::sleep(Duration::from_millis(20));
    }
}
