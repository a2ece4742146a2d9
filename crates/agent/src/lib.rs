//! podd-agent.
