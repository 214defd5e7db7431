use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bolthole_broker::clock::new_incarnation;
use bolthole_broker::id::TaskId;
use futures_util::FutureExt;
use futures_util::future::join_all;
use tempfile::{TempDir, tempdir};
use tokio::time::Instant;

use super::*;

const MEMORY: u64 = 1 << 20;
/// Six of these pass the threshold for spilling, five do not.
const SIZE: usize = 110_000;

fn key(run: u8, nonce: u64) -> ResultKey {
    ResultKey { run: RunId::from_bytes([run; 16]), task: TaskId::new(0, 1), generation: 0, nonce }
}

fn value(nonce: u64) -> Bytes {
    (0..SIZE).map(|at| u8::try_from((at as u64 * 7 + nonce) % 251).unwrap()).collect()
}

async fn open(dir: Option<&Path>, incarnation: Incarnation) -> Held {
    let spill_dir = dir.map(Path::to_path_buf);
    Held::open(HoldOptions { memory_bytes: MEMORY, spill_dir, incarnation }).await.unwrap()
}

/// A store with a spill folder, and the results 0 to `count` in it.
async fn full(count: u64) -> (TempDir, Held) {
    let dir = tempdir().unwrap();
    let held = open(Some(dir.path()), new_incarnation()).await;
    for nonce in 0..count {
        held.insert(key(1, nonce), value(nonce), None);
    }
    (dir, held)
}

