//! The page at `/`: what the daemon is connected to, how late it is, what it deleted of late, and what is wrong. Pure.
//!
//! The daemon renders each part as HTML, so the page says everything without JavaScript; with it each part is put in place
//! as it changes (`page.js`, server-sent events). Whatever comes from outside is escaped, here and nowhere else.

pub mod plot;
mod shown;
pub mod snapshot;
pub mod words;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::observe::board::Posted;
use crate::observe::ids::{LIST, Level};
use crate::page::plot::Point;
use crate::page::snapshot::{CacheShown, DaemonShown, ProblemShown};
use crate::page::words::Language;
use crate::verify::tally::{StaleKey, Verified};

/// Changes that the page lists.
pub const CHANGES_MAX: usize = 20;

/// Warnings that the page lists.
pub const WARNINGS_MAX: usize = 10;

/// The hit rate that is too low: the alarm's.
const HITS_LOW: f64 = 0.8;

/// A change that is not deleted after so many seconds is late.
const LATE: f64 = 5.0;

/// Of fewer reads a rate says little: a cache that was just started is not red.
const READS_MIN: u64 = 100;

/// Of fewer reads in the last minutes no rate is shown: they may be those of a person who looks.
const READS_FEW: u64 = 20;

/// A line of the log that the page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// When it was said.
    pub at: SystemTime,
    /// Its id.
    pub id: &'static str,
    /// How loud it was.
    pub level: Level,
    /// The sentence.
    pub text: String,
}

/// What the page shows.
#[derive(Debug, Clone)]
pub struct PageView {
    /// How the daemon stands.
    pub snapshot: DaemonShown,
    /// Changes a second of each table, in the order of the snapshot; `None` before it was looked at twice.
    pub rates: Option<Vec<Rate>>,
    /// The last changes, the newest first; `None` where the configuration keeps them off the page.
    pub changes: Option<Vec<Posted>>,
    /// Changes that were deleted, for the plot.
    pub points: Vec<Point>,
    /// The newest first.
    pub warnings: Vec<Warning>,
    /// What the verifier counted; without the key that it found last, where the configuration keeps keys off the page.
    pub verified: Verified,
}

impl PageView {
    /// The lowest hit rate of a cache.
    fn hits(&self) -> Option<f64> {
        self.snapshot.caches.iter().filter_map(hits).min_by(f64::total_cmp)
    }

    /// From commit to deletion, of the points of the plot.
    fn median_age(&self) -> Option<f64> {
        let mut ages: Vec<f64> = self.points.iter().map(|point| point.age).collect();
        ages.sort_by(f64::total_cmp);
        ages.get(ages.len() / 2).copied()
    }
}

/// What comes of one table in a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rate {
    /// Changes.
    pub changes: f64,
    /// Keys that they named.
    pub keys: f64,
}

/// One part of the page: its id, and its HTML.
pub type PagePart = (&'static str, String);

/// A text as HTML.
pub fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            // Nothing that turns a line around, or hides a part of it.
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                html.push('\u{fffd}');
            }
            c => html.push(c),
        }
    }
    html
}

/// The whole page. `nonce` allows its own style and script, and no others.
pub fn page(view: &PageView, language: Language, nonce: &str) -> String {
    let (code, other) = (language.code(), language.pick("fr", "en"));
    let version = view.snapshot.version;
    let mut html = format!(
        "<!doctype html><html lang={code}><head><meta charset=utf-8><title>crieur</title>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><meta name=robots content=noindex>\
         <noscript><meta http-equiv=refresh content=10></noscript>\
         <style nonce=\"{nonce}\">{}</style></head><body><header><h1>crieur</h1><span class=soft>{version}</span>\
         <a href=\"?lang={other}\" hreflang={other}>{}</a></header><main>\
         <p class=\"state bad\" id=gone hidden>{}</p>",
        include_str!("page.css"),
        language.pick("Français", "English"),
        language.pick("crieur does not answer this page any more.", "crieur ne répond plus à cette page."),
    );
    for (id, part) in parts(view, language) {
        let _ = write!(html, "<div id={id}>{part}</div>"); // A String takes it all.
    }
    let _ = write!(
        html,
        "</main><footer><a href=metrics>metrics</a> · <a href=readyz>readyz</a> · <a href=healthz>healthz</a></footer>\
         <script nonce=\"{nonce}\">{}</script></body></html>",
        include_str!("page.js")
    );
    html
}

