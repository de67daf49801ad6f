//! The documentation: what is made from the code agrees with the code, what is linked exists, what is quoted is said,
//! pages stay short, and the French pages say the same things as the English ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use crieur::cli::reference::{self, FAMILIES, ReferencePart};
use crieur::config::rules_of_file;
use crieur::observe::ids::LIST;

/// Longer pages are read by nobody at night.
const LINES_MAX: usize = 250;
/// The first page.
const FIRST_LINES_MAX: usize = 150;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page, by its path below the root.
pub fn pages() -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join("docs")]);
    folders.extend(["README.md", "README.fr.md", "clients/rust"].map(|name| root().join(name)));
    while let Some(path) = folders.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder of the repository is readable");
            folders.extend(entries.map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(&path).expect("a page is readable text");
            found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
        }
    }
    found.sort();
    assert!(found.len() > 20, "only {} pages", found.len());
    found
}

fn complain(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        let shown = !is_code && !fence;
        is_code ^= fence;
        shown
    })
}

/// The fenced blocks: info string and content.
fn blocks(text: &str) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), None::<(String, String)>);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some((_, content))) => {
                content.push_str(line);
                content.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that does not end: {open:?}");
    found
}

/// The anchor that a forge gives a heading.
fn slug(heading: &str) -> String {
    let plain = heading.trim().to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn headings(text: &str) -> Vec<&str> {
    let marks = |line: &str| line.starts_with('#') && line.trim_start_matches('#').starts_with(' ');
    prose(text).filter(|line| marks(line)).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    headings(text).into_iter().map(|heading| slug(heading.trim_start_matches('#'))).collect()
}

/// The targets of `[text](target)`, and of `src="target"`.
fn links(text: &str) -> Vec<&str> {
    let of_line = |line| {
        let line: &str = line;
        line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect::<Vec<_>>()
    };
    prose(text).flat_map(of_line).collect()
}

#[test]
fn the_parts_that_are_made_from_the_code_agree_with_the_code() {
    let (mut seen, mut complaints) = (BTreeSet::new(), Vec::new());
    for (path, page) in pages() {
        for part in ReferencePart::value_variants() {
            let name = part.to_possible_value().expect("none is hidden").get_name().to_owned();
            let begin = format!("<!-- made by: crieur reference {name} -->\n\n");
            let Some((before, rest)) = page.split_once(&begin) else { continue };
            let (old, after) = rest.split_once("\n<!-- end -->").expect("a part that is made ends");
            let new = reference::text(*part, <crieur::cli::Arguments as clap::CommandFactory>::command());
            seen.insert(name.clone());
            if old != new {
                if std::env::var_os("UPDATE").is_some() {
                    let page = format!("{before}{begin}{new}\n<!-- end -->{after}");
                    std::fs::write(root().join(&path), page).expect("the repository is writable");
                }
                complaints.push(format!("{}: {name} is not what the code says; UPDATE=1 writes it", path.display()));
            }
        }
    }
    assert_eq!(seen.len(), ReferencePart::value_variants().len(), "parts that stand on no page: {seen:?} do");
    complain(complaints);
}

/// The scripts stand once, in `lua/`: guide/readers.md, its sister and the table of `lua/` say the same as the files.
#[test]
fn every_script_on_a_page_is_a_file_of_its_own() {
    let entries = std::fs::read_dir(root().join("lua")).expect("a folder of the repository");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let scripts: BTreeMap<String, String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "lua"))
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
            (name, std::fs::read_to_string(&path).expect("a script is readable text"))
        })
        .collect();
    let table = std::fs::read_to_string(root().join("lua/README.md")).expect("the table is there");
    let mut complaints: Vec<String> = scripts
        .keys()
        .filter(|name| !table.contains(&format!("| `{name}` |")))
        .map(|name| format!("lua/README.md does not say what {name} takes and answers"))
        .collect();
    let mut shown = 0;
    for (path, page) in pages() {
        for (_, content) in blocks(&page).into_iter().filter(|(info, _)| info.starts_with("lua")) {
            let indent = content.len() - content.trim_start().len();
            let plain: String =
                content.lines().map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect();
            shown += 1;
            if !scripts.values().any(|script| *script == plain) {
                complaints.push(format!("{}: this is no file of lua/:\n{plain}", path.display()));
            }
        }
    }
    assert!(shown >= 8 && scripts.len() >= 6, "{shown} blocks, {} files", scripts.len());
    complain(complaints);
}

