//! `circuit server`: the daemon's flags and what they mean.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::dns::{DOMAIN, Domain};
use crate::networks::SubnetPool;
use crate::redis::Url;
use crate::store::Datastore;
use crate::traces::check_url;
use crate::web::Token;
use circuit_api::ListenAddress;
use clap::Args;

use super::Global;

/// The default of `--default-pools`: ranges of private networks that other
/// programs seldom use.
const DEFAULT_POOLS: [&str; 3] = [
    "base=10.88.0.0/13,size=24",
    "base=172.28.0.0/14,size=24",
    "base=fd0c:1c:c17::/48,size=64",
];

/// The default of `--cni-path`.
const CNI_PATH: &str = "/opt/containerd/bin:/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni";

const EXAMPLES: &str = "\
Examples:
  circuit server
  circuit server --cni-path /opt/cni/bin --network-label com.example.network
  circuit server --address unix:///run/circuit/circuit.sock --address 10.0.0.5:8080 \\
      --tls-server-cert server.pem --tls-server-key server.key --tls-client-ca ca.pem

Listening beyond loopback needs the three TLS files, or --insecure.

What no flag says is taken from the environment (CIRCUIT_HEARTBEAT=5s for
--heartbeat 5s), then from the configuration file (heartbeat = \"5s\").";

/// The flags of `circuit server`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServerArgs {
    /// containerd's socket.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/containerd/containerd.sock"
    )]
    containerd: String,

    /// The containerd namespace whose containers are looked after.
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    containerd_namespace: String,

    /// Where networks are stored: local:///DIRECTORY, or the URL of a Redis that
    /// a fleet shares, or "redis" for the one of --redis-url; each node then
    /// keeps a copy of them in its state.
    #[arg(long, value_name = "URL", default_value = "local:///var/lib/circuit")]
    datastore: String,

    /// The label that names the networks a container is connected to by itself.
    #[arg(
        short = 'l',
        long,
        value_name = "LABEL",
        default_value = "io.circuit.network"
    )]
    network_label: String,

    /// A folder with CNI plugins; may be repeated, or be a list with colons.
    #[arg(long, value_name = "PATH", default_value = CNI_PATH)]
    cni_path: Vec<String>,

    /// How plugins are run of which circuit has native drivers: by the driver
    /// where it can do the configuration (auto), always (native), never (exec).
    /// The key "io.circuit.data-path" of a network counts more.
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = ["auto", "native", "exec"])]
    data_path: String,

    /// The name of this node; the host's name when absent.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// The Redis that makes nodes one cluster: redis://, rediss://, unix://,
    /// redis+sentinel:// or redis+cluster://. With a password in it, rather use
    /// --redis-url-file or the environment variable CIRCUIT_REDIS_URL, which
    /// other users of the machine do not see.
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    redis_url: String,

    /// The file with that URL.
    #[arg(long, value_name = "PATH", conflicts_with = "redis_url")]
    redis_url_file: Option<PathBuf>,

    /// The time between two heartbeats of this node.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_duration)]
    heartbeat: Duration,

    /// How long others believe this node to be there after a heartbeat.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_duration)]
    lease: Duration,

    /// Whether the cluster forgets this node when the daemon is stopped; else
    /// when its lease ends, so that an upgrade goes unnoticed.
    #[arg(long, value_name = "BOOL", default_value = "true", action = clap::ArgAction::Set)]
    leave_on_stop: bool,

    /// Where monitoring programs find metrics, in Prometheus' format, at /metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,

    /// Where a live picture of nodes, networks and containers is shown to browsers.
    #[arg(long, value_name = "ADDRESS:PORT")]
    web: Option<SocketAddr>,

    /// The file with the token that --web asks for; needed beyond loopback.
    #[arg(long, value_name = "PATH")]
    web_token_file: Option<PathBuf>,

    /// A collector that is told of traces, by OTLP over gRPC, such as
    /// http://127.0.0.1:4317.
    #[arg(long, value_name = "URL", value_parser = check_url)]
    traces: Option<String>,

    /// Where names of containers are answered, beside the gateways of networks
    /// that ask for it; may be repeated.
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_listen: Vec<SocketAddr>,

    /// The domain of containers' names.
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN, value_parser = domain)]
    dns_domain: Domain,

    /// For how long others may remember an answer about containers.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    dns_ttl: Duration,

    /// A server to ask for other names, instead of those of the host; may be
    /// repeated, and they are asked in turn.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = dns_server)]
    dns_upstream: Vec<SocketAddr>,

    /// How many other names each source may ask for in a second.
    #[arg(long, value_name = "NUMBER", default_value = "500", value_parser = clap::value_parser!(u32).range(1..))]
    dns_limit: u32,

    /// How long names of other nodes are answered when the cluster registry is
    /// away, beyond the lease.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    dns_stale: Duration,

    /// Where subnets are taken from for networks that are created without one:
    /// base=SUBNET,size=BITS; may be repeated, and the first with a free subnet
    /// counts.
    #[arg(
        long,
        value_name = "POOL",
        default_values = DEFAULT_POOLS,
        value_parser = pool
    )]
    default_pools: Vec<SubnetPool>,

    /// Listen beyond loopback although clients are not verified.
    #[arg(long)]
    insecure: bool,

    /// Where attachments are remembered; the folder "state" of the datastore
    /// when absent, or of /var/lib/circuit when a fleet shares it.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,

    /// Where the socket and pinned network namespaces live.
    #[arg(long, value_name = "DIRECTORY", default_value = "/run/circuit")]
    run_dir: PathBuf,

    /// Where dhcp plugins find the keeper of leases.
    #[arg(long, value_name = "PATH", default_value = "/run/cni/dhcp.sock")]
    dhcp_socket: PathBuf,

    /// Where plugins of type circuit find the keeper of address pools.
    #[arg(long, value_name = "PATH", default_value = "/run/circuit/ipam.sock")]
    ipam_socket: PathBuf,

    /// How long the addresses that a node holds of shared pools stay its own when
    /// it is away.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = some_duration)]
    ipam_grace: Duration,

    /// How long a CNI plugin may run before it is killed.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_duration)]
    cni_timeout: Duration,

    /// How often everything is compared with what should be.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = some_duration)]
    reconcile_interval: Duration,

    /// Print the settings in force as a configuration file, each with where it
    /// comes from, and end. Passwords are left out.
    #[arg(long)]
    print_config: bool,
}

