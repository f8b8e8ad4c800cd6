//! What this node tells about itself.

use async_trait::async_trait;
use circuit_core::{
    Result,
    service::{NodeInfo, Nodes},
};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// A node without a cluster registry: it knows itself.
pub struct Alone {
    name: String,
}

impl Alone {
    /// A node of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

#[async_trait]
impl Nodes for Alone {
    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        Ok(vec![this_node(&self.name)])
    }
}

/// This machine, now.
pub fn this_node(name: &str) -> NodeInfo {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeInfo {
        name: name.to_owned(),
        version: crate::VERSION.to_owned(),
        cpus: i64::try_from(cpus).unwrap_or(i64::MAX),
        memory: system.map_or(0, |system| system.total_memory()),
        uptime: System::uptime().unwrap_or_default(),
        kernel_version: System::kernel_version().unwrap_or_default(),
    }
}
