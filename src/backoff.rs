//! stub until merge
use std::time::Duration;
/// stub
#[derive(Debug, Default)]
pub struct Backoff { n: u32 }
impl Backoff {
    /// stub
    pub fn next(&mut self, slow: bool, random: f64) -> Duration { self.n += 1; Duration::from_secs_f64(if slow { 100.0 } else { 0.1 * random }) }
    /// stub
    pub fn reset(&mut self) {}
}
