//! Files that are written whole or not at all, and never over another one unless that was asked for.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Exit, Result};
use crate::random;

/// A file to write.
#[derive(Debug)]
pub struct NewFile {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub text: String,
    /// Who may read it.
    pub mode: u32,
    /// What becomes of one that is there.
    pub over: Over,
}

/// Whether files that exist are replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// They stay, and nothing is written.
    Nothing,
    /// They are replaced.
    Existing,
}

/// Writes all of them, or none: each is complete under another name before the first gets its own. One that takes the place
/// of another comes behind all that do not.
///
/// # Errors
///
/// A file that exists, or that cannot be written.
pub fn all(files: &[NewFile]) -> Result<()> {
    let mut ready: Vec<(PathBuf, &NewFile)> = Vec::new();
    let mut written: Vec<&NewFile> = Vec::new();
    let result = prepare(files, &mut ready).and_then(|()| {
        for (temporary, file) in &ready {
            let given = match file.over {
                // A link is refused where the name is taken.
                Over::Nothing => std::fs::hard_link(temporary, &file.path),
                Over::Existing => std::fs::rename(temporary, &file.path),
            };
            given.map_err(|cause| refused(&file.path, &cause))?;
            written.push(file);
        }
        Ok(())
    });
    // What is left over under another name is of no use; where it cannot be removed, its name says whose it is.
    ready.iter().for_each(|(temporary, _)| drop(std::fs::remove_file(temporary)));
    if result.is_err() {
        let new = written.iter().filter(|file| file.over == Over::Nothing);
        new.for_each(|file| drop(std::fs::remove_file(&file.path)));
    }
    result
}

fn prepare<'f>(files: &'f [NewFile], ready: &mut Vec<(PathBuf, &'f NewFile)>) -> Result<()> {
    for file in files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = file.path.with_file_name(format!(".{name}.{}", &random::text()[..8]));
        let opened = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&temporary);
        let mut out = opened.map_err(|cause| refused(&file.path, &cause))?;
        ready.push((temporary, file));
        let done = out.write_all(file.text.as_bytes()).and_then(|()| out.sync_all());
        done.map_err(|cause| refused(&file.path, &cause))?;
        hand_to_group(&out, file.mode);
    }
    Ok(())
}

/// The daemon's group, where there is one: a file of mode 0640 that root writes must be readable for it. Whoever may not
/// give a file away runs the daemon as the same user.
fn hand_to_group(file: &File, mode: u32) {
    let Ok(groups) = std::fs::read_to_string("/etc/group") else { return };
    let id = groups.lines().find_map(|line| line.strip_prefix("crieur:")?.split(':').nth(1)?.parse().ok());
    if let Some(id) = id
        && mode & 0o040 != 0
    {
        let _ = std::os::unix::fs::fchown(file, None, Some(id)); // Whoever may not runs the daemon as the same user.
    }
}

fn refused(path: &Path, cause: &std::io::Error) -> Error {
    let name = path.display();
    let error = Error::definite(Exit::CantCreate, format!("cannot write \"{name}\": {cause}; nothing was written"));
    match cause.kind() {
        std::io::ErrorKind::AlreadyExists => {
            error.hint("Remove it, write another one with --config FILE, or add --force.")
        }
        std::io::ErrorKind::NotFound => error.hint("Make its folder first, or write another file with --config FILE."),
        _ => error.hint("Write into a folder of yours with --config FILE, or run the command as its owner."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn all_files_are_written_or_none_and_none_is_overwritten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str, text: &str, mode, over| NewFile {
            path: directory.path().join(name),
            text: text.into(),
            mode,
            over,
        };
        let names = || {
            let entries = std::fs::read_dir(directory.path()).expect("readable");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("readable").file_name()).collect();
            names.sort();
            names
        };
        let (new, over) = (Over::Nothing, Over::Existing);
        all(&[file("b", "old", 0o640, new)]).expect("written");
        let error = all(&[file("a", "new", 0o600, new), file("b", "new", 0o640, new)]).expect_err("b exists");
        assert_eq!(error.exit(), Exit::CantCreate);
        assert_eq!(names(), ["b"], "nothing is left of a");
        assert_eq!(std::fs::read_to_string(directory.path().join("b")).expect("readable"), "old");
        all(&[file("a", "new", 0o600, over), file("b", "new", 0o640, over)]).expect("replaced");
        assert_eq!(names(), ["a", "b"]);
        for (name, mode) in [("a", 0o600), ("b", 0o640)] {
            let path = directory.path().join(name);
            assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode);
            assert_eq!(std::fs::read_to_string(path).expect("readable"), "new");
        }
        let error = all(&[file("no/such", "x", 0o640, over)]).expect_err("no folder");
        assert!(error.hint.is_some_and(|hint| hint.contains("folder")));
    }
}
