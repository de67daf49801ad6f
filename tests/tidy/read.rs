//! Reading source text as far as the tests of the style need it: no parser, but what it takes is said by its own tests.

use std::collections::{BTreeMap, BTreeSet};

/// The text without comments and without what is compiled for tests only, wherever that stands.
pub fn code(text: &str) -> String {
    let (mut out, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("#[cfg(test)]") {
            let indent = &line[..line.len() - trimmed.len()];
            // The item ends at its own indentation: with a brace, or a semicolon where it has none.
            for line in lines.by_ref() {
                let rest = line.strip_prefix(indent).unwrap_or_default();
                if rest == "}" || (!rest.starts_with([' ', '#', '/', '}']) && rest.ends_with([';', '}'])) {
                    break;
                }
            }
        } else if !trimmed.starts_with("//") {
            out.push(line);
        }
    }
    out.join("\n")
}

/// Whether a line begins a function, whatever its visibility.
pub fn begins_function(line: &str) -> bool {
    let mut rest = line.trim_start();
    if let Some(behind) = rest.strip_prefix("pub") {
        rest = match behind.strip_prefix('(') {
            Some(inside) => inside.split_once(')').map_or("", |(_, behind)| behind),
            None => behind,
        };
        let Some(behind) = rest.strip_prefix(' ') else { return false };
        rest = behind;
    }
    while let Some(behind) =
        ["const ", "async ", "unsafe ", "extern \"C\" "].iter().find_map(|word| rest.strip_prefix(word))
    {
        rest = behind;
    }
    rest.starts_with("fn ")
}

/// The lines of each function that is longer than `most`: where it begins, and how long it is.
pub fn long_functions(text: &str, most: usize) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| begins_function(line));
    let lengths = starts.map(|(start, line)| {
        let close = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
        // One that a trait only declares ends with its signature.
        let head = lines[start..].iter().copied().find(|line| line.ends_with(['{', ';', '}'])).unwrap_or_default();
        let close = if head.ends_with(';') { head } else { &close };
        let end = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
        (start + 1, end + 1)
    });
    lengths.filter(|(_, length)| *length > most).collect()
}

/// The types that other files may name: of each line that declares one, its name.
pub fn shared_types(code: &str) -> Vec<String> {
    let declared = code.lines().filter_map(|line| {
        let behind = line.trim_start().strip_prefix("pub")?;
        let behind = match behind.strip_prefix('(') {
            Some(inside) => inside.split_once(')')?.1,
            None => behind,
        };
        let mut words = behind.strip_prefix(' ')?.split_whitespace();
        let kind = words.next()?;
        let name = ["struct", "enum", "trait", "type", "union"].contains(&kind).then(|| words.next())??;
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        Some(name[..end].to_owned())
    });
    declared.collect()
}

/// The module that a file is: `src/rules/mod.rs` is `rules`, `src/lib.rs` has the empty name.
pub fn module(path: &str) -> String {
    let path = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    match path.strip_suffix("/mod").unwrap_or(path) {
        "lib" => String::new(),
        path => path.replace('/', "::"),
    }
}

/// The paths behind `use`, each whole: `use a::{b, c::d};` is `a::b` and `a::c::d`.
fn used(code: &str) -> Vec<String> {
    let (mut out, mut rest) = (Vec::new(), code);
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at].chars().next_back().is_none_or(|before| before.is_whitespace());
        rest = &rest[at + 4..];
        if let Some((tree, _)) = rest.split_once(';').filter(|_| starts) {
            let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            spread(&tree, "", &mut out);
        }
    }
    out
}

fn spread(tree: &str, above: &str, out: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, inside)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default();
        return out.push(format!("{above}{name}"));
    };
    let (inside, above) = (inside.trim_end().strip_suffix('}').unwrap_or(inside), format!("{above}{head}"));
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&inside[start..at], &above, out);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        spread(&inside[start..], &above, out);
    }
}

/// The paths in the text that begin with `crate::` or `super::`.
fn named(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') || code[..at].ends_with("(in ") {
                continue;
            }
            let end = code[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            let path = &code[at..at + end.unwrap_or(code.len() - at)];
            // What ends in `::` opens a group of a `use`.
            out.extend((!path.ends_with("::")).then(|| path.to_owned()));
        }
    }
    out
}

/// The children of a module that its text names without a `use`.
fn children(module: &str, code: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let below = |name: &&String| !module.is_empty() && name.rsplit_once("::").is_some_and(|(above, _)| above == module);
    let named = |name: &&String| {
        let child = format!("{}::", name.rsplit("::").next().unwrap_or_default());
        let is_path = |before: Option<char>| before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        code.match_indices(&child).any(|(at, _)| !is_path(code[..at].chars().next_back()))
    };
    files.keys().filter(below).filter(named).map(|name| format!("crate::{name}")).collect()
}

/// Which files import which, over modules that are files. A declaration (`mod x;`) is no import, a re-export is one.
pub fn imports(files: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut out = BTreeMap::new();
    for (module, code) in files {
        let mut seen = BTreeSet::new();
        for path in used(code).into_iter().chain(named(code)).chain(children(module, code, files)) {
            if let Some(found) = resolve(module, &path, files).filter(|found| *found != module) {
                seen.insert(found);
            }
        }
        out.insert(module.as_str(), seen);
    }
    out
}

