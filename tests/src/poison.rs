//! Tasks that harm the process they run in, and a few that only say where they are.

#![allow(
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "bodies that block their thread on purpose, with parameters of every kind"
)]

use std::fs;
use std::hint::black_box;
use std::process::{Command, abort, exit};
use std::thread;
use std::time::Duration;

use bolthole::{Ctx, Delayed, State, task};

use crate::workload::{begin, square};

/// Ends its process by SIGABRT.
#[task]
pub fn aborts(ctx: &Ctx) -> u64 {
    begin(ctx);
    abort()
}

/// The same, with an input.
#[task]
pub fn aborts_on(value: u64, ctx: &Ctx) -> u64 {
    begin(ctx);
    if value < u64::MAX { abort() } else { 0 }
}

/// Needs more stack than there is.
#[task]
pub fn overflows(ctx: &Ctx) -> u64 {
    begin(ctx);
    dig(1)
}

#[expect(unconditional_recursion, reason = "what the task is for")]
fn dig(depth: u64) -> u64 {
    let ground = [depth; 64];
    black_box(&ground);
    dig(depth + 1) + ground[7]
}

/// Is killed, as by a system that has run out of memory.
///
/// # Panics
/// When it lives.
#[task]
pub fn is_killed(ctx: &Ctx) -> u64 {
    begin(ctx);
    let killed = Command::new("sh").args(["-c", "kill -s KILL $PPID"]).status();
    panic!("it lives: {killed:?}");
}

/// Ends its process as a program ends itself.
#[task]
pub fn exits(code: i32) -> u64 {
    eprintln(&format!("leaving with {code}"));
    exit(code)
}

#[expect(clippy::print_stderr, reason = "what a body writes is part of the error")]
fn eprintln(text: &str) {
    eprintln!("{text}");
}

/// Takes all the memory it can get.
#[task]
pub fn devours() -> u64 {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![7; 16 << 20]);
        black_box(&all);
    }
}

/// Never ends; writes its process's number into a file, and that of a process which it has started.
///
/// # Panics
/// When there is no `sleep`, or the file cannot be written.
#[task]
pub fn spins(file: String, ctx: &Ctx) -> u64 {
    begin(ctx);
    let started = Command::new("sleep").arg("100000").spawn();
    let other = started.map_or(0, |child| child.id());
    // By renaming, so that nobody reads half of it.
    let part = format!("{file}.part");
    let written = fs::write(&part, format!("{} {other}", std::process::id()));
    assert!(written.is_ok() && fs::rename(&part, &file).is_ok(), "{file}: {written:?}");
    loop {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Never ends, in the process of the worker; started again, ends at once.
#[task]
pub fn gets_stuck(file: String, ctx: &Ctx) -> u32 {
    begin(ctx);
    let pid = std::process::id();
    if fs::File::options().create_new(true).write(true).open(&file).is_err() {
        return pid;
    }
    loop {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Never ends, unless it is cancelled.
#[task]
pub async fn waits_for_ever(ctx: &Ctx) -> u64 {
    ctx.cancelled().await;
    1
}

/// The number of the process it runs in.
#[task]
pub fn pid() -> u32 {
    std::process::id()
}

/// Submits a task beside its result.
#[task]
pub fn submits(path: String, ctx: &Ctx) -> Result<u64, bolthole::Error> {
    leaves_a_file::submit(ctx, path)?;
    Ok(3)
}

/// Makes a file.
#[task]
pub fn leaves_a_file(path: String) -> bool {
    fs::write(path, "").is_ok()
}

/// Hands on another task's result.
#[task]
pub fn hands_on(value: u64) -> Delayed<u64> {
    square::delayed(value)
}

/// What the worker keeps, and where.
#[task]
pub fn keeps(kept: State<String>) -> (String, u32) {
    (String::clone(&kept), std::process::id())
}