/// Its parts, in their order.
pub fn parts(view: &PageView, language: Language) -> Vec<PagePart> {
    vec![
        ("state", state(&view.snapshot, language)),
        ("tiles", tiles(view, language)),
        ("plot", plotted(view, language)),
        ("caches", caches(&view.snapshot.caches, language)),
        ("tables", tables(view, language)),
        ("postgres", postgres(&view.snapshot, language)),
        ("changes", changes(view, language)),
        ("verifier", verifier(&view.verified, language)),
        ("warnings", warnings(view, language)),
    ]
}

/// What is wrong now and since when, or that nothing is.
fn state(snapshot: &DaemonShown, language: Language) -> String {
    let line = |class: &str, text: &str| format!("<p class=\"state {class}\" role=status>{text}</p>");
    let said = |problem: &ProblemShown| {
        let since = problem.seconds.map(|seconds| language.since(seconds));
        line("bad", &format!("{}{}", escaped(&language.problem(&problem.what)), since.unwrap_or_default()))
    };
    let caches = snapshot.caches.iter().map(|cache| cache.oldest_undeleted_seconds);
    let oldest = caches.fold(snapshot.oldest_undeleted_seconds, f64::max);
    match snapshot.problems.as_slice() {
        [] if oldest > LATE => {
            let late = language.pick(
                "Nothing is known to be wrong; the oldest change that is not deleted yet waits",
                "Rien n'est connu d'anormal ; le plus ancien changement pas encore supprimé attend",
            );
            line("warn", &format!("{late}{}.", language.since(oldest)))
        }
        [] => line(
            "good",
            language
                .pick("Everything that commits is deleted at once.", "Tout ce qui est validé est supprimé aussitôt."),
        ),
        problems => problems.iter().map(said).collect(),
    }
}

/// The hit rate of the last minutes, where there were more reads than a few.
fn hits(cache: &CacheShown) -> Option<f64> {
    cache.recent_hit_ratio.filter(|_| cache.recent_reads.is_some_and(|reads| reads >= READS_FEW))
}

/// Whether readers find too little there.
fn hits_are_low(cache: &CacheShown) -> bool {
    let is_read = cache.reads.is_some_and(|reads| reads >= READS_MIN);
    is_read && hits(cache).is_some_and(|hits| hits < HITS_LOW)
}

/// Where a server is; what it is stands above.
fn place(text: &str) -> String {
    let known = ["the cache at ", "PostgreSQL at "];
    escaped(known.iter().find_map(|what| text.strip_prefix(what)).unwrap_or(text))
}

fn tile(name: &str, value: &str, is_bad: bool) -> String {
    let bad = if is_bad { " bad" } else { "" };
    format!("<div class=\"tile{bad}\"><b>{value}</b>{name}</div>")
}

fn tiles(view: &PageView, language: Language) -> String {
    let PageView { snapshot, rates, .. } = view;
    let none = || "–".to_owned();
    let oldest = snapshot.oldest_undeleted_seconds;
    let median = view.median_age().map_or_else(none, |age| language.span(age));
    let keys = rates.as_ref().map(|rates| rates.iter().map(|rate| rate.keys).sum::<f64>());
    let all = [
        tile(
            language.pick("oldest change not deleted yet", "plus ancien changement pas encore supprimé"),
            &language.span(oldest),
            oldest > LATE,
        ),
        tile(language.pick("from commit to deletion, median", "du commit à la suppression, médiane"), &median, false),
        tile(
            language.pick("keys a second", "clés par seconde"),
            &keys.map_or_else(none, |keys| language.rate(keys)),
            false,
        ),
        tile(
            language.pick("hit rate", "taux de succès du cache"),
            &view.hits().map_or_else(none, |hits| language.percent(hits)),
            snapshot.caches.iter().any(hits_are_low),
        ),
    ];
    format!("<div class=tiles>{}</div>", all.concat())
}