/// Waits until the figures are as `expected`.
async fn until(held: &Held, expected: impl Fn(&HeldStats) -> bool) {
    let waited = timeout(Duration::from_secs(60), async {
        while !expected(&held.stats()) {
            sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("still {:?}", held.stats()));
}

/// The files in the folder of the only incarnation under `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let folder = folder.filter(|path| path.is_dir()).collect::<Vec<_>>();
    assert_eq!(folder.len(), 1, "{folder:?}");
    fs::read_dir(&folder[0]).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn what_is_held_is_given_back_with_its_value() {
    let held = open(None, new_incarnation()).await;
    let typed: Typed = Arc::new(42_u32);
    let digest = held.insert(key(1, 1), Bytes::from_static(b"42"), Some(typed));
    let found = held.get(&key(1, 1)).await.unwrap();
    assert_eq!((found.bytes.as_ref(), found.digest), (&b"42"[..], digest));
    assert_eq!(found.typed.unwrap().downcast_ref(), Some(&42_u32));
    assert_eq!(digest, Digest::of(b"42"));
    assert!(held.get(&key(1, 2)).await.is_none() && held.get_resident(&key(2, 1)).is_none());
    assert!(held.drop_key(&key(1, 1)) && !held.drop_key(&key(1, 1)));
    let peak_bytes = held.stats().peak_bytes;
    assert!(peak_bytes > 0);
    assert_eq!(held.stats(), HeldStats { peak_bytes, ..HeldStats::default() });
}

#[tokio::test]
async fn only_confirmed_results_are_served() {
    let held = open(None, new_incarnation()).await;
    held.insert(key(1, 1), value(1), None);
    assert!(held.serve_resident(&key(1, 1)).is_none());
    let (known, unknown) = (key(1, 1), key(1, 2));
    let mut early = Box::pin(held.serve(&known));
    assert!(early.as_mut().now_or_never().is_none(), "it waits for the commit");
    assert!(held.serve(&unknown).now_or_never().is_some_and(|found| found.is_none()));
    assert!(held.confirm(&key(1, 1)) && !held.confirm(&unknown));
    assert_eq!(early.await.unwrap().bytes, value(1));
    assert!(held.serve_resident(&key(1, 1)).is_some());
    assert!(held.is_served(&key(1, 1), Digest::of(&value(1))));
    assert!(!held.is_served(&key(1, 1), Digest::of(b"")));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_does_not_come_is_not_waited_for_for_ever() {
    let held = open(None, new_incarnation()).await;
    held.insert(key(1, 1), value(1), None);
    assert!(held.serve(&key(1, 1)).await.is_none());
}

#[tokio::test]
async fn runs_and_sweeps_drop_what_they_should() {
    let held = open(None, new_incarnation()).await;
    for nonce in 0..4 {
        held.insert(key(1, nonce), Bytes::new(), None);
        held.insert(key(2, nonce), Bytes::new(), None);
        held.confirm(&key(2, nonce));
    }
    assert_eq!(held.confirmed_keys().len(), 4);
    assert_eq!(held.sweep(|key| key.nonce == 0), 3, "unconfirmed results are nobody's to sweep");
    assert_eq!(held.stats().count, 5);
    assert_eq!((held.drop_run(RunId::from_bytes([1; 16])), held.stats().count), (4, 1));
    assert_eq!(held.drop_run(RunId::from_bytes([1; 16])), 0);
}

#[tokio::test]
async fn pressure_follows_what_is_held_and_set_aside() {
    let held = open(None, new_incarnation()).await;
    let mut watch = held.watch_pressure();
    let mut expected = Pressure::Normal;
    let steps =
        [(2, Pressure::Normal), (3, Pressure::Filling), (6, Pressure::Spill), (8, Pressure::High)];
    for (nonce, pressure) in steps {
        while held.stats().count < nonce {
            held.insert(key(1, held.stats().count), value(0), None);
        }
        assert_eq!(held.pressure(), pressure);
        assert_eq!(watch.has_changed().unwrap(), pressure != expected);
        expected = *watch.borrow_and_update();
    }
    assert!(held.admit(1).is_none(), "no room for what peers want to hand over");
    held.insert(key(1, 8), value(8), None);
    assert_eq!(held.pressure(), Pressure::Critical);
    held.drop_run(RunId::from_bytes([1; 16]));
    let admitted = held.admit(MEMORY * 7 / 10).unwrap();
    assert_eq!(held.pressure(), Pressure::Spill);
    assert!(held.admit(MEMORY * 2 / 10).is_none() && held.admit(u64::MAX).is_none());
    drop(admitted);
    assert_eq!((held.pressure(), held.stats().memory_bytes), (Pressure::Normal, 0));
}

#[tokio::test]
async fn the_coldest_results_go_to_disk_and_come_back() {
    let (dir, held) = full(5).await;
    assert!(held.get_resident(&key(1, 0)).is_some(), "now 1 is the coldest");
    held.insert(key(1, 5), value(5), None);
    until(&held, |stats| stats.spilled_bytes == SIZE as u64).await;
    assert!(held.get_resident(&key(1, 1)).is_none() && held.get_resident(&key(1, 0)).is_some());
    assert_eq!(held.pressure(), Pressure::Filling);
    let [file] = &files(dir.path())[..] else { panic!("one file") };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700));

    let reads = join_all((0..8).map(|_| held.clone()).map(async |held| held.get(&key(1, 1)).await));
    for found in reads.await {
        assert_eq!(found.unwrap().bytes, value(1));
    }
    // Another one makes room for it.
    until(&held, |stats| stats.spilled_bytes == SIZE as u64 && stats.spills == 2).await;
    for nonce in 0..6 {
        assert_eq!(held.get(&key(1, nonce)).await.unwrap().bytes, value(nonce));
    }
    held.drop_run(RunId::from_bytes([1; 16]));
    assert_eq!(
        (held.stats().count, held.stats().memory_bytes, held.stats().spilled_bytes),
        (0, 0, 0)
    );
    until(&held, |_| files(dir.path()).is_empty()).await;
}

#[tokio::test]
async fn a_damaged_file_is_a_lost_result_and_never_a_wrong_one() {
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[5000] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path| fs::write(path, &fs::read(path).unwrap()[..SIZE]).unwrap(),
        |path| fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for damage in damages {
        let (dir, held) = full(6).await;
        until(&held, |stats| stats.spilled_bytes == SIZE as u64).await;
        damage(&files(dir.path())[0]);
        assert!(held.get(&key(1, 0)).await.is_none());
        assert_eq!((held.stats().spill_losses, held.stats().count), (1, 5));
        assert_eq!(held.stats().spilled_bytes, 0);
        assert_eq!(held.get(&key(1, 1)).await.unwrap().bytes, value(1));
    }
}

#[tokio::test]
async fn a_disk_that_refuses_loses_nothing() {
    let dir = tempdir().unwrap();
    let incarnation = new_incarnation();
    let held = open(Some(dir.path()), incarnation).await;
    // Without its folder no file can be made.
    fs::remove_dir(dir.path().join(incarnation.to_string())).unwrap();
    for nonce in 0..6 {
        held.insert(key(1, nonce), value(nonce), None);
    }
    until(&held, |stats| stats.spill_errors >= 1).await;
    for nonce in 0..6 {
        assert_eq!(held.get_resident(&key(1, nonce)).unwrap().bytes, value(nonce));
    }
    // It tries again by itself once the disk may have recovered.
    fs::create_dir(dir.path().join(incarnation.to_string())).unwrap();
    until(&held, |stats| stats.spills == 1).await;
}

#[tokio::test]
async fn folders_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    let dir = tempdir().unwrap();
    let (living, dead, closed) = (new_incarnation(), new_incarnation(), new_incarnation());
    let held = open(Some(dir.path()), living).await;
    for nonce in 0..6 {
        held.insert(key(1, nonce), value(nonce), None);
    }
    until(&held, |stats| stats.spilled_bytes > 0).await;
    // What a process leaves that was killed: a folder, with a lock file that nobody has locked.
    fs::create_dir(dir.path().join(dead.to_string())).unwrap();
    fs::write(dir.path().join(dead.to_string()).join("x.spill"), "x").unwrap();
    fs::write(dir.path().join(format!("{dead}.lock")), "").unwrap();
    fs::create_dir(dir.path().join(new_incarnation().to_string())).unwrap();
    fs::write(dir.path().join("notes.txt"), "not ours").unwrap();

    let other = open(Some(dir.path()), closed).await;
    other.close().await;
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec![living.to_string(), format!("{living}.lock"), "notes.txt".into()];
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(held.get(&key(1, 0)).await.unwrap().bytes, value(0));
    let twice = HoldOptions {
        memory_bytes: MEMORY,
        spill_dir: Some(dir.path().to_path_buf()),
        incarnation: living,
    };
    assert!(Held::open(twice).await.is_err(), "two owners of one folder");
}

