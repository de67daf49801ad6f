//! What a shell and `man` know of the commands: completions, and pages made from the same text as the help.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::{Command, ValueEnum};
use clap_complete::generate;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::config::reference;
use crate::error::Exit;

/// The shells that completions are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shell {
    /// For `source <(crieur completions bash)`.
    Bash,
    /// A file `_crieur` in a folder of `fpath`.
    Zsh,
    /// For `crieur completions fish | source`.
    Fish,
}

/// The script that makes `shell` complete the commands of `crieur`.
pub fn completions(shell: Shell, mut crieur: Command) -> Vec<u8> {
    let mut out = Vec::new();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    generate(shell, &mut crieur, "crieur", &mut out);
    out
}

/// Writes every page into a folder that exists: `crieur.1`, one for each command, and `crieur.toml.5`.
pub fn write(directory: &Path, crieur: Command) -> anyhow::Result<()> {
    for (name, text) in pages(crieur)? {
        let path = directory.join(&name);
        fs::write(&path, text).with_context(|| format!("page \"{}\" cannot be written", path.display()))?;
    }
    Ok(())
}

/// Every page, by the name of its file.
fn pages(crieur: Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    // `help` is a command of clap, and each page says as much.
    let mut crieur = crieur.disable_help_subcommand(true);
    crieur.build();
    let shown: Vec<Command> = crieur.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let names: Vec<String> = shown.iter().map(|command| format!("crieur-{}", command.get_name())).collect();
    let mut out = vec![("crieur.1".to_owned(), page(&crieur, "crieur", &names)?)];
    for (command, name) in shown.iter().zip(&names) {
        out.push((format!("{name}.1"), page(command, name, &[])?));
    }
    out.push(("crieur.toml.5".to_owned(), configuration()?));
    Ok(out)
}

fn page(command: &Command, name: &str, others: &[String]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let man =
        Man::new(command.clone()).title(name.to_uppercase()).section("1").date(" ").source(source()).manual("crieur");
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut out)?;
    }
    if !others.is_empty() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut end = Roff::new();
    exits(&mut end);
    files(&mut end);
    let others = if others.is_empty() { &["crieur".to_owned()] } else { others };
    let mut see: Vec<Inline> = others.iter().flat_map(|name| [bold(name.clone()), roman("(1), ")]).collect();
    see.extend([bold("crieur.toml"), roman("(5)")]);
    end.control("SH", ["SEE ALSO"]).text(see);
    end.text([roman("The pages in /usr/share/doc/crieur/docs, of which operate/runbook.md is for the night.")]);
    end.to_writer(&mut out)?;
    Ok(out)
}

fn source() -> String {
    format!("crieur {}", env!("CARGO_PKG_VERSION"))
}

fn exits(page: &mut Roff) {
    page.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        page.control("TP", []).text([bold((exit as u8).to_string())]).text(typed(exit.meaning()));
    }
}

fn files(page: &mut Roff) {
    page.control("SH", ["FILES"]);
    for (file, what) in [
        ("/etc/crieur/crieur.toml", "The configuration, with the rules or the name of their file."),
        ("/etc/crieur/crieur.env", "The addresses of PostgreSQL and the cache, read by systemd."),
    ] {
        page.control("TP", []).text([bold(file)]).text([roman(what)]);
    }
}

/// What stands between backquotes is bold.
fn typed(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(index, part)| if index % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

/// Every key of the configuration.
fn configuration() -> anyhow::Result<Vec<u8>> {
    let mut page = Roff::new();
    page.control("TH", ["CRIEUR.TOML", "5", " ", &source(), "crieur"]);
    page.control("SH", ["NAME"]).text([roman("crieur.toml - configuration of crieur")]);
    page.control("SH", ["DESCRIPTION"]).text([roman(
        "A file in TOML. Each key can be given by a variable of the environment as well, which wins over the file. The \
         rules are described in /usr/share/doc/crieur/docs/guide/rules.md; the other keys are these.",
    )]);
    page.control("SH", ["KEYS"]);
    for key in reference() {
        page.control("TP", []).text([bold(key.written())]).text(typed(key.doc));
        let mut also = vec![roman("Variable: "), bold(key.variable())];
        also.extend(key.also.into_iter().flat_map(|name| [roman(" or "), bold(name)]));
        also.push(roman("."));
        if let Some(default) = key.default.filter(|default| !default.is_empty()) {
            also.extend([roman(" Default: "), bold(default), roman(".")]);
        }
        page.control("br", []).text(also);
    }
    files(&mut page);
    page.control("SH", ["SEE ALSO"]).text([bold("crieur"), roman("(1), "), bold("crieur-check"), roman("(1)")]);
    let mut out = Vec::new();
    page.to_writer(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Command {
        let run = Command::new("run").about("Run it").arg(clap::Arg::new("config").long("config").value_name("FILE"));
        Command::new("crieur").about("It cries").subcommands([run, Command::new("concealed").hide(true)])
    }

    #[test]
    fn each_command_that_is_shown_has_a_page_and_a_hidden_one_has_none() {
        let pages = pages(example()).expect("a vector takes everything");
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["crieur.1", "crieur-run.1", "crieur.toml.5"]);
        let text = |index: usize| String::from_utf8_lossy(&pages[index].1).replace('\\', "");
        for (index, words) in [
            (0, ["crieur - It cries", "crieur-run(1)", "EXIT STATUS", "operate/runbook.md"]),
            (1, ["crieur-run - Run it", "--config", "FILE", "crieur.toml"]),
            (2, ["postgres.slot", "CRIEUR__POSTGRES__SLOT", "DATABASE_URL", "Default: "]),
        ] {
            for word in words {
                assert!(text(index).replace("fB", "").replace("fR", "").contains(word), "{word}: {}", text(index));
            }
            assert!(!text(index).contains("concealed"), "{}", text(index));
        }
    }

    #[test]
    fn each_shell_completes_the_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell, example())).expect("a script is text");
            assert!(script.contains("run") && script.contains("config"), "{shell:?}");
        }
    }
}