/// Where attachments are remembered when no folder is named.
const STATE_DIR: &str = "/var/lib/circuit/state";

/// What the daemon is to do: the flags, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// Where the API is served; never empty.
    pub addresses: Vec<ListenAddress>,
    /// The PEM file of the server's certificate.
    pub tls_cert: Option<PathBuf>,
    /// The PEM file of that certificate's key.
    pub tls_key: Option<PathBuf>,
    /// The PEM file of the authorities clients must come from.
    pub tls_client_ca: Option<PathBuf>,
    /// Where subnets are taken from for networks that name none.
    pub default_pools: Vec<SubnetPool>,
    /// Whether unverified clients beyond loopback are accepted.
    pub insecure: bool,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The containerd namespace.
    pub containerd_namespace: String,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Where the live picture is shown.
    pub web: Option<SocketAddr>,
    /// What browsers must know to see it.
    pub web_token: Option<Token>,
    /// The collector that is told of traces.
    pub traces: Option<String>,
    /// Where names are answered.
    pub dns_listen: Vec<SocketAddr>,
    /// The domain of containers' names.
    pub dns_domain: Domain,
    /// For how long others may remember an answer.
    pub dns_ttl: Duration,
    /// The servers for other names; those of the host when there are none.
    pub dns_upstream: Vec<SocketAddr>,
    /// How many other names each source may ask for in a second.
    pub dns_limit: u32,
    /// How long names of other nodes are answered, beyond their lease, when the
    /// registry is away.
    pub dns_stale: Duration,
    /// The cluster registry.
    pub redis: Option<Url>,
    /// The time between two heartbeats.
    pub heartbeat: Duration,
    /// How long a heartbeat holds.
    pub lease: Duration,
    /// Whether the cluster forgets this node when the daemon is stopped.
    pub leave_on_stop: bool,
    /// Where networks are kept.
    pub datastore: Datastore,
    /// The label that connects containers.
    pub network_label: String,
    /// Folders with CNI plugins, in the order they are searched.
    pub cni_path: Vec<PathBuf>,
    /// How plugins are run: `auto`, `native` or `exec`.
    pub data_path: String,
    /// The name of this node.
    pub node_name: String,
    /// Where attachments are remembered.
    pub state_dir: PathBuf,
    /// Where sockets and pins live.
    pub run_dir: PathBuf,
    /// The socket of the keeper of DHCP leases.
    pub dhcp_socket: PathBuf,
    /// The socket of the keeper of address pools.
    pub ipam_socket: PathBuf,
    /// How long the addresses of a node that is away stay its own.
    pub ipam_grace: Duration,
    /// How long a CNI plugin may run.
    pub cni_timeout: Duration,
    /// The time between two full passes.
    pub reconcile_interval: Duration,
    /// Whether `--profile` was given; it does nothing in this build.
    pub profile: bool,
}