/// The pages of the npm package.
fn pages_of_npm() -> Vec<(PathBuf, String)> {
    let folder = root().join("clients/typescript");
    let all = ["", "docs"].map(|name| std::fs::read_dir(folder.join(name)).expect("a folder of the repository"));
    let paths = all.into_iter().flatten().map(|entry| entry.expect("readable").path());
    let pages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a page is readable text");
            (path.strip_prefix(root()).expect("below the root").to_owned(), text)
        })
        .collect()
}

/// What a page shows as configuration is read as crieur reads it, with what stands elsewhere: addresses and a rule where it
/// has none, and secrets in the place of `…`.
#[test]
fn every_configuration_and_every_rule_on_a_page_can_be_read() {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("it is ours");
    let rule = "\n[[rules]]\ntable = \"t\"\nkeys = [\"k\"]\ntags = [\"k\"]\n";
    write("rules.toml", rule);
    let elsewhere =
        [("DATABASE_URL", "postgres://a/d"), ("REDIS_URL", "redis://a"), ("CRIEUR__CACHES__DAKAR__URL", "redis://b")];
    let elsewhere = elsewhere.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (mut complaints, mut seen) = (Vec::new(), 0);
    for (path, page) in pages().into_iter().chain(pages_of_npm()) {
        for (_, block) in blocks(&page).into_iter().filter(|(info, _)| info.starts_with("toml")) {
            let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
            let block = block.replace("whsec_…", secret).replace('…', "x").replace("<endpoint>", "a.upstash.io");
            let has_rules = block.contains("[[rules]]") || block.contains("rules_file");
            write("crieur.toml", &format!("{block}{}", if has_rules { "" } else { rule }));
            let read =
                crieur::config::Config::load(&directory.path().join("crieur.toml"), elsewhere.clone().into_iter());
            complaints.extend(read.err().map(|mistakes| format!("{}:\n{block}{mistakes}", path.display())));
            seen += 1;
        }
    }
    assert!(seen >= 60, "only {seen} blocks");
    complain(complaints);
}

#[test]
fn the_rights_are_those_of_the_rules_that_are_shipped() {
    let rules = rules_of_file(&root().join("systemd/dousell.rules.toml"));
    let patterns = rules.unwrap_or_else(|mistakes| panic!("{mistakes}")).patterns();
    assert_eq!(patterns, FAMILIES.map(|family| family.as_bytes().to_vec()));
}

#[test]
fn no_page_is_longer_than_a_tired_person_reads() {
    let limit = |path: &Path| if path.starts_with("docs") { LINES_MAX } else { FIRST_LINES_MAX };
    let long = pages().into_iter().filter(|(path, text)| text.lines().count() > limit(path));
    complain(long.map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count())).collect());
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let mut complaints = Vec::new();
    let pages = pages();
    for (path, text) in &pages {
        let folder = path.parent().expect("a file stands in a folder");
        for target in links(text).into_iter().filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        {
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let other = if file.is_empty() { path.clone() } else { folder.join(file) };
            let Ok(real) = root().join(&other).canonicalize() else {
                complaints.push(format!("{}: {target} does not exist", path.display()));
                continue;
            };
            let Some(anchor) = anchor else { continue };
            let text = std::fs::read_to_string(&real).unwrap_or_default();
            if !anchors(&text).contains(anchor) {
                complaints.push(format!("{}: {target} has no such heading", path.display()));
            }
        }
    }
    complain(complaints);
}

