//! Rules of the architecture that the compiler does not know: who may name what, how long a file
//! may be, and that what the documents say of the code is so. Text only; nothing is built or run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest file of code that one can still hold in mind.
const FILE_LINES_MAX: usize = 500;
/// The longest overview that is still one.
const OVERVIEW_LINES_MAX: usize = 300;
/// Where the project's own files are; nothing else at the top holds any.
const FOLDERS: [&str; 6] = ["broker", "worker", "client", "deploy", "tests", ".ci"];
/// Endings of files that are text.
const TEXT: [&str; 10] = ["rs", "toml", "md", "lua", "sh", "py", "yaml", "conf", "json", "stderr"];

/// A file of the project: its path from the root, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.ends_in("rs")
    }

    fn ends_in(&self, ending: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == ending)
    }

    /// The text without comments and without what stands in quotes.
    fn code(&self) -> String {
        let mut code = String::with_capacity(self.text.len());
        let mut rest = self.text.chars().peekable();
        while let Some(next) = rest.next() {
            match next {
                '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
                // A quote that is itself a character is no beginning of a text.
                '"' if !code.ends_with('\'') && !code.ends_with("'\\") => {
                    while let Some(quoted) = rest.next_if(|c| *c != '"') {
                        if quoted == '\\' {
                            rest.next();
                        }
                    }
                    rest.next();
                    code.push_str("\"\"");
                }
                _ => code.push(next),
            }
        }
        code
    }

    /// Whether the code names `word`, as a whole word.
    fn names(&self, word: &str) -> bool {
        let code = self.code();
        let part = |c: char| c.is_alphanumeric() || c == '_';
        code.match_indices(word).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            !before.is_some_and(part) && !after.is_some_and(part)
        })
    }

    fn is_under(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text file of the project.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<String> = FOLDERS.iter().map(ToString::to_string).collect();
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(root().join(&folder));
        for entry in entries.unwrap_or_else(|error| panic!("{folder}: {error}")) {
            let entry = entry.unwrap_or_else(|error| panic!("{folder}: {error}"));
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}/{name}");
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && name != "target" {
                open.push(path);
            } else if TEXT.iter().any(|ending| name.ends_with(&format!(".{ending}"))) {
                found.push(Source { text: read(&path), path });
            }
        }
    }
    assert!(found.len() > 100, "only {} files were found", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fails with every offender at once.
#[track_caller]
fn assert_none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

/// Only code under these paths may name one of these words.
#[track_caller]
fn only_under(words: &[&str], folders: &[&str], rule: &str) {
    let sources = sources();
    let rust = || sources.iter().filter(|source| source.is_rust());
    let allowed = rust().filter(|source| source.is_under(folders));
    let named = |source: &Source| words.iter().any(|word| source.names(word));
    assert!(allowed.into_iter().any(named), "nobody names {words:?} any more: change the rule");
    let offenders = rust().filter(|source| !source.is_under(folders) && named(source));
    let offenders: Vec<String> = offenders.map(|source| source.path.clone()).collect();
    assert_none(&offenders, rule);
}

/// Code under these paths may name none of these words.
#[track_caller]
fn never_under(words: &[&str], folders: &[&str], rule: &str) {
    for folder in folders {
        let some = sources().iter().any(|source| source.is_under(&[*folder]));
        assert!(some, "nothing is under {folder} any more: change the rule");
    }
    let sources = sources();
    let inside = sources.iter().filter(|source| source.is_rust() && source.is_under(folders));
    let offenders: Vec<String> = inside
        .flat_map(|source| {
            let named = words.iter().filter(|word| source.names(word));
            named.map(|word| format!("{} names {word}", source.path))
        })
        .collect();
    assert_none(&offenders, rule);
}

#[test]
fn only_the_queue_knows_the_amqp_library() {
    let queue = ["broker/src/queue.rs", "broker/src/queue/amqp"];
    only_under(&["lapin"], &queue, "lapin is named only by the queue on RabbitMQ");
}

#[test]
fn only_the_store_knows_the_redis_library() {
    let sources = sources();
    // The word itself is also the name of modules; no other crate can name the library at all.
    let offenders: Vec<String> = sources
        .iter()
        .filter(|source| source.is_rust() && source.is_under(&["broker/"]))
        .filter(|source| !source.is_under(&["broker/src/store/redis"]))
        .filter(|source| {
            let code = source.code().replace("pub use redis::", "");
            code.contains("redis::") || source.names("deadpool_redis")
        })
        .map(|source| source.path.clone())
        .collect();
    assert_none(&offenders, "redis and deadpool are named only by the store in Redis");
}

#[test]
fn only_the_health_endpoint_knows_the_http_library() {
    only_under(&["axum"], &["worker/src/health"], "axum is named only by the health endpoint");
}

#[test]
fn manifests_depend_in_one_direction_only() {
    let names = |manifest: &str, word: &str| {
        let words = |line: &str| {
            line.starts_with(&format!("{word}.")) || line.starts_with(&format!("{word} "))
        };
        read(manifest).lines().any(words)
    };
    let servers = ["lapin", "redis", "deadpool-redis"];
    let crates =
        ["bolthole", "bolthole-broker", "bolthole-worker", "bolthole-macros", "bolthole-cli"];
    for (manifest, ours, known) in [
        ("broker/Cargo.toml", &[][..], &["lapin", "redis", "deadpool-redis"][..]),
        ("worker/Cargo.toml", &["bolthole-broker"], &["axum"]),
        ("client/Cargo.toml", &["bolthole-broker", "bolthole-worker", "bolthole-macros"], &[]),
        ("client/macros/Cargo.toml", &[], &[]),
        ("client/cli/Cargo.toml", &["bolthole", "bolthole-broker"], &[]),
    ] {
        for word in crates.iter().chain(&servers).chain(&["axum"]) {
            let may = ours.contains(word) || known.contains(word);
            assert!(may || !names(manifest, word), "{manifest} may not depend on {word}");
        }
        for word in known {
            assert!(
                names(manifest, word),
                "{manifest} no longer depends on {word}: change the rule"
            );
        }
    }
}

#[test]
fn the_broker_crate_knows_neither_worker_nor_client() {
    let others = ["bolthole", "bolthole_worker", "bolthole_macros"];
    never_under(&others, &["broker/src/"], "the broker crate names neither worker nor client");
}

#[test]
fn the_worker_crate_does_not_know_the_client() {
    let others = ["bolthole", "bolthole_macros"];
    never_under(&others, &["worker/src/"], "the worker crate never names the client");
}

#[test]
fn what_is_pure_has_neither_a_runtime_nor_a_clock() {
    let pure = [
        "broker/src/run.rs",
        "broker/src/run/",
        "broker/src/state.rs",
        "broker/src/graph.rs",
        "broker/src/graph/",
        "broker/src/locator.rs",
        "broker/src/descriptor.rs",
    ];
    let impure = ["tokio", "Instant", "SystemTime", "sleep", "spawn_blocking", "unix_ms"];
    never_under(&impure, &pure, "run, state, graph, locator and descriptor are pure");
}

#[test]
fn the_core_of_the_worker_reads_no_clock_and_waits_for_nothing() {
    let impure = ["now()", "sleep", "spawn(", "await", "random_u64"];
    let folders = ["worker/src/core.rs", "worker/src/core/"];
    let sources = sources();
    // Its tests may do what they like.
    let inside = sources
        .iter()
        .filter(|source| source.is_under(&folders))
        .filter(|source| !source.path.ends_with("/tests.rs") && !source.path.contains("/tests/"));
    let offenders: Vec<String> = inside
        .flat_map(|source| {
            let code = source.code();
            let code = code.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            let used = impure.iter().filter(move |word| {
                code.contains(&format!(".{word}")) || code.contains(&format!("::{word}"))
            });
            used.map(|word| format!("{} uses {word}", source.path)).collect::<Vec<_>>()
        })
        .collect();
    assert_none(&offenders, "the core is functions from events to effects");
}

#[test]
fn no_file_of_code_is_too_long() {
    let long = |source: &Source| (source.text.lines().count(), source.path.clone());
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|source| source.is_rust() || source.ends_in("lua"))
        .map(long)
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(&offenders, &format!("a file has at most {FILE_LINES_MAX} lines"));
}

