//! Who hears what the daemon does: one listener that several parts may tell.

use std::cell::RefCell;
use std::rc::Rc;

use crate::observe::news::News;

/// Tells the listener.
#[derive(Clone)]
pub struct Teller(Rc<RefCell<dyn FnMut(News)>>);

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    /// `listener` hears all of it.
    pub fn new(listener: impl FnMut(News) + 'static) -> Self {
        Teller(Rc::new(RefCell::new(listener)))
    }

    /// Something happened.
    pub fn tell(&self, news: News) {
        (self.0.borrow_mut())(news);
    }
}