/// Whoever is woken by an alert finds what to do.
#[test]
fn each_alert_leads_to_a_heading_of_the_runbook_in_both_languages() {
    let text = std::fs::read_to_string(root().join("docs/operate/monitoring/alerts.yml")).expect("it is there");
    let (mut complaints, mut seen) = (Vec::new(), 0);
    for alert in text.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap_or_default();
        for (key, ending) in [("runbook_url: ", ".md"), ("runbook_url_fr: ", ".fr.md")] {
            let target = alert.lines().find_map(|line| line.trim().strip_prefix(key));
            let Some((page, anchor)) = target.and_then(|target| target.split_once('#')) else {
                complaints.push(format!("{name}: no {key}"));
                continue;
            };
            let there = std::fs::read_to_string(root().join(page)).unwrap_or_default();
            if !page.ends_with(ending) || !anchors(&there).contains(anchor) {
                complaints.push(format!("{name}: {page} has no heading {anchor}"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} links");
    complain(complaints);
}

/// A series that no test moves may stand still for ever, and nobody notices. What a test asserts of it no text tells; that
/// none of those that run a daemon speaks of it, a text does.
#[test]
fn every_metric_is_named_by_a_test_of_a_daemon() {
    let page = std::fs::read_to_string(root().join("docs/operate/metrics.md")).expect("it is there");
    let tests = sources(&root().join("tests/live"));
    let made = page.split("<!-- made by: crieur reference metrics -->").nth(1).expect("a part is made");
    let names: Vec<&str> = made.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next()).collect();
    assert!(names.len() >= 50, "only {} metrics", names.len());
    let is_named = |name: &str| {
        let short = name.strip_prefix("crieur_").unwrap_or(name);
        // Tests of the caches' own numbers name them behind a common prefix.
        let shorter = short.strip_prefix("cache_").unwrap_or(short);
        let ends = |rest: &str| {
            let part = ["_bucket", "_count", "_sum"].iter().find_map(|part| rest.strip_prefix(part));
            !part.unwrap_or(rest).starts_with(|next: char| next.is_alphanumeric() || next == '_')
        };
        let whole = |text: String| tests.match_indices(&text).any(|(at, _)| ends(&tests[at + text.len()..]));
        whole(format!("\"{short}")) || whole(format!("crieur_{short}")) || tests.contains(&format!("\"{shorter}\""))
    };
    // A daemon shows it for the moment in which a backlog is read; that it is shown is a test of src/metrics.
    let passes = |name: &&str| *name == "crieur_lateness_seconds";
    let lost = names.into_iter().filter(|name| !is_named(name) && !passes(name));
    complain(lost.map(|name| format!("no test names {name}")).collect());
}

/// Whoever reads French goes on in French; only the line below a title leads to the English sister.
#[test]
fn a_french_page_links_the_french_sister_of_a_page() {
    let mut complaints = Vec::new();
    for (path, text) in pages().iter().filter(|(path, _)| path.to_string_lossy().ends_with(".fr.md")) {
        let folder = root().join(path.parent().expect("a file stands in a folder"));
        let own = path.to_string_lossy().replace(".fr.md", ".md");
        for target in links(text).into_iter().filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            let Some(name) = file.strip_suffix(".md").filter(|name| !name.ends_with(".fr")) else { continue };
            let is_own = own.ends_with(file) && text.contains(&format!("*In English: [{file}]({file})"));
            if !is_own && folder.join(format!("{name}.fr.md")).exists() {
                complaints.push(format!("{}: {target} is in French, too", path.display()));
            }
        }
    }
    complain(complaints);
}

/// In English both are made from the code.
#[test]
fn the_french_list_of_ids_says_what_the_french_runbook_says() {
    let page = |name: &str| std::fs::read_to_string(root().join("docs/operate").join(name)).expect("the page is there");
    let list = page("log-ids.fr.md");
    let (mut complaints, mut seen) = (Vec::new(), 0);
    for name in ["runbook-cache.fr.md", "runbook-stream.fr.md", "runbook-tables.fr.md"] {
        let text = page(name);
        for part in text.split("\n## `").skip(1) {
            let (id, rest) = part.split_once("`\n\n").expect("a heading is an id");
            let (level, meaning) =
                rest.lines().next().and_then(|line| line.split_once(" : ")).expect("level and meaning");
            seen += 1;
            if !list.contains(&format!("[`{id}`]({name}#{}) | {level} | {meaning} |\n", id.replace('.', ""))) {
                complaints.push(format!("log-ids.fr.md: {id} is not what {name} says"));
            }
        }
    }
    assert!(seen >= 40, "only {seen} ids");
    complain(complaints);
}

#[test]
fn every_page_is_linked_from_the_first_or_by_its_sister() {
    let pages = pages();
    let first: String =
        pages.iter().filter(|(path, _)| !path.starts_with("docs")).map(|(_, text)| text.as_str()).collect();
    let others: String = pages.iter().map(|(_, text)| text.as_str()).collect();
    let lost = pages.iter().filter(|(path, _)| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        path.starts_with("docs")
            && !first.contains(&path.display().to_string())
            && !others.contains(&format!("({name})"))
    });
    complain(lost.map(|(path, _)| format!("{}: nobody links it", path.display())).collect());
}