#[test]
fn every_file_of_code_says_what_it_is() {
    // The programs that must not compile are pinned by their line numbers; a module `tests` beside
    // the code it tests is named by it.
    let exempt = |path: &str| path.starts_with("tests/tests/ui/") || path.ends_with("/tests.rs");
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|source| source.is_rust() && !exempt(&source.path))
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.clone())
        .collect();
    assert_none(&offenders, "a file begins with a `//!` that says what is in it");
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), "#[ignore"];
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|source| source.path != "tests/tests/tidy.rs")
        .flat_map(|source| {
            let marked = source.text.lines().enumerate();
            let marked = marked.filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
            marked
                .map(|(at, line)| format!("{}:{}: {}", source.path, at + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_none(&offenders, "what is missing is done or said in the documents");
}

#[test]
fn no_line_ends_in_white_space_and_every_file_ends_in_a_line() {
    let offenders: Vec<String> = sources()
        .iter()
        .flat_map(|source| {
            let trailing = source.text.lines().enumerate();
            let trailing = trailing.filter(|(_, line)| line.ends_with([' ', '\t', '\r']));
            let mut found: Vec<String> =
                trailing.map(|(at, _)| format!("{}:{}", source.path, at + 1)).collect();
            if !source.text.is_empty() && !source.text.ends_with('\n') {
                found.push(format!("{}: the last line is cut off", source.path));
            }
            found
        })
        .collect();
    assert_none(&offenders, "no white space at the end of a line, a line's end at that of a file");
}

#[test]
fn every_crate_opens_with_a_map_of_all_its_modules() {
    let mut offenders = Vec::new();
    for path in ["broker/src/lib.rs", "worker/src/lib.rs", "client/src/lib.rs", "tests/src/lib.rs"]
    {
        let text = read(path);
        let head: String = text.lines().filter(|line| line.starts_with("//!")).collect();
        let listed: BTreeSet<&str> =
            head.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for line in text.lines() {
            let line = line.trim_start_matches("pub ").trim_start_matches("mod ");
            let Some(module) =
                line.strip_suffix(';').filter(|_| text.contains(&format!("mod {line}")))
            else {
                continue;
            };
            if module != "__private" && !listed.contains(module) {
                offenders.push(format!("{path}: {module}"));
            }
        }
    }
    assert_none(&offenders, "a module is missing from the map at the head of its crate");
}

/// What stands between back-quotes, outside of blocks of code.
fn quoted(text: &str) -> Vec<String> {
    let mut inside_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside_block = !inside_block;
        } else if !inside_block {
            found.extend(line.split('`').skip(1).step_by(2).map(ToOwned::to_owned));
        }
    }
    found
}

#[test]
fn every_path_in_the_documents_exists() {
    let mut offenders = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md"] {
        let mut paths = 0;
        for quote in quoted(&read(document)) {
            let first = quote.split('/').next().unwrap_or_default();
            let is_path = quote.contains('/')
                && FOLDERS.contains(&first)
                && !quote.contains([' ', '*', '(', ':']);
            if is_path {
                paths += 1;
                if !root().join(&quote).exists() {
                    offenders.push(format!("{document}: {quote}"));
                }
            }
        }
        assert!(paths > 0, "{document} names no path");
    }
    assert_none(&offenders, "a path in a document does not exist");
}