/// The file that a path leads to: the longest beginning of it that is a module.
fn resolve<'f>(from: &str, path: &str, files: &'f BTreeMap<String, String>) -> Option<&'f str> {
    let mut base: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").map(str::trim).peekable();
    match *parts.peek()? {
        "crate" | "crieur" => {
            base.clear();
            parts.next();
        }
        "self" => drop(parts.next()),
        "super" => {}
        // A name without a root is a child, where there is a child of that name.
        child => {
            let child = if from.is_empty() { child.to_owned() } else { format!("{from}::{child}") };
            files.get_key_value(&child)?;
        }
    }
    while parts.next_if(|part| *part == "super").is_some() {
        base.pop();
    }
    base.extend(parts);
    (1..=base.len())
        .rev()
        .find_map(|length| files.get_key_value(&base[..length].join("::")))
        .map(|(found, _)| found.as_str())
}

/// Files that can reach themselves, in groups: each group is a circle.
pub fn circles<'g>(graph: &BTreeMap<&'g str, BTreeSet<&'g str>>) -> Vec<BTreeSet<&'g str>> {
    let reach = |from: &'g str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(at) = open.pop() {
            open.extend(graph.get(at).into_iter().flatten().copied().filter(|next| seen.insert(*next)));
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|module| (*module, reach(module))).collect();
    let own = reached.keys().filter(|module| reached[**module].contains(**module));
    let groups = own.map(|module| {
        let back = |other: &&&str| reached.get(**other).is_some_and(|others| others.contains(module));
        reached[module].iter().filter(back).copied().collect::<BTreeSet<_>>()
    });
    groups.collect::<BTreeSet<_>>().into_iter().collect()
}

mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> BTreeMap<String, String> {
        texts.iter().map(|(path, text)| (module(path), code(text))).collect()
    }

    #[test]
    fn tests_and_comments_are_no_code_and_what_follows_them_is() {
        let text = "fn a() {}\n#[cfg(test)]\nmod cases;\nfn b() {}\n// fn c() {}\n    #[cfg(test)]\n    fn d() {\n        e();\n    }\n\
                    #[cfg(test)]\n#[path = \"x.rs\"]\nmod tests {\n    fn f() {}\n}\nfn g() {}";
        let code = code(text);
        let left: Vec<&str> = ["fn a", "fn b", "fn c", "fn d", "e()", "fn f", "fn g", "cases"]
            .into_iter()
            .filter(|word| code.contains(word))
            .collect();
        assert_eq!(left, ["fn a", "fn b", "fn g"]);
    }

    #[test]
    fn a_function_is_one_whatever_its_visibility() {
        for line in [
            "fn f() {",
            "    pub fn f() {",
            "pub(crate) fn f() {",
            "    pub(super) async fn f() {",
            "pub(in crate::rules) const fn f() {",
            "pub(super) unsafe fn f() {",
        ] {
            assert!(begins_function(line), "{line}");
        }
        for line in ["let fn_ = 1;", "// fn f()", "pub(super) struct F {", "publish fn"] {
            assert!(!begins_function(line), "{line}");
        }
        let long = format!("impl A {{\n    pub(super) fn f() {{\n{}    }}\n}}", "        x();\n".repeat(9));
        assert_eq!(long_functions(&long, 10), [(2, 11)]);
        assert_eq!(long_functions(&long, 11), []);
        let declared =
            format!("trait T {{\n    fn f(\n        &self,\n    );\n{}}}\n    }}", "    fn g();\n".repeat(9));
        assert_eq!(long_functions(&declared, 5), []);
    }

    #[test]
    fn shared_types_are_those_that_other_files_may_name() {
        let text = "struct A;\npub struct B<T> {\npub(crate) enum C {\npub(super) trait D: E {\n    type F = u8;\npub type G = u8;\npub fn h()";
        assert_eq!(shared_types(text), ["B", "C", "D", "G"]);
    }

    #[test]
    fn a_circle_is_found_through_any_kind_of_path() {
        let graph = files(&[
            ("src/lib.rs", "pub mod a;\npub mod b;"),
            ("src/a.rs", "use crate::{b::{self, B},\n    c};"),
            ("src/b/mod.rs", "mod inner;\npub use inner::I;"),
            ("src/b/inner.rs", "fn f() { super::super::c::g() }"),
            ("src/c.rs", "#[cfg(test)]\nuse crate::a::A;\nfn g() { crate::d::h() }"),
            ("src/d.rs", "use self::x::X;\nfn h(_: u8) {}"),
        ]);
        let graph = imports(&graph);
        assert_eq!(graph["a"], BTreeSet::from(["b", "c"]));
        assert_eq!(graph["b"], BTreeSet::from(["b::inner"]));
        assert_eq!(graph["b::inner"], BTreeSet::from(["c"]));
        assert_eq!(graph["c"], BTreeSet::from(["d"]));
        assert_eq!(circles(&graph), Vec::<BTreeSet<&str>>::new());

        let bad =
            files(&[("src/a.rs", "use crate::b::B;"), ("src/b.rs", "use crate::c::C;"), ("src/c.rs", "use super::a;")]);
        assert_eq!(circles(&imports(&bad)), [BTreeSet::from(["a", "b", "c"])]);
        let visible = files(&[("src/a/mod.rs", "mod b;\nuse b::B;"), ("src/a/b.rs", "pub(in crate::a) struct B;")]);
        assert_eq!(circles(&imports(&visible)), Vec::<BTreeSet<&str>>::new());
        let child = files(&[("src/a/mod.rs", "mod b;\nuse b::B;"), ("src/a/b.rs", "use super::A;")]);
        assert_eq!(circles(&imports(&child)), [BTreeSet::from(["a", "a::b"])]);
        let child = files(&[("src/a/mod.rs", "mod b;\nfn f() { b::g() }"), ("src/a/b.rs", "use super::A;")]);
        assert_eq!(circles(&imports(&child)), [BTreeSet::from(["a", "a::b"])]);
    }
}
