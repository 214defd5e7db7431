//! The interpreter that runs the drivers, and what it has.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::DRIVERS;

/// Drivers run in other folders. A name without a folder is looked for in `PATH`; links are left as
/// they are, for the interpreter of a virtual environment is one.
pub(super) fn found_from_anywhere(python: &Path) -> Result<OsString> {
    let is_name = python.components().count() == 1;
    let path = if is_name { python.to_owned() } else { std::path::absolute(python)? };
    Ok(path.into_os_string())
}

/// The version of each system that this interpreter has.
pub(super) fn installed(python: &OsString) -> Result<BTreeMap<String, Option<String>>> {
    let mut command = Command::new(python);
    let output = command.arg(Path::new(DRIVERS).join("installed.py")).output();
    let advice = || {
        let python = python.display();
        format!("cannot ask `{python}` what is installed: name another Python with --python")
    };
    let output = output.with_context(advice)?;
    let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{}: {errors}", advice());
    versions(&output.stdout).with_context(advice)
}

fn versions(output: &[u8]) -> Result<BTreeMap<String, Option<String>>> {
    Ok(serde_json::from_slice(output)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_has_no_version() {
        let versions = versions(br#"{"dask": "2026.8.0", "ray": null}"#).unwrap();
        assert_eq!((&versions["dask"], &versions["ray"]), (&Some("2026.8.0".to_owned()), &None));
        assert!(super::versions(b"Traceback").is_err());
    }

    #[test]
    fn names_are_looked_for_and_paths_are_kept() {
        let found = |path: &str| found_from_anywhere(Path::new(path)).unwrap();
        assert_eq!(found("python3"), "python3");
        assert_eq!(found("/venv/bin/python"), "/venv/bin/python");
        assert!(Path::new(&found("venv/bin/python")).is_absolute());
    }
}
