//! Every input of the fuzzing corpora, and some changes to each, on whatever compiler builds the
//! tests. `tests/fuzz/run.sh` looks for new ones.

#![allow(clippy::expect_used, reason = "a test that cannot go on should fail")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use bolthole_tests::fuzz::{TARGETS, Target, seeds};

/// Inputs made of each input of a corpus, unless the variable `FUZZ_CHANGES` says how many.
const CHANGES: u64 = 300;

/// A generator of numbers (SplitMix64): the same for everybody.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64).max(1)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        // Lengths and tags are small, and their limits are near the largest numbers.
        let [any, kind, ..] = self.next().to_le_bytes();
        match kind % 4 {
            0 => any % 16,
            1 => 0xff - any % 4,
            _ => any,
        }
    }

    /// Changes an input in some places.
    fn change(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.truncate(at),
                1 => input.insert(at, self.byte()),
                2 if at < input.len() => drop(input.remove(at)),
                3 => {
                    let end = at + self.below(input.len() + 1 - at).min(64);
                    let again = input[at..end].to_vec();
                    input.extend_from_slice(&again);
                }
                _ => {
                    let byte = self.byte();
                    if let Some(place) = input.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
    }
}

/// The inputs in the corpus of a target, by name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut inputs: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(&path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs a target; a panic names the input.
#[track_caller]
fn run(target: &Target, name: &str, input: &[u8]) {
    let ended = catch_unwind(|| (target.run)(input));
    assert!(ended.is_ok(), "{}: the input {name}, as {input:02x?}", target.name);
}

#[test]
fn the_corpora_and_changes_to_them_break_no_rule() {
    let changes = std::env::var("FUZZ_CHANGES").ok().and_then(|changes| changes.parse().ok());
    for target in TARGETS {
        let mut numbers = Numbers(7);
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{}: no corpus", target.name);
        for (name, input) in inputs {
            run(target, &name, &input);
            for _ in 0..changes.unwrap_or(CHANGES) {
                let mut other = input.clone();
                numbers.change(&mut other);
                run(target, &format!("{name}, changed"), &other);
            }
        }
    }
}

#[test]
fn the_corpora_hold_what_this_build_writes() {
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
        for (name, seed) in seeds(target.name) {
            let path = folder.join(name);
            if std::env::var_os("BLESS").is_some() {
                fs::create_dir_all(&folder).expect("a folder");
                fs::write(&path, &seed).expect("a seed");
            }
            let stored = fs::read(&path).unwrap_or_default();
            assert!(stored == seed, "{}: write it anew with BLESS=1", path.display());
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the manifest");
    let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/"));
    let mut programs: Vec<&str> = programs.map(|rest| rest.trim_end_matches(".rs\"")).collect();
    programs.sort_unstable();
    let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    targets.sort_unstable();
    assert_eq!(programs, targets);
}
