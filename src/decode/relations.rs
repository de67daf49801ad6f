//! Relation messages kept for the changes that follow.
