//! The pgoutput plugin's messages, protocol versions 1 to 4.
