//! The process that keeps a node for a test, and takes it away when the test has ended: see [`podd_tests::keeper`].

fn main() -> std::io::Result<()> {
    let instance = std::env::args().nth(1).ok_or_else(|| std::io::Error::other("usage: podd-test-keeper INSTANCE"))?;
    podd_tests::keeper::run(&instance)
}
