//! Looks at cached values and at the database, side by side.

use std::time::Duration;

use crate::cache::any::AnyCache;
use crate::cache::inspect::Inspect;
use crate::cache::lease;
use crate::cli::verify::ask::{Access, Asker, Response};
use crate::config::{CacheConfig, Config};
use crate::error::{Error, Exit, Result};
use crate::glob;
use crate::verify::Verification;
use crate::verify::compare::is_lease;

/// What crieur keeps for itself.
const OWN: &[u8] = b"crieur:";

/// Keys that are looked at together.
pub(super) const TOGETHER: usize = 100;

/// A cache whose values are looked at.
pub(super) struct Looked {
    pub(super) settings: CacheConfig,
    pub(super) cache: AnyCache,
}

impl Looked {
    fn of(settings: &CacheConfig) -> Result<Self> {
        Ok(Looked { cache: AnyCache::new(settings)?, settings: settings.clone() })
    }

    /// Whether a key is a value of a `[[verify]]`: no lease, no mark, no lock.
    pub(super) fn is_value(&self, of: &Verification, key: &[u8]) -> bool {
        let is_protected = || self.settings.protect.iter().any(|pattern| glob::matches(pattern, key));
        of.keys.values(key).is_some() && !key.starts_with(OWN) && lease::key_of(key).is_none() && !is_protected()
    }

    /// When the last echo of a change is done, at the latest.
    pub(super) fn longest_echo(&self) -> Duration {
        self.settings.echo.last().copied().unwrap_or_default()
    }
}

/// What a look at a key saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ValueLook {
    /// Nothing is cached there.
    Absent,
    /// The value says what the database says.
    Same,
    /// The value became another one during the look, it is a reader's lease, or the database cannot read the key.
    Unclear,
    /// The database says otherwise than these bytes.
    Contradicted(Vec<u8>),
}

/// Both servers.
pub(super) struct Eyes {
    pub(super) caches: Vec<Looked>,
    pub(super) verifications: Vec<Verification>,
    pub(super) access: Access,
}

impl Eyes {
    pub(super) fn of(config: &Config) -> Result<Self> {
        let caches = config.caches.iter().map(Looked::of).collect::<Result<Vec<_>>>()?;
        Ok(Eyes { caches, verifications: config.verify.clone(), access: Access::of(config)? })
    }

    /// A session, over which the server has taken every SQL once: with NULLs, to which no row belongs.
    pub(super) async fn open(&self) -> Result<Asker> {
        let asker = self.access.asker().await?;
        for of in &self.verifications {
            let nulls = vec![None; of.keys.names().len()];
            if let Response::Refused(said) = asker.ask(of, &nulls).await? {
                return Err(refused(of, &said));
            }
        }
        Ok(asker)
    }

    /// Looks at keys of one `[[verify]]` in one cache, each before and behind the question to the database.
    pub(super) async fn look(
        &self,
        asker: &Asker,
        (cache, of): (usize, usize),
        keys: &[Vec<u8>],
    ) -> Result<Vec<ValueLook>> {
        let (cache, of) = (&self.caches[cache].cache, &self.verifications[of]);
        let mut looks = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TOGETHER) {
            let before = cache.values(keys).await?;
            let mut doubted = Vec::new();
            for (key, value) in keys.iter().zip(before) {
                let look = match value {
                    None => ValueLook::Absent,
                    Some(value) => compared(asker, of, key, value).await?,
                };
                if let ValueLook::Contradicted(_) = look {
                    doubted.push((looks.len(), key.clone()));
                }
                looks.push(look);
            }
            let (places, doubted): (Vec<usize>, Vec<Vec<u8>>) = doubted.into_iter().unzip();
            for (place, value) in places.into_iter().zip(cache.values(&doubted).await?) {
                if Some(ValueLook::Contradicted(value.unwrap_or_default())) != looks.get(place).cloned() {
                    looks[place] = ValueLook::Unclear;
                }
            }
        }
        Ok(looks)
    }
}

async fn compared(asker: &Asker, of: &Verification, key: &[u8], value: Vec<u8>) -> Result<ValueLook> {
    let Some(values) = of.keys.values(key) else { return Ok(ValueLook::Unclear) };
    let values: Vec<Option<&str>> = values.into_iter().map(Some).collect();
    Ok(match asker.ask(of, &values).await? {
        Response::Told(told) if of.compare.is_same(&value, &told) => ValueLook::Same,
        // A reader is about to put a value there; for a short text nobody could tell.
        Response::Told(_) if is_lease(&value) => ValueLook::Unclear,
        Response::Told(_) => ValueLook::Contradicted(value),
        Response::Unclear => ValueLook::Unclear,
        Response::Refused(said) => return Err(refused(of, &said)),
    })
}

fn refused(of: &Verification, said: &str) -> Error {
    let message = format!("[[verify]] at {}: PostgreSQL refuses the sql for \"{}\": {said}", of.place, of.keys.text());
    Error::definite(Exit::Config, message).hint("Correct the sql, or let the role of postgres.url read its tables.")
}

/// What `check` finds wrong with the SQL of each `[[verify]]`.
pub async fn wrong(config: &Config) -> Result<Vec<(String, String)>> {
    let asker = Access::of(config)?.asker().await?;
    let mut wrong = Vec::new();
    for of in &config.verify {
        let nulls = vec![None; of.keys.names().len()];
        if let Response::Refused(said) = asker.ask(of, &nulls).await? {
            wrong.push((
                format!("verify {} at {}", of.keys.text(), of.place),
                format!("the server refuses its sql: {said}"),
            ));
        }
    }
    Ok(wrong)
}