impl ServerArgs {
    /// Whether the settings are to be printed instead.
    #[must_use]
    pub fn prints_config(&self) -> bool {
        self.print_config
    }

    /// Checks the flags and fills in what depends on others.
    ///
    /// # Errors
    /// With the text to tell the user.
    pub fn options(self, global: &Global) -> Result<ServerOptions, String> {
        self.check()?;
        let redis = redis_url(&self.redis_url, self.redis_url_file.as_deref())?;
        let web_token = web_token(self.web, self.web_token_file.as_deref())?;
        let datastore = self.datastore(redis.as_ref())?;
        let state_dir = match &datastore {
            Datastore::Local(dir) => dir.join("state"),
            Datastore::Shared(_) => STATE_DIR.into(),
        };
        let cni_path = self.plugin_folders()?;
        Ok(ServerOptions {
            addresses: addresses(&global.address, &self.run_dir)?,
            tls_cert: global.tls_server_cert.clone(),
            tls_key: global.tls_server_key.clone(),
            tls_client_ca: global.tls_client_ca.clone(),
            default_pools: self.default_pools,
            insecure: self.insecure,
            containerd: self
                .containerd
                .strip_prefix("unix://")
                .unwrap_or(&self.containerd)
                .into(),
            containerd_namespace: self.containerd_namespace,
            network_label: self.network_label,
            cni_path,
            data_path: self.data_path,
            dhcp_socket: self.dhcp_socket,
            ipam_socket: self.ipam_socket,
            ipam_grace: self.ipam_grace,
            node_name: node_name(self.node_name)?,
            state_dir: self.state_dir.unwrap_or(state_dir),
            metrics: self.metrics,
            web: self.web,
            web_token,
            traces: self.traces,
            dns_listen: self.dns_listen,
            dns_domain: self.dns_domain,
            dns_ttl: self.dns_ttl,
            dns_upstream: self.dns_upstream,
            dns_limit: self.dns_limit,
            dns_stale: self.dns_stale,
            redis,
            heartbeat: self.heartbeat,
            lease: self.lease,
            leave_on_stop: self.leave_on_stop,
            datastore,
            run_dir: self.run_dir,
            cni_timeout: self.cni_timeout,
            reconcile_interval: self.reconcile_interval,
            profile: global.profile.is_some(),
        })
    }

    /// What can be said of the flags by themselves.
    fn check(&self) -> Result<(), String> {
        if let Some(address) = self
            .metrics
            .filter(|it| !it.ip().is_loopback() && !self.insecure)
        {
            return Err(format!(
                "--metrics {address} is beyond loopback, where anybody could read; give a loopback \
                 address, or --insecure"
            ));
        }
        if self.lease < self.heartbeat * 2 {
            return Err(
                "--lease is shorter than two of --heartbeat; one that is late would end it".into(),
            );
        }
        for (flag, value) in [
            ("--containerd-namespace", &self.containerd_namespace),
            ("--network-label", &self.network_label),
        ] {
            if value.is_empty() {
                return Err(format!("{flag} is empty; leave it out for the default"));
            }
        }
        Ok(())
    }