#[test]
fn the_overview_names_every_module_of_the_three_crates() {
    let overview = read("ARCHITECTURE.md");
    let lines = overview.lines().count();
    assert!(lines <= OVERVIEW_LINES_MAX, "{lines} lines; at most {OVERVIEW_LINES_MAX}");
    let quotes = quoted(&overview);
    let top = |path: &str| {
        let inner = ["broker/src/", "worker/src/", "client/src/"];
        let rest = inner.iter().find_map(|folder| path.strip_prefix(folder));
        rest.is_some_and(|rest| !rest.contains('/') && rest != "lib.rs")
    };
    let offenders: Vec<String> = sources()
        .iter()
        .map(|source| source.path.clone())
        .filter(|path| top(path) && !quotes.contains(path))
        .collect();
    assert_none(&offenders, "a module is missing from the code map in ARCHITECTURE.md");
}

#[test]
fn the_program_in_the_readme_is_the_example() {
    let readme = read("README.md");
    let blocks: Vec<&str> = readme.split("```rust\n").skip(1).collect();
    let program = blocks.iter().filter_map(|block| block.split("```").next());
    let example = read("client/examples/quickstart.rs");
    let example: Vec<&str> = example
        .lines()
        .skip_while(|line| line.starts_with("//!") || line.starts_with("#!["))
        .collect();
    let example = example.join("\n");
    assert!(
        program.into_iter().any(|program| program.trim() == example.trim()),
        "no block of README.md is the program of client/examples/quickstart.rs:\n{example}"
    );
}
