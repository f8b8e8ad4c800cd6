//! `circuit network create`: from a file, or from a few words.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use circuit_api::v1;
use clap::Args;

use super::client::{Client, answer};
use super::output::{self, Failure};
use crate::text;

pub(super) const EXAMPLES: &str = "\
Examples:
  circuit network create web                                a bridge, a free subnet
  circuit network create db --subnet 10.90.0.0/24 --internal --dns
  circuit network create lan --driver macvlan --parent eth0 --subnet 192.168.7.0/24 \\
      --gateway 192.168.7.1 --ip-range 192.168.7.128/25
  circuit network create web --ipv6 --dry-run               print the configuration
  circuit network create ctr0 /etc/cni/net.d/ctr0.conflist
  sed s/10.1/10.2/ ctr0.conflist | circuit network create ctr0 -";

/// What `create` takes.
#[derive(Debug, Args)]
pub struct Create {
    /// The network's name.
    name: String,

    /// A file with a CNI configuration; - reads standard input. Without one, the
    /// configuration is written from the options.
    #[arg(value_name = "CONFIG", conflicts_with_all = WORDS)]
    path: Option<PathBuf>,

    /// Accept an overlap with routes, resolvers and other networks, and replace
    /// a network of that name that no container is connected to.
    #[arg(short, long)]
    force: bool,

    /// Print the configuration, and store nothing.
    #[arg(long)]
    dry_run: bool,

    /// What makes the interfaces: bridge, ptp, macvlan, ipvlan or vlan.
    #[arg(long, value_name = "DRIVER", help_heading = DESCRIBED)]
    driver: Option<String>,

    /// The subnet; twice for one of each family. Without it, a free one of the
    /// server's --default-pools.
    #[arg(long, value_name = "SUBNET", value_delimiter = ',', help_heading = DESCRIBED)]
    subnet: Vec<String>,

    /// The subnet's gateway, when it is not its first address.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', help_heading = DESCRIBED)]
    gateway: Vec<String>,

    /// The part of the subnet from which addresses are given.
    #[arg(long, value_name = "SUBNET", value_delimiter = ',', help_heading = DESCRIBED)]
    ip_range: Vec<String>,

    /// IPv6 beside IPv4.
    #[arg(long, help_heading = DESCRIBED)]
    ipv6: bool,

    /// No way out: neither a default route nor masquerading.
    #[arg(long, help_heading = DESCRIBED)]
    internal: bool,

    /// The largest packet, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t, hide_default_value = true, help_heading = DESCRIBED)]
    mtu: u32,

    /// The host's interface that the network is on.
    #[arg(long, value_name = "INTERFACE", help_heading = DESCRIBED)]
    parent: Option<String>,

    /// The number of the VLAN.
    #[arg(long, value_name = "NUMBER", default_value_t, hide_default_value = true, help_heading = DESCRIBED)]
    vlan: u32,

    /// How macvlan (bridge, private, vepa, passthru) or ipvlan (l2, l3, l3s) pass
    /// frames.
    #[arg(long, value_name = "MODE", help_heading = DESCRIBED)]
    mode: Option<String>,

    /// Containers find each other by name.
    #[arg(long, help_heading = DESCRIBED)]
    dns: bool,

    /// What publishes ports: nftables, iptables or none.
    #[arg(long, value_name = "BACKEND", help_heading = DESCRIBED)]
    publish_backend: Option<String>,

    /// What gives addresses: host-local, circuit (a pool that a fleet shares) or
    /// dhcp.
    #[arg(long, value_name = "TYPE", help_heading = DESCRIBED)]
    ipam: Option<String>,
}

const DESCRIBED: &str = "Without CONFIG";

/// What a file says by itself.
const WORDS: [&str; 14] = [
    "dry_run",
    "driver",
    "subnet",
    "gateway",
    "ip_range",
    "ipv6",
    "internal",
    "mtu",
    "parent",
    "vlan",
    "mode",
    "dns",
    "publish_backend",
    "ipam",
];

impl Create {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &super::Global) -> Result<(), Failure> {
        match self.path {
            Some(path) => {
                let data = read(&path)?;
                let request = v1::CreateNetworkRequest {
                    name: self.name,
                    data,
                    force: self.force,
                };
                let client = Client::open(global).await?;
                answer(client.circuit().create_network(request).await)?;
                Ok(())
            }
            None => self.described(&Client::open(global).await?).await,
        }
    }

    async fn described(self, client: &Client) -> Result<(), Failure> {
        let dry_run = self.dry_run;
        let request = v1::DescribeNetworkRequest {
            name: self.name,
            driver: self.driver.unwrap_or_default(),
            subnets: self.subnet,
            gateways: self.gateway,
            ranges: self.ip_range,
            ipv6: self.ipv6,
            internal: self.internal,
            mtu: self.mtu,
            parent: self.parent.unwrap_or_default(),
            vlan: self.vlan,
            mode: self.mode.unwrap_or_default(),
            dns: self.dns,
            publish_backend: self.publish_backend.unwrap_or_default(),
            ipam: self.ipam.unwrap_or_default(),
            force: self.force,
            dry_run,
        };
        let made = answer(client.networks().create(request).await)?;
        let network = made.network.unwrap_or_default();
        if dry_run {
            return output::print(&network.data);
        }
        output::print_line(&format!("created {}{}", network.name, shown(&network.data)))
    }
}

/// Where the network is, in a few words.
fn shown(data: &[u8]) -> String {
    let config: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    let plugin = &config["plugins"][0];
    let sets = plugin["ipam"]["ranges"].as_array();
    let subnets = sets.into_iter().flatten();
    let subnets: Vec<&str> = subnets
        .filter_map(|set| set[0]["subnet"].as_str())
        .collect();
    match subnets.is_empty() {
        true => String::new(),
        false => format!(" with {}", subnets.join(" and ")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    let (result, from) = if path == Path::new("-") {
        (
            std::io::stdin().lock().read_to_end(&mut data),
            "standard input".to_owned(),
        )
    } else {
        let file = std::fs::File::open(path);
        (
            file.and_then(|mut file| file.read_to_end(&mut data)),
            path.display().to_string(),
        )
    };
    match result {
        Ok(_) => Ok(data),
        Err(e) => Err(format!("cannot read {from}: {}", text::io_error(&e)).into()),
    }
}
