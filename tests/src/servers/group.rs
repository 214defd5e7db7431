//! Processes that end with this process, however it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use super::wait_until;

/// Waits until standard input closes, which it does when the process holding its other end dies,
/// then ends its whole process group and removes the folder. The last step runs in a session of
/// its own, for it would otherwise kill itself first.
const WATCH: &str = r#"
    read -r _
    exec setsid sh -c 'kill -s KILL -- "-$1"
        for _ in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$2" && break; sleep 0.1; done' - "$$" "$1"
"#;

/// A folder and a process group that vanish with this value or with this process.
#[derive(Debug)]
pub(crate) struct Group {
    /// Leads the group. Its standard input is a pipe that only this process holds open.
    watch: Child,
    folder: TempDir,
}

impl Group {
    /// An empty group with an empty folder, which only this user can read.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bolthole-").tempdir()?;
        let watch = Command::new("sh")
            .args(["-c", WATCH, "-"])
            .arg(folder.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { watch, folder })
    }

    /// Where the group's servers keep their files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command of this group: with the group's folder as home and working folder, no standard
    /// input and none of this process's environment, so that no setting of the user's leaks in.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        let leader = i32::try_from(self.watch.id()).context("process ids fit into 31 bits")?;
        command
            .process_group(leader)
            .current_dir(self.folder())
            .env_clear()
            .env("HOME", self.folder())
            .env("LANG", "C.UTF-8")
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// How many processes are in the group, but for its leader.
    pub(crate) fn processes(&self) -> anyhow::Result<usize> {
        let leader = self.watch.id().to_string();
        let mut count = 0;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Whatever is no process, or has ended meanwhile, has no such file.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            // After the name, which may hold anything: state, parent, group.
            let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
            let group = rest.split(' ').nth(2);
            count += usize::from(group == Some(&leader) && !path.ends_with(&leader));
        }
        Ok(count)
    }

    /// Starts `command`, whose output goes to the end of `NAME.log` in the group's folder.
    pub(crate) fn spawn(&self, name: &str, mut command: Command) -> anyhow::Result<Process> {
        let log = self.folder().join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let program = command.get_program().to_owned();
        let child = command
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process { child, log })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Closing the pipe is the signal; the folder goes with its own destructor.
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}

/// One process of a group, killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// The id of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `answers`, and fails at once, with the end of the log, when the process ends.
    pub(crate) fn wait_ready(&mut self, answers: impl Fn() -> bool) -> anyhow::Result<()> {
        let ready = wait_until("the server answers", || match self.child.try_wait()? {
            Some(status) => bail!("the server ended ({status})"),
            None => Ok(answers()),
        });
        ready.with_context(|| format!("its log ends with:\n{}", log_tail(&self.log)))
    }

    /// Sends a signal: `TERM`, `KILL`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The child is not reaped yet, so its id cannot belong to anyone else.
        let kill = ["-c", r#"kill -s "$1" "$2""#, "-", name];
        let status = Command::new("sh").args(kill).arg(self.id().to_string()).status()?;
        ensure!(status.success(), "the process {} took no {name}", self.id());
        Ok(())
    }

    /// How the process ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    pub(crate) fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal("TERM")?;
        self.wait()
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut ended = None;
        wait_until("the process has ended", || {
            ended = self.child.try_wait()?;
            Ok(ended.is_some())
        })
        .with_context(|| format!("its log ends with:\n{}", log_tail(&self.log)))?;
        ended.context("the loop above ends with a status")
    }

    /// Everything that it has written so far.
    pub(crate) fn output(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, or why there are none.
fn log_tail(log: &Path) -> String {
    match fs::read_to_string(log) {
        Ok(text) => {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}