fn card(title: &str, content: &str) -> String {
    format!("<section class=card><h2>{title}</h2>{content}</section>")
}

fn plotted(view: &PageView, language: Language) -> String {
    let title = language.pick("From commit to deletion", "Du commit à la suppression");
    card(title, &format!("<figure>{}</figure>", plot::svg(&view.points, language)))
}

/// A list that has nothing in it.
fn none_yet(title: &str, language: Language) -> String {
    let none = language.pick("None since crieur started.", "Aucun depuis le démarrage de crieur.");
    card(title, &format!("<p class=soft>{none}</p>"))
}

/// A table with these heads, of which those with `true` are numbers.
fn table(heads: &[(&str, bool)], rows: &str) -> String {
    let head: String = heads
        .iter()
        .map(|(head, is_number)| format!("<th scope=col{}>{head}</th>", if *is_number { " class=n" } else { "" }))
        .collect();
    format!("<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
}

fn caches(caches: &[CacheShown], language: Language) -> String {
    let row = |cache: &CacheShown| {
        let stands = match (cache.is_up, cache.is_released) {
            (false, true) => ("bad", language.pick("away, left behind", "absent, laissé en arrière")),
            (false, false) if cache.refuses => ("bad", language.pick("refuses", "refuse")),
            (false, false) => ("bad", language.pick("does not answer", "ne répond pas")),
            (true, true) => ("warn", language.pick("comes back", "revient")),
            (true, false) => ("good", language.pick("answers", "répond")),
        };
        let what = match (cache.kind, cache.is_required) {
            ("sink", _) => " (sink)",
            (_, true) => "",
            (_, false) => language.pick(" (not required)", " (facultatif)"),
        };
        let none = || "–".to_owned();
        let hits = hits(cache);
        let low = if hits_are_low(cache) { " bad" } else { "" };
        let billed = cache.billed.map_or_else(none, |billed| language.count(billed));
        format!(
            "<tr><td><b>{}</b>{what}<br><span class=\"soft place\">{}</span></td><td class={}>{}</td><td class=n>{}</td>\
             <td class=n>{}</td><td class=\"n{low}\">{}</td><td class=n>{}</td><td class=n>{billed}</td></tr>",
            escaped(&cache.name),
            place(&cache.place),
            stands.0,
            stands.1,
            language.span(cache.oldest_undeleted_seconds),
            cache.mark_age_seconds.map_or_else(none, |age| language.span(age)),
            hits.map_or_else(none, |hits| language.percent(hits)),
            cache.memory_bytes.map_or_else(none, |bytes| language.bytes(bytes)),
        )
    };
    let heads = [
        (language.pick("cache", "cache"), false),
        (language.pick("state", "état"), false),
        (language.pick("behind", "retard"), true),
        (language.pick("age of its mark", "âge de sa marque"), true),
        (language.pick("hit rate", "succès"), true),
        (language.pick("memory", "mémoire"), true),
        (language.pick("billed", "facturées"), true),
    ];
    let has_sinks = caches.iter().any(|cache| cache.kind == "sink");
    let title = if has_sinks { language.pick("Caches and sinks", "Caches et sinks") } else { "Caches" };
    card(title, &table(&heads, &caches.iter().map(row).collect::<String>()))
}

fn tables(view: &PageView, language: Language) -> String {
    let rates = view.rates.as_deref().unwrap_or_default();
    let mut rows = String::new();
    for (index, shown) in view.snapshot.tables.iter().enumerate() {
        let rate = rates.get(index);
        let rate = |of: fn(&Rate) -> f64| rate.map_or_else(|| "–".to_owned(), |rate| language.rate(of(rate)));
        let [insert, update, delete, truncate] = shown.changes;
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td class=n>{}</td><td class=\"n wide\">{}</td><td class=\"n wide\">{}</td>\
             <td class=\"n wide\">{}</td><td class=n>{}</td><td class=n>{}</td></tr>",
            escaped(&shown.table),
            language.count(insert),
            language.count(update),
            language.count(delete),
            language.count(truncate),
            rate(|rate| rate.changes),
            rate(|rate| rate.keys),
        );
    }
    let head: String = [
        (language.pick("table", "table"), ""),
        ("insert", "n"),
        ("update", "n wide"),
        ("delete", "n wide"),
        ("truncate", "n wide"),
        (language.pick("changes/s", "changements/s"), "n"),
        (language.pick("keys/s", "clés/s"), "n"),
    ]
    .iter()
    .map(|(head, class)| format!("<th scope=col class=\"{class}\">{head}</th>"))
    .collect();
    let table = format!("<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>");
    card(language.pick("Tables", "Tables"), &table)
}

