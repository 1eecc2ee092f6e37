//! Parse arguments, start tracing, map the result to an exit code.

fn main() {}
