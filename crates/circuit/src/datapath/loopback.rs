//! What the stock `portmap` leaves open: it has bridges take packets for loopback
//! addresses (`route_localnet`), and keeps no container from sending them.

use std::sync::PoisonError;

use circuit_core::cni::{ConfigList, PluginConfig};
use circuit_core::{Error, Result};
use circuit_net::cni::Natives;
use circuit_net::driver::guard_loopback;

use super::cni::CniDatapath;

impl CniDatapath {
    /// Keeps containers from the host's loopback before, or while, a network's ports are
    /// published by an executable. Ports are published all the same where it fails.
    pub(super) async fn guard_loopback(&self, config: &ConfigList, natives: &Natives) {
        let executed = |(index, plugin): (usize, &PluginConfig)| {
            plugin.kind == "portmap" && !natives.contains(&index)
        };
        if !config.plugins.iter().enumerate().any(executed) {
            return;
        }
        if let Err(error) = guard().await {
            let text = format!(
                "network {}: its containers may reach what listens on 127.0.0.1 of this host, \
                 as {error}",
                config.name
            );
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(text.clone()) {
                tracing::warn!("{text}");
            }
        }
    }
}

async fn guard() -> Result<()> {
    let guarded = tokio::task::spawn_blocking(guard_loopback).await;
    guarded.map_err(|error| Error::internal(format!("making a firewall rule failed: {error}")))?
}