fn postgres(snapshot: &DaemonShown, language: Language) -> String {
    let shown = &snapshot.postgres;
    let answers = if shown.is_up {
        language.pick("answers", "répond")
    } else {
        language.pick("does not answer", "ne répond pas")
    };
    // An outbox has no slot: what `postgres.slot` names is a row of crieur.progress.
    let named = match shown.outbox_rows {
        Some(_) => language.pick("name of the position", "nom de la position"),
        None => language.pick("slot", "slot"),
    };
    let mut rows = vec![
        (language.pick("server", "serveur"), format!("{} · {answers}", place(&shown.place))),
        (named, escaped(&shown.slot)),
        (language.pick("confirmed position", "position confirmée"), escaped(&shown.confirmed)),
    ];
    let mut some = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    some(
        language.pick("WAL kept for crieur", "WAL gardé pour crieur"),
        shown.held_bytes.map(|bytes| language.bytes(bytes)),
    );
    some(
        language.pick("head-room until the slot can be lost", "marge avant la perte du slot"),
        shown.safe_bytes.map(|bytes| language.bytes(bytes)),
    );
    some(
        language.pick("lasts, should the position stand still", "dure, si la position n'avance plus"),
        shown.seconds_to_loss.map(|seconds| language.span(seconds)),
    );
    some(
        language.pick("rows in the outbox", "lignes dans l'outbox"),
        shown.outbox_rows.map(|rows| language.count(rows)),
    );
    some(
        language.pick("the outbox on disk", "l'outbox sur le disque"),
        shown.outbox_bytes.map(|bytes| language.bytes(bytes)),
    );
    let rows: String =
        rows.into_iter().map(|(name, value)| format!("<tr><th scope=row>{name}</th><td>{value}</td></tr>")).collect();
    card("PostgreSQL", &format!("<table><tbody>{rows}</tbody></table>"))
}

/// The time of day, UTC: no browser is asked for its own.
pub fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}")
}

fn changes(view: &PageView, language: Language) -> String {
    let title = language.pick("Last changes (UTC)", "Derniers changements (UTC)");
    let Some(changes) = &view.changes else {
        let off = language.pick(
            "The configuration keeps them off this page (<code>admin.changes</code>).",
            "La configuration ne les montre pas ici (<code>admin.changes</code>).",
        );
        return card(title, &format!("<p class=soft>{off}</p>"));
    };
    if changes.is_empty() {
        return none_yet(title, language);
    }
    let mut rows = String::new();
    for posted in changes.iter().take(CHANGES_MAX) {
        let changed = &posted.changed;
        let mut keys = String::new();
        for key in &changed.keys {
            let _ = write!(keys, "<code title=\"{}\">{}</code><br>", escaped(&key.rule), escaped(&key.key));
        }
        if changed.more > 0 {
            let _ = write!(keys, "<span class=soft>+ {}</span>", language.count(changed.more as u64));
        }
        let rule = changed.keys.first().map(|key| escaped(&key.rule)).unwrap_or_default();
        let gone: Vec<String> = posted
            .gone
            .iter()
            .map(|(cache, after)| format!("{} {}", escaped(cache), language.span(after.as_secs_f64())))
            .collect();
        let gone = if gone.is_empty() { language.pick("not yet", "pas encore").to_owned() } else { gone.join("<br>") };
        let _ = write!(
            rows,
            "<tr><td class=n>{}</td><td><code>{}</code><br><span class=soft>{}</span></td>\
             <td class=wide><span class=soft>{rule}</span></td><td>{keys}</td><td class=n>{gone}</td></tr>",
            clock(changed.committed),
            escaped(&changed.table),
            changed.operation,
        );
    }
    let head: String = [
        (language.pick("time", "heure"), "n"),
        (language.pick("table", "table"), ""),
        (language.pick("rule", "règle"), "wide"),
        (language.pick("keys", "clés"), ""),
        (language.pick("deleted after", "supprimées après"), "n"),
    ]
    .iter()
    .map(|(head, class)| format!("<th scope=col class=\"{class}\">{head}</th>"))
    .collect();
    card(title, &format!("<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"))
}

