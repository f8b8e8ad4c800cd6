//! What the daemon works with: containerd, its store, plugins, Redis and DNS.

use std::time::Instant;

use circuit_core::cni::ConfigList;
use circuit_core::doctor::Finding;
use circuit_net::netns::pins_last;
use nix::sys::statvfs::statvfs;

use super::NodeDoctor;
use crate::redis;

/// A disk with less is as good as full: a journal is rewritten whole.
const LITTLE_SPACE: u64 = 64 << 20;
/// A name that nobody has, and that is no special one to servers (RFC 6761, section
/// 6.5): others have to be asked.
const NO_NAME: &str = "circuit-doctor.example";
/// What is said where namespaces do not stay pinned, and what to do.
pub const PINS_END: &str = "pinned namespaces end with the daemon, for its mounts are not its host's: \
                            what ends while it is away is not taken off its networks properly";
/// The remedy.
pub const PINS_REMEDY: &str = "give its service no mounts of its own, or start its container as \
                               docs/install.md has it, with --rootfs-propagation rshared";

impl NodeDoctor {
    pub(super) async fn containerd(&self) -> Vec<Finding> {
        let runtime = self.of.attachments.runtime();
        let namespace = runtime.namespace();
        let begun = Instant::now();
        match runtime.containers().await {
            Ok(containers) => vec![Finding::fine(
                "containerd",
                format!(
                    "{} containers in namespace {namespace}, told within {} ms",
                    containers.len(),
                    begun.elapsed().as_millis()
                ),
            )],
            Err(error) => vec![Finding::problem(
                "containerd",
                error.to_string(),
                "start containerd, or name its socket with --containerd",
            )],
        }
    }

    /// Namespaces are to stay pinned when the daemon ends.
    pub(super) fn pins(&self) -> Vec<Finding> {
        if pins_last(&self.of.pins) {
            return Vec::new();
        }
        vec![Finding::warning("pins", PINS_END, PINS_REMEDY)]
    }

    pub(super) async fn store(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        match self.of.networks.list().await {
            Ok(listing) => {
                for problem in listing.problems {
                    findings.push(Finding::problem(
                        "store",
                        problem.message,
                        "mend or remove that file",
                    ));
                }
                let count = listing.networks.len();
                findings.push(Finding::fine("store", format!("{count} networks")));
            }
            Err(error) => findings.push(Finding::problem(
                "store",
                error.to_string(),
                "see that the datastore can be read",
            )),
        }
        let dir = &self.of.state_dir;
        if let Ok(disk) = statvfs(dir) {
            #[allow(clippy::unnecessary_cast, reason = "some machines have 32 bits")]
            let (blocks, size) = (disk.blocks_available() as u64, disk.fragment_size() as u64);
            let free = blocks.saturating_mul(size);
            if free < LITTLE_SPACE {
                findings.push(Finding::problem(
                    "store",
                    format!("the disk of {} has {free} bytes left", dir.display()),
                    "make room: without it nothing can be connected",
                ));
            }
        }
        findings
    }

    /// Networks that a fleet shares are changed in its Redis; they are used without.
    pub(super) async fn datastore(&self) -> Vec<Finding> {
        let Some(redis) = &self.of.datastore else {
            return Vec::new();
        };
        match redis.query(&redis::cmd("PING")).await {
            Ok(_) => evicting("store", redis).await.into_iter().collect(),
            Err(failure) => vec![Finding::problem(
                "store",
                format!(
                    "{}, which shares the networks, does not answer: {failure}",
                    redis.url()
                ),
                "start it, or put --datastore right; containers are connected all the same, but no \
                 network can be changed",
            )],
        }
    }

    pub(super) async fn plugins(&self, lists: &[ConfigList]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for list in lists {
            if let Err(error) = self.of.host.probe(list).await {
                findings.push(Finding::problem(
                    "plugins",
                    format!("network {}: {error}", list.name),
                    "install the plugin in a folder of --cni-path, or delete the network",
                ));
            }
        }
        if findings.is_empty() {
            let count = lists.len();
            findings.push(Finding::fine(
                "plugins",
                format!("those of {count} networks are there"),
            ));
        }
        findings
    }