/// Every Rust source below a folder, as one text.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a folder of the repository").map(|entry| entry.expect("readable"));
    let texts = entries.map(|entry| match entry.path() {
        folder if folder.is_dir() => sources(&folder),
        file if file.extension().is_some_and(|extension| extension == "rs") => {
            std::fs::read_to_string(file).expect("a source is readable text")
        }
        _ => String::new(),
    });
    texts.collect()
}

#[test]
fn every_test_that_keeps_a_promise_exists() {
    let code = ["src", "tests/live", "tests/torture", "tests/simulation", "tests/model"]
        .map(|name| sources(&root().join(name)));
    let code = code.concat() + include_str!("properties.rs") + include_str!("corpus.rs") + include_str!("guarantee.rs");
    let page = std::fs::read_to_string(root().join("docs/explain/promises.md")).expect("the page is there");
    let names: Vec<_> =
        identifiers(&page).into_iter().filter(|name| name.matches('_').count() > 2 && !name.contains('.')).collect();
    assert!(names.len() >= 20, "only {names:?}");
    let absent = names.into_iter().filter(|name| !code.contains(&format!("fn {name}(")));
    complain(absent.map(|name| format!("no test is called {name}")).collect());
}

/// That the words are said, the live tests see: they wait for each of these lines. Here it is its id.
#[test]
fn every_id_of_the_log_that_a_page_names_exists() {
    let (mut complaints, mut quoted) = (Vec::new(), 0);
    for (path, page) in pages() {
        for (_, content) in blocks(&page).into_iter().filter(|(info, _)| info.starts_with("text log")) {
            for line in content.lines() {
                quoted += 1;
                let (line, id) = line.split_once(" id=").unwrap_or((line, ""));
                let level = line.trim().split(' ').next().unwrap_or_default();
                if !["INFO", "WARN", "ERROR"].contains(&level) {
                    complaints.push(format!("{}: {line}: no level", path.display()));
                }
                if !id.is_empty() && !LIST.iter().any(|entry| entry.name == id) {
                    complaints.push(format!("{}: there is no id {id}", path.display()));
                }
            }
        }
        let named = identifiers(&page).into_iter().filter(|word| {
            let families = LIST.iter().map(|entry| entry.name.split('.').next().unwrap_or_default());
            let mut parts = word.split('.');
            let family = parts.next().unwrap_or_default();
            let rest = parts.next().unwrap_or_default();
            let is_word =
                !rest.is_empty() && parts.next().is_none() && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            // Keys of the configuration and objects of the schema look the same.
            let is_other = crieur::config::reference().iter().any(|key| key.name == *word) || word.ends_with(".toml");
            is_word
                && !is_other
                && families.into_iter().any(|known| known == family)
                && path.starts_with("docs/operate")
        });
        let unknown = named.filter(|word| !LIST.iter().any(|entry| entry.name == *word));
        complaints.extend(unknown.map(|word| format!("{}: there is no id `{word}`", path.display())));
    }
    assert!(quoted >= 8, "only {quoted} lines are quoted");
    complain(complaints);
}

#[test]
fn every_file_of_the_repository_that_a_page_names_exists() {
    let mut complaints = Vec::new();
    for (path, page) in pages() {
        let plain: String = prose(&page).map(|line| format!("{line} ")).collect();
        let is_ours = |word: &&str| {
            ["src/", "tests/", "sql/", "systemd/", "lua/", "clients/"].iter().any(|root| word.starts_with(root))
        };
        let named =
            identifiers(&plain).into_iter().filter(is_ours).map(|word| word.split(['*', ' ']).next().unwrap_or(word));
        let lost = named.filter(|word| !root().join(word).exists());
        complaints.extend(lost.map(|word| format!("{}: {word} does not exist", path.display())));
    }
    complain(complaints);
}