/// What the verifier found, where it looks at anything.
fn verifier(verified: &Verified, language: Language) -> String {
    let Verified { checked, stale, undecided, stale_now, stale_age, last_stale } = verified;
    if checked + stale + undecided == 0 {
        return String::new();
    }
    let mut now = language.count(*stale_now);
    if *stale_now > 0 {
        now.push_str(&language.since(stale_age.as_secs_f64()));
    }
    let mut rows = vec![
        (language.pick("values compared", "valeurs comparées"), language.count(*checked)),
        (language.pick("found stale", "trouvées périmées"), language.count(*stale)),
        (language.pick("stale now", "périmées maintenant"), now),
        (language.pick("not decided", "sans verdict"), language.count(*undecided)),
    ];
    if let Some(StaleKey { at, cache, key, place, is_mended, .. }) = last_stale {
        let key = key.as_ref().map_or_else(
            || language.pick("kept off this page", "pas montrée ici").to_owned(),
            |key| format!("<code>{}</code>", escaped(key)),
        );
        let mended = if *is_mended { language.pick(", stale no more", ", plus périmée") } else { "" };
        let place =
            format!("{}{mended}<br><span class=soft>{}, {} UTC</span>", escaped(cache), escaped(place), clock(*at));
        rows.push((language.pick("last stale key", "dernière clé périmée"), format!("{key} · {place}")));
    }
    let rows: String =
        rows.into_iter().map(|(name, value)| format!("<tr><th scope=row>{name}</th><td>{value}</td></tr>")).collect();
    card(language.pick("Verifier", "Vérificateur"), &format!("<table><tbody>{rows}</tbody></table>"))
}

fn warnings(view: &PageView, language: Language) -> String {
    let title = language.pick("Last warnings (UTC)", "Derniers avertissements (UTC)");
    if view.warnings.is_empty() {
        return none_yet(title, language);
    }
    let mut rows = String::new();
    for warning in view.warnings.iter().take(WARNINGS_MAX) {
        let class = if warning.level == Level::Error { "bad" } else { "warn" };
        let _ = write!(
            rows,
            "<tr><td class=n>{}</td><td class={class}><a href=\"runbook/{id}?lang={}\">{id}</a></td><td>{}</td></tr>",
            clock(warning.at),
            language.code(),
            escaped(&warning.text),
            id = warning.id,
        );
    }
    let heads = [
        (language.pick("time", "heure"), true),
        (language.pick("what to do", "que faire"), false),
        (language.pick("what was said", "ce qui a été dit"), false),
    ];
    card(title, &table(&heads, &rows))
}

/// The page of one id of the log: what it means, whether anything is stale, what to do, when it ends by itself.
pub fn runbook(id: &str, language: Language, nonce: &str) -> Option<String> {
    let entry = LIST.iter().find(|entry| entry.name == id)?;
    let rows = [
        (language.pick("what it means", "ce que cela veut dire"), entry.means),
        (language.pick("is anything stale", "une valeur est-elle périmée"), entry.stale),
        (language.pick("what to do", "que faire"), entry.act),
        (language.pick("when it ends by itself", "quand cela finit tout seul"), entry.ends),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, text)| format!("<tr><th scope=row>{name}</th><td lang=en>{}</td></tr>", escaped(text)))
        .collect();
    let (code, back) = (language.code(), language.pick("back", "retour"));
    Some(format!(
        "<!doctype html><html lang={code}><head><meta charset=utf-8><title>{id}</title>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><style nonce=\"{nonce}\">{}</style></head>\
         <body><header><h1>{id}</h1><a href=\"../?lang={code}\">{back}</a></header><main><section class=card><table><tbody>{rows}\
         </tbody></table></section></main></body></html>",
        include_str!("page.css"),
    ))
}

#[cfg(test)]
mod tests;