#[test]
fn workers_that_start_at_the_same_time_leave_each_other_their_folders() {
    let parent = tempdir().unwrap();
    let start = || {
        for _ in 0..50 {
            let folder = SpillFolder::open(parent.path(), new_incarnation()).unwrap();
            folder.write(b"here", Digest::of(b"here")).unwrap();
            folder.remove().unwrap();
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(start))));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_memory_while_any_is_freed_and_no_longer() {
    let held = open(None, new_incarnation()).await;
    for nonce in 0..9 {
        held.insert(key(1, nonce), value(nonce), None);
    }
    let (wait, bytes) = (Duration::from_secs(60), 2 * SIZE as u64);
    let began = Instant::now();
    let error = held.room(bytes, false, wait).await.unwrap_err();
    assert_eq!(began.elapsed(), wait);
    let used = held.stats().memory_bytes;
    let text = error.to_string();
    for part in [format!("{bytes} bytes"), format!("{used} of"), format!("{MEMORY} bytes")] {
        assert!(text.contains(&part), "{text}");
    }
    assert!(text.contains("nothing was freed for 60s; give"), "{text}");
    let freed = async {
        for nonce in 0..4 {
            sleep(wait / 2).await;
            held.drop_key(&key(1, nonce));
        }
    };
    let (room, ()) = tokio::join!(held.room(2 * bytes, false, wait), freed);
    room.unwrap();
    assert_eq!(began.elapsed(), 3 * wait);
    assert_eq!(held.pressure(), Pressure::Filling, "what waits no more is not counted");
}

#[tokio::test]
async fn what_waits_for_memory_drives_others_to_disk() {
    let (_dir, held) = full(5).await;
    assert_eq!(held.stats().spills, 0);
    held.room(7 * SIZE as u64, false, Duration::from_secs(60)).await.unwrap();
    assert!(held.stats().spills > 0);
}