    fn datastore(&self, redis: Option<&Url>) -> Result<Datastore, String> {
        match (&*self.datastore, redis) {
            ("redis", Some(url)) => Ok(Datastore::Shared(Box::new(url.clone()))),
            ("redis", None) => {
                Err("--datastore redis is the Redis of --redis-url; give that too".into())
            }
            (url, _) => Datastore::parse(url).map_err(|e| e.to_string()),
        }
    }

    fn plugin_folders(&self) -> Result<Vec<PathBuf>, String> {
        let folders = self.cni_path.iter().flat_map(|list| list.split(':'));
        let folders: Vec<PathBuf> = folders
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect();
        if folders.is_empty() {
            return Err("--cni-path is empty; name a folder with CNI plugins".into());
        }
        Ok(folders)
    }
}

/// The registry's URL: of the flag or the file. Error texts do not hold it, as it
/// may hold a password.
fn redis_url(flag: &str, file: Option<&std::path::Path>) -> Result<Option<Url>, String> {
    let (from, text) = match file {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            let reason = |e| format!("--redis-url-file: cannot read {}: {e}", path.display());
            ("--redis-url-file", read.map_err(reason)?)
        }
        None => ("--redis-url", flag.to_owned()),
    };
    if text.trim().is_empty() && file.is_none() {
        return Ok(None);
    }
    let url = Url::parse(&text).map_err(|why| format!("{from}: {why}"))?;
    Ok(Some(url))
}

/// The token of the live picture. It is shown beyond loopback only to who has one.
fn web_token(
    web: Option<SocketAddr>,
    file: Option<&std::path::Path>,
) -> Result<Option<Token>, String> {
    let Some(path) = file else {
        return match web.filter(|it| !it.ip().is_loopback()) {
            Some(address) => Err(format!(
                "--web {address} is beyond loopback, where anybody could look; give a loopback \
                 address, or --web-token-file"
            )),
            None => Ok(None),
        };
    };
    if web.is_none() {
        return Err("--web-token-file is for --web, which is not given; give both".into());
    }
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("--web-token-file: cannot read {shown}: {e}"))?;
    let token = Token::parse(&text).map_err(|e| format!("--web-token-file {shown}: {e}"))?;
    Ok(Some(token))
}

/// The addresses given, without repetition, or the default ones.
fn addresses(given: &[String], run_dir: &std::path::Path) -> Result<Vec<ListenAddress>, String> {
    if given.is_empty() {
        let [tcp, _] = ListenAddress::defaults();
        return Ok(vec![tcp, ListenAddress::Unix(run_dir.join("circuit.sock"))]);
    }
    let mut addresses = Vec::new();
    for text in given {
        let address = text.parse::<ListenAddress>().map_err(|e| e.to_string())?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn node_name(given: Option<String>) -> Result<String, String> {
    let name = match given {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .map_err(|e| format!("cannot read the host's name: {e}; give --node-name"))?
            .to_string_lossy()
            .into_owned(),
    };
    if name.is_empty() {
        return Err("the node has no name; give --node-name".into());
    }
    Ok(name)
}

/// A number with a unit, `500ms`, `10s`, `2m`, `1h`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("give {DURATIONS}"))?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("{unit:?} is no unit; give {DURATIONS}")),
    };
    // A year is more than anybody waits, and keeps sums of times from overflowing.
    match millis.map(Duration::from_millis) {
        Some(duration) if duration <= Duration::from_secs(366 * 86_400) => Ok(duration),
        _ => Err("that is more than a year".into()),
    }
}

