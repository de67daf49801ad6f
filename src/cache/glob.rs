//! Redis glob patterns: escaping and matching (`stringmatchlen` in `src/util.c`).
