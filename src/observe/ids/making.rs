//! How the list of ids is made: the enum and the list, from one text.

macro_rules! ids {
    ($($id:ident $name:literal $level:ident
        means $means:literal stale $stale:literal act $act:literal ends $ends:literal)*) => {
        /// What a line of the log is about. Each stands in [`LIST`].
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Id {
            $(#[doc = $means] $id,)*
        }

        /// Every id, in the order of the enum.
        pub const LIST: &[Entry] = &[$(Entry {
            id: Id::$id,
            name: $name,
            level: Level::$level,
            means: $means,
            stale: $stale,
            act: $act,
            ends: $ends,
        },)*];
    };
}
