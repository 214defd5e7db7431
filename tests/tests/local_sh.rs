//! `deploy/local.sh`: what it prints, what it starts and that it takes all of it away again.

#![cfg(test)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A data folder whose servers end with this value.
struct Local {
    folder: TempDir,
}

impl Local {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data of local.sh")
    }

    /// Where the script's standard output goes: a file, because a pipe that a server inherited
    /// would keep this test waiting instead of failing.
    fn output(&self) -> PathBuf {
        self.folder.path().join("stdout")
    }

    /// Runs the script and returns its status code and standard output.
    fn run(&self, command: &str) -> (Option<i32>, String) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local.sh");
        let status = Command::new("timeout")
            .args(["--kill-after=10", "900"])
            .arg(script)
            .arg(command)
            .env("BOLTHOLE_LOCAL_DIR", self.data())
            .stdin(Stdio::null())
            .stdout(File::create(self.output()).unwrap())
            .status()
            .unwrap();
        (status.code(), fs::read_to_string(self.output()).unwrap())
    }

    /// The ids of all processes that the script started for this folder.
    fn processes(&self) -> Vec<u32> {
        let mark = format!("BOLTHOLE_LOCAL_SERVER={}", self.data().display());
        let is_own = |id: &u32| {
            let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap();
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ids.filter(is_own).collect()
    }

    /// Whether any server writes to where the script's standard output went.
    fn output_is_inherited(&self) -> bool {
        let files = self.processes().into_iter().flat_map(|id| {
            let files = fs::read_dir(format!("/proc/{id}/fd"));
            files.into_iter().flatten().filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        });
        let files: Vec<_> = files.collect();
        assert!(!files.is_empty(), "no open file of a server was seen");
        files.contains(&self.output())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = self.run("down");
    }
}

#[test]
fn up_twice_then_down_leaves_nothing_running() {
    let local = Local::new();
    assert_eq!(local.run("status").0, Some(3));

    let (code, exports) = local.run("up");
    assert_eq!(code, Some(0));
    let names: Vec<_> = exports.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(names.len(), exports.lines().count(), "only assignments: {exports}");
    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    let expected = ["BOLTHOLE_AMQP_URL", "BOLTHOLE_REDIS_URL", "BOLTHOLE_SECRET"];
    assert_eq!(names, expected.map(|name| format!("export {name}")));
    assert!(!local.output_is_inherited());

    let mut first = local.processes();
    assert_eq!(local.run("up"), (Some(0), exports.clone()), "a second up changes nothing");
    let second = local.processes();
    // Erlang's own helpers come and go; the servers, which come first, do not.
    first.retain(|id| !second.contains(id));
    assert!(first.len() < 2, "restarted: {first:?}");

    let (code, report) = local.run("status");
    assert_eq!((code, report.matches("runs on port").count()), (Some(0), 2), "{report}");

    assert_eq!(local.run("down").0, Some(0));
    assert_eq!(local.processes(), [0; 0]);
    assert_eq!(local.run("status").0, Some(3));
    assert_eq!(local.run("down").0, Some(0), "a second down is harmless");
}

#[test]
fn data_and_settings_outlive_down() {
    let local = Local::new();
    let (code, exports) = local.run("up");
    assert_eq!(code, Some(0));
    let redis = |command: &str| {
        let script =
            format!("{exports}\nredis-cli --no-auth-warning -u \"$BOLTHOLE_REDIS_URL\" {command}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(redis("SET k v"), "OK");
    assert_eq!(redis("CONFIG GET maxmemory-policy"), "maxmemory-policy\nnoeviction");
    assert_eq!(local.run("down").0, Some(0));
    assert_eq!(local.run("up"), (Some(0), exports.clone()));
    assert_eq!(redis("GET k"), "v");
}

#[test]
fn a_wrong_command_is_refused_without_output() {
    let local = Local::new();
    assert_eq!(local.run("sideways"), (Some(1), String::new()));
}
