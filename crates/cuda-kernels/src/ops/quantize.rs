//! Plain numbers to blocks.
