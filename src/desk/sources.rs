//! What the desk answers from.

use tokio::sync::mpsc;

use crate::admin::AdminState;
use crate::observe::board::Board;
use crate::run::SweepOrder;

/// What the desk answers from.
#[derive(Clone)]
pub struct Desk {
    /// Single changes of late.
    pub board: Board,
    /// How the daemon is.
    pub state: AdminState,
    /// To the loop, which reads it when it likes.
    pub orders: mpsc::Sender<SweepOrder>,
}
