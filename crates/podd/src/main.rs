//! podd: pods on one machine.

fn main() {}
