//! Secrets that systemd hands over as files (`LoadCredential=`): which files mean which setting. Pure but for the read.
//!
//! Not a configuration layer of its own: it yields the same names as the environment, and the environment wins. Each value
//! keeps the file that it was read from, since nobody has set the variable.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::environment::{self, Given};
use crate::error::{Error, Exit, Result};
use crate::mistake::Place;

/// The variable whose value the credential of this name holds: its own name in upper case, if we read such a variable.
fn variable(credential: &str) -> Option<String> {
    let name = credential.to_ascii_uppercase();
    (environment::is_of_applications(&name) || name.starts_with("CRIEUR__")).then_some(name)
}

/// The value of a credential: one trailing line end is an editor's habit, not a part of the secret.
fn value(text: &str) -> Option<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    (!text.trim().is_empty()).then(|| text.to_owned())
}

/// What `directory` (`$CREDENTIALS_DIRECTORY`) holds files for; other files are of other programs.
pub fn from_directory(directory: &Path) -> Result<Vec<Given>> {
    let mut found = Vec::new();
    // systemd makes the directory; where somebody else names one that is not there, there are no credentials.
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(found) };
    let mut files: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    files.sort();
    let mut taken = BTreeMap::new();
    for (file, name) in files.iter().filter_map(|file| Some((file, variable(file)?))) {
        let path = directory.join(file);
        if let Some(other) = taken.insert(name.clone(), file) {
            let message = format!("the credentials \"{other}\" and \"{file}\" are two names of one setting");
            return Err(Error::definite(Exit::Config, message)
                .hint(format!("Leave one LoadCredential= of the two, for example {}.", name.to_ascii_lowercase())));
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => found.extend(value(&text).map(|value| Given {
                name: name.clone(),
                value,
                place: Place::Whole(path.display().to_string()),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot read the credential \"{}\"", path.display());
                return Err(Error::definite(Exit::NoInput, message).because(error).hint(format!(
                    "It must hold the value of {name} as UTF-8, readable for the user whom crieur runs as."
                )));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_without_the_line_end() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("database_url"), "postgres://u:p@h/d\n").expect("written");
        let found = from_directory(directory.path()).expect("readable");
        let [Given { name, value, place }] = &found[..] else { panic!("one of the two is there: {found:?}") };
        assert_eq!((name.as_str(), value.as_str()), ("DATABASE_URL", "postgres://u:p@h/d"));
        assert_eq!(place.to_string(), directory.path().join("database_url").display().to_string());
    }

    #[test]
    fn the_name_of_the_variable_itself_is_a_name_too_and_two_names_of_one_setting_are_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str| std::fs::write(directory.path().join(name), "postgres://u:p@h/d").expect("written");
        write("DATABASE_URL");
        write("Crieur__Cache__Url");
        let found = from_directory(directory.path()).expect("readable");
        let names: Vec<&str> = found.iter().map(|given| given.name.as_str()).collect();
        assert_eq!(names, ["CRIEUR__CACHE__URL", "DATABASE_URL"]);
        write("database_url");
        let error = from_directory(directory.path()).expect_err("which of the two counts?");
        assert_eq!(error.exit(), Exit::Config);
        assert!(error.chain().contains("\"DATABASE_URL\" and \"database_url\""), "{}", error.chain());
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for blank in ["\r\n", " \t\n", ""] {
            std::fs::write(directory.path().join("redis_url"), blank).expect("written");
            assert!(from_directory(directory.path()).expect("readable").is_empty());
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("redis_url"), b"redis://:hunter2\xe9@h").expect("written");
        let error = from_directory(directory.path()).expect_err("it is not UTF-8");
        assert_eq!(error.exit(), Exit::NoInput);
        assert!(error.chain().contains("redis_url\": ") && !error.chain().contains("hunter2"), "{}", error.chain());
    }
}
