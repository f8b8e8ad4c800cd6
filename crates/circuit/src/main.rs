//! The `circuit` binary.

fn main() {}