fn pool(text: &str) -> Result<SubnetPool, String> {
    text.parse::<SubnetPool>()
        .map_err(|error| error.to_string())
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

/// An address of a DNS server, at port 53 when none is given.
fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, 53)));
    bare.or_else(|_| text.parse()).map_err(|_| {
        "give the address of a server, such as 9.9.9.9, 10.0.0.1:5353 or [fd00::1]:53".to_owned()
    })
}

const DURATIONS: &str =
    "a number with ms, s, m or h, such as 500ms, 10s, 2m; without, it is seconds";

/// A duration that is not zero.
fn some_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be more than zero".into()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn options(line: &str) -> Result<ServerOptions, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?;
        let Command::Server(args) = cli.command else {
            return Err("not the server".into());
        };
        args.options(&cli.global)
    }

    #[test]
    fn defaults() {
        let options = options("circuit server --node-name a").unwrap();
        let shown: Vec<_> = options.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["127.0.0.1:8080", "unix:///run/circuit/circuit.sock"]
        );
        assert_eq!(options.addresses, ListenAddress::defaults());
        assert_eq!(options.state_dir, PathBuf::from("/var/lib/circuit/state"));
        let folders: Vec<_> = CNI_PATH.split(':').map(PathBuf::from).collect();
        assert_eq!(options.cni_path, folders);
        assert_eq!(
            options.containerd,
            PathBuf::from("/run/containerd/containerd.sock")
        );
        assert_eq!(options.containerd_namespace, "default");
        assert_eq!(options.network_label, "io.circuit.network");
        assert_eq!(options.cni_timeout, Duration::from_secs(60));
        assert_eq!(options.data_path, "auto");
    }

    #[test]
    fn what_depends_on_other_flags() {
        let options = options(
            "circuit -a :1 -a unix:///s -a :1 server --cni-path /a:/b: --cni-path /c \
             --datastore local:///d --cni-timeout 500ms --run-dir /r --containerd unix:///c.sock",
        );
        let options = options.unwrap();
        assert_eq!(options.addresses.len(), 2);
        assert_eq!(options.cni_path, ["/a", "/b", "/c"].map(PathBuf::from));
        assert_eq!(options.state_dir, PathBuf::from("/d/state"));
        assert_eq!(options.cni_timeout, Duration::from_millis(500));
        assert_eq!(options.containerd, PathBuf::from("/c.sock"));
        assert!(!options.node_name.is_empty());
    }

    #[test]
    fn refused_flags_say_why() {
        for (line, part) in [
            (
                "circuit server --redis-url etcd://a",
                "--redis-url: the scheme",
            ),
            (
                "circuit server --redis-url-file /nonexistent",
                "cannot read",
            ),
            ("circuit server --datastore redis", "--redis-url"),
            ("circuit server --metrics 0.0.0.0:9464", "beyond loopback"),
            ("circuit server --web 0.0.0.0:8081", "--web-token-file"),
            ("circuit server --web [::]:8081", "is beyond loopback"),
            (
                "circuit server --web-token-file /t",
                "--web-token-file is for --web",
            ),
            (
                "circuit server --web 127.0.0.1:1 --web-token-file /nonexistent",
                "--web-token-file: cannot read",
            ),
            (
                "circuit server --web 127.0.0.1:1 --web-token-file /dev/null",
                "at least 16",
            ),
            ("circuit server --traces 127.0.0.1:4317", "is no collector"),
            ("circuit server --lease 10s", "--lease is shorter"),
            ("circuit server --datastore etcd://a", "local:///"),
            ("circuit server --cni-path :", "--cni-path is empty"),
            ("circuit server --cni-timeout 0", "more than zero"),
            ("circuit server --cni-timeout 5d", "is no unit"),
            ("circuit server --reconcile-interval soon", "give a number"),
            (
                "circuit server --reconcile-interval 99999999999h",
                "more than a year",
            ),
            ("circuit -a nonsense server", "port is missing"),
            ("circuit server --node-name=", "give --node-name"),
            (
                "circuit server --network-label=",
                "--network-label is empty",
            ),
        ] {
            let error = options(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("").is_err() && duration("-1s").is_err() && duration("1é").is_err());
    }
}