/// A heading in another language says the same when its identifiers are the same.
fn identifiers(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// A block without what is said to a reader: comments behind `#` and `--`.
fn bare(content: &str) -> Vec<String> {
    let lines =
        content.lines().map(|line| match line.split_once(" #").or_else(|| line.strip_prefix('#').map(|_| ("", ""))) {
            Some((code, _)) if !code.contains('"') || line.matches('"').count() % 2 == 0 => code.trim_end().to_owned(),
            _ => line.trim_end().to_owned(),
        });
    lines
        .map(|line| line.split(" -- ").next().unwrap_or_default().trim_end().to_owned())
        .filter(|line| !line.starts_with("-- "))
        .filter(|line| !line.is_empty())
        .collect()
}

/// The symbols of a grammar that are typed, which stand in double quotes. Behind `'"'` stands prose.
fn symbols(content: &str) -> Vec<String> {
    let quoted = content.split('"').skip(1).step_by(2);
    quoted.filter(|symbol| *symbol == "'" || !symbol.starts_with('\'')).map(str::to_owned).collect()
}

/// What a text of `--help` has in every language: how a command is typed, its options, their values and defaults.
fn options(content: &str) -> Vec<String> {
    let known = content.lines().map(str::trim).filter_map(|line| match line {
        _ if ["Usage: ", "--", "-h, ", "<", "[default: "].iter().any(|begin| line.starts_with(begin)) => Some(line),
        _ => line.strip_prefix("- ").and_then(|value| value.split(':').next()),
    });
    known.map(str::to_owned).collect()
}

/// The number that a row of a table is about, such as an exit code; empty where it is about none.
fn number_of(row: &str) -> &str {
    let cell = row.split('|').nth(1).unwrap_or_default().trim();
    if cell.chars().all(|c| c.is_ascii_digit()) { cell } else { "" }
}

#[test]
fn french_pages_have_the_headings_commands_and_identifiers_of_the_english_ones() {
    let mut complaints = Vec::new();
    let pages = pages();
    let mut sisters = 0;
    for (path, french) in &pages {
        let Some(name) = path.to_str().and_then(|path| path.strip_suffix(".fr.md")) else { continue };
        let english = PathBuf::from(format!("{name}.md"));
        let Some((_, english)) = pages.iter().find(|(other, _)| *other == english) else {
            complaints.push(format!("{}: it has no English sister", path.display()));
            continue;
        };
        sisters += 1;
        let shape = |text: &str| -> Vec<(usize, Vec<String>)> {
            let level = |heading: &str| heading.chars().take_while(|c| *c == '#').count();
            let of = |heading: &&str| (level(heading), identifiers(heading).into_iter().map(str::to_owned).collect());
            headings(text).iter().map(of).collect()
        };
        let (ours, theirs) = (shape(french), shape(english));
        let other = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        if let Some(at) = other.or((ours.len() != theirs.len()).then_some(ours.len().min(theirs.len()))) {
            complaints.push(format!(
                "{}: heading {}: {:?} where the English page has {:?}",
                path.display(),
                at + 1,
                headings(french).get(at),
                headings(english).get(at)
            ));
        }
        for level in ["INFO", "WARN", "ERROR"] {
            let count = |text: &str| prose(text).map(|line| line.matches(level).count()).sum::<usize>();
            if count(french) != count(english) {
                complaints.push(format!("{}: {level} stands there another number of times", path.display()));
            }
        }
        let commands = |text: &str| -> Vec<(String, Vec<String>)> {
            let found = blocks(text).into_iter().filter(|(info, _)| !info.starts_with("mermaid"));
            let code = |info: &str, content: &str| match info {
                "ebnf" => symbols(content),
                _ if content.contains("\nUsage: ") => options(content),
                _ => bare(content),
            };
            found.map(|(info, content)| (info.clone(), code(&info, &content))).collect()
        };
        let (ours, theirs) = (commands(french), commands(english));
        for (at, pair) in ours.iter().zip(&theirs).enumerate().filter(|(_, (ours, theirs))| ours != theirs) {
            complaints.push(format!("{}: block {}: {:?} is not {:?}", path.display(), at + 1, pair.0, pair.1));
        }
        if ours.len() != theirs.len() {
            complaints.push(format!("{}: {} blocks, {} in English", path.display(), ours.len(), theirs.len()));
        }
        let rows = |text: &str| -> Vec<String> {
            prose(text).filter(|line| line.starts_with('|')).map(|line| number_of(line).to_owned()).collect()
        };
        let (ours, theirs) = (rows(french), rows(english));
        if ours != theirs {
            complaints.push(format!("{}: rows of tables {ours:?}, {theirs:?} in English", path.display()));
        }
        let set = |text: &str| -> BTreeSet<String> {
            let plain: String = prose(text).map(|line| format!("{line} ")).collect();
            identifiers(&plain).into_iter().map(str::to_owned).collect()
        };
        let (ours, theirs) = (set(french), set(english));
        let all: Vec<_> = ours.symmetric_difference(&theirs).collect();
        if !all.is_empty() {
            complaints.push(format!("{}: only one of the two pages says {all:?}", path.display()));
        }
    }
    assert!(sisters >= 3, "only {sisters} French pages");
    complain(complaints);
}