    pub(super) async fn redis(&self) -> Vec<Finding> {
        let status = match self.of.nodes.status().await {
            Ok(status) => status,
            Err(error) => {
                let remedy = "see the server's log";
                return vec![Finding::problem("redis", error.to_string(), remedy)];
            }
        };
        if status.registry.is_empty() {
            return vec![Finding::note("redis", "none: this node is in no cluster")];
        }
        let at = &status.registry;
        if !status.connected {
            return vec![Finding::problem(
                "redis",
                format!("{at} does not answer: {}", status.failure),
                "start it, or put --redis-url right; containers are connected all the same",
            )];
        }
        let mut findings = vec![Finding::fine(
            "redis",
            format!(
                "{at} answers within {} ms; {} nodes",
                status.lag.as_millis(),
                status.nodes.len()
            ),
        )];
        if let Some(registry) = &self.of.registry {
            findings.extend(evicting("redis", registry).await);
        }
        if status.nonsense > 0 {
            findings.push(Finding::warning(
                "redis",
                format!(
                    "{} entries in it made no sense since the daemon was started",
                    status.nonsense
                ),
                "see which other program writes there, if there are more by now",
            ));
        }
        for node in status.nodes {
            if matches!(&*node.state, "late" | "stale") {
                findings.push(Finding::warning(
                    "redis",
                    format!("node {} is {}", node.info.name, node.state),
                    "see whether its daemon runs and reaches redis",
                ));
            }
        }
        findings
    }

    pub(super) async fn dns(&self, lists: &[ConfigList]) -> Vec<Finding> {
        if !self.of.answers_names && !lists.iter().any(|list| list.dns) {
            let unused = "no network asks for names: create one with --dns to have them";
            return vec![Finding::note("dns", unused)];
        }
        let names = self.of.names.list().len();
        let mut findings = vec![Finding::fine("dns", format!("{names} names are known"))];
        let asked = self.of.names.query(NO_NAME, "A").await;
        if !asked.is_ok_and(|answer| answer.source == "upstream") {
            findings.push(Finding::warning(
                "dns",
                "no server answers for names that are not of containers",
                "put /etc/resolv.conf right, or name a server with --dns-upstream",
            ));
        }
        findings.extend(self.resolvers().await);
        findings
    }
}

/// Warns of a Redis that may forget what it was told, to have room.
async fn evicting(what: &'static str, redis: &redis::Store) -> Option<Finding> {
    // A user who may not ask is told elsewhere what it needs.
    let told = redis.query(redis::cmd("INFO").arg("memory")).await.ok()?;
    let policy = eviction(std::str::from_utf8(redis::answer::bytes(&told)?).ok()?)?;
    Some(Finding::warning(
        what,
        format!(
            "{} deletes keys when its memory is full: maxmemory-policy is {policy}",
            redis.url()
        ),
        "set maxmemory-policy to noeviction, or networks and addresses of pools may be forgotten",
    ))
}

/// By which policy a Redis evicts keys that do not expire, if it does.
fn eviction(info: &str) -> Option<&str> {
    let value = |key: &str| info.lines().find_map(|line| line.strip_prefix(key));
    let bounded = value("maxmemory:").is_some_and(|bytes| bytes != "0");
    value("maxmemory_policy:").filter(|policy| bounded && policy.starts_with("allkeys"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_testing::RedisServer;

    use super::*;

    #[tokio::test]
    async fn a_redis_is_asked_whether_it_evicts_keys() {
        let server = RedisServer::start();
        let url = redis::Url::parse(&server.url()).unwrap();
        let store = redis::Store::open(&url).unwrap();
        store.wait_up(circuit_testing::PATIENCE).await.unwrap();
        assert!(evicting("redis", &store).await.is_none());
        server.cli(&["config", "set", "maxmemory", "100mb"]);
        server.cli(&["config", "set", "maxmemory-policy", "allkeys-lfu"]);
        let told = evicting("redis", &store).await.unwrap();
        assert!(told.message.contains("allkeys-lfu"), "{}", told.message);
    }

    #[test]
    fn a_redis_that_evicts_all_keys_is_known() {
        let of = |bytes: u64, policy: &str| {
            let info = format!("# Memory\r\nmaxmemory:{bytes}\r\nmaxmemory_policy:{policy}\r\n");
            eviction(&info).map(str::to_owned)
        };
        assert_eq!(of(4096, "allkeys-lru").as_deref(), Some("allkeys-lru"));
        assert_eq!(of(0, "allkeys-lru"), None);
        assert_eq!(of(4096, "volatile-lru"), None);
        assert_eq!(of(4096, "noeviction"), None);
        assert_eq!(eviction("redis_version:7"), None);
    }
}
