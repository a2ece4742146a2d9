//! The composition root.
use crate::cli::{Agent, Api, Cri};
use crate::config::Settings;
pub(crate) fn agent(_: Agent, _: Settings) -> anyhow::Result<()> {
    anyhow::bail!("x")
}
pub(crate) fn cri(_: Cri, _: Settings) -> anyhow::Result<()> {
    anyhow::bail!("x")
}
pub(crate) fn api(_: Api, _: Settings) -> anyhow::Result<()> {
    anyhow::bail!("x")
}
