//! What `#[task]` refuses, with the messages and the lines they are reported for. In each file of
//! `ui`, a comment `//~^ text` says that a diagnostic with that text is reported for the line above
//! it (one line higher for each `^`). Words around it are left to the compiler, which changes its own
//! from version to version; of those only a few old ones are pinned.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiled crate `bolthole` beside this test: the newest, if it was built in several ways.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let files = fs::read_dir(own.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    let libraries = files.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libbolthole-") && path.extension().is_some_and(|end| end == "rlib")
    });
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).unwrap();
    libraries.max_by_key(modified).unwrap()
}

/// The compiler's diagnostics for a file, each as one text; `None` when it compiles.
fn diagnostics(library: &Path, case: &Path) -> Option<Vec<String>> {
    let out = tempfile::tempdir().unwrap();
    let mut dependencies = std::ffi::OsString::from("dependency=");
    dependencies.push(library.parent().unwrap());
    let mut bolthole = std::ffi::OsString::from("bolthole=");
    bolthole.push(library);
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--out-dir"])
        .arg(out.path())
        .arg("-L")
        .arg(dependencies)
        .arg("--extern")
        .arg(bolthole)
        .arg(case)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let list = text.split("\n\n").map(str::to_owned).collect();
    (!output.status.success()).then_some(list)
}

/// The lines and texts that a case asks for.
fn expected(source: &str) -> Vec<(usize, &str)> {
    let comments = source.lines().zip(1..).filter_map(|(line, number): (&str, usize)| {
        let text = line.trim_start().strip_prefix("//~")?;
        let pointing = text.trim_start_matches('^');
        Some((number - (text.len() - pointing.len()), pointing.trim()))
    });
    comments.collect()
}

#[test]
fn strict_programs_have_nothing_to_complain_about() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui-pass/strict.rs");
    let found = diagnostics(&library(), &case);
    assert!(found.is_none(), "{}", found.unwrap().join("\n\n"));
}

#[test]
fn mistakes_are_reported_where_they_are_made() {
    let library = library();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let mut cases: Vec<_> =
        fs::read_dir(folder).unwrap().map(|case| case.unwrap().path()).collect();
    cases.sort();
    let mut missing = Vec::new();
    for case in &cases {
        let source = fs::read_to_string(case).unwrap();
        let expected = expected(&source);
        assert!(!expected.is_empty(), "{} expects nothing", case.display());
        let Some(found) = diagnostics(&library, case) else {
            missing.push(format!("{} compiles", case.display()));
            continue;
        };
        let before = missing.len();
        for (line, text) in expected {
            let place = format!("{}:{line}:", case.display());
            if !found.iter().any(|one| one.contains(text) && one.contains(&place)) {
                missing.push(format!("{place} expected: {text}"));
            }
        }
        if missing.len() > before {
            missing.push(found.join("\n\n"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
