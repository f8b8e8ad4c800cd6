//! A container and a DHCP server, dnsmasq or udhcpd, on one network.

use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use circuit_net::dhcp::{Holder, LeaseKeeper, LeaseRequest, Settings, Timing};
use serde_json::{Value, json};

use crate::common::{Netns, shell};
use crate::plugins::{Plugin, stock_plugins};

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace with a container's, joined by a veth pair, and a DHCP server.
pub(crate) struct Lan {
    pub(crate) server: Netns,
    pub(crate) container: Netns,
    dir: tempfile::TempDir,
    process: Option<Running>,
}

impl Lan {
    pub(crate) fn new() -> Self {
        let (server, container) = (Netns::new(), Netns::new());
        let name = name_of(&container);
        server.ip(&format!(
            "link add srv0 type veth peer name eth0 address 02:00:00:00:00:01 netns {name}"
        ));
        server.ip("addr add 10.1.0.1/24 dev srv0");
        server.ip("link set srv0 up");
        let dir = tempfile::tempdir().unwrap();
        Self {
            server,
            container,
            dir,
            process: None,
        }
    }

    /// A server whose leases, of two minutes, are to be renewed after three
    /// seconds: it takes nothing shorter.
    pub(crate) fn with_server() -> Self {
        let mut lan = Self::new();
        lan.start(&[]);
        lan
    }

    pub(crate) fn start(&mut self, more: &[&str]) {
        self.start_with("10.1.0.50,10.1.0.60", more);
    }

    /// A server of these addresses.
    pub(crate) fn start_with(&mut self, range: &str, more: &[&str]) {
        let child = Process::new("ip")
            .args(["netns", "exec", &name_of(&self.server), "dnsmasq", "-k"])
            .args([
                "--conf-file=/dev/null",
                "--port=0",
                "--interface=srv0",
                "--user=root",
            ])
            .args([
                &format!("--dhcp-range={range},2m"),
                "--no-ping",
                "--dhcp-authoritative",
            ])
            .args(["--dhcp-option=58,3s", "--dhcp-option=6,9.9.9.9"])
            .args(["--dhcp-option=121,10.7.0.0/16,10.1.0.2,0.0.0.0/0,10.1.0.1"])
            .args([
                "--dhcp-option=33,172.16.0.0,10.1.0.3",
                "--log-dhcp",
                "--pid-file=",
            ])
            .arg(format!(
                "--dhcp-leasefile={}",
                self.file("leases").display()
            ))
            .arg(format!("--log-facility={}", self.file("log").display()))
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(Running(child));
        self.wait_for_server();
    }

    /// A server of another make, busybox's: its leases, of eight seconds, are to be
    /// renewed after four, which it does not say.
    pub(crate) fn with_udhcpd() -> Self {
        let mut lan = Self::new();
        let leases = lan.file("leases");
        let configuration = format!(
            "start 10.1.0.50\nend 10.1.0.60\ninterface srv0\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 10.1.0.1\noption dns 9.9.9.9\n\
             option domain lan.example\noption lease 8\nmin_lease 2\n",
            leases.display(),
            lan.file("pid").display()
        );
        std::fs::write(&leases, "").unwrap();
        std::fs::write(lan.file("udhcpd.conf"), configuration).unwrap();
        let log = std::fs::File::create(lan.file("log")).unwrap();
        let child = Process::new("ip")
            .args(["netns", "exec", &name_of(&lan.server)])
            .args(["busybox", "udhcpd", "-f", "-v"])
            .arg(lan.file("udhcpd.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        lan.process = Some(Running(child));
        lan.wait_for_server();
        lan
    }

    fn wait_for_server(&self) {
        let start = Instant::now();
        let listens = || shell(&format!("ip netns exec {} ss -uln", name_of(&self.server)));
        while !listens().contains(":67 ") {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "the server does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// How often the server said something.
    pub(crate) fn said(&self, word: &str) -> usize {
        self.text("log").matches(word).count()
    }

    pub(crate) fn keeper(&self) -> LeaseKeeper {
        LeaseKeeper::start(&self.file("state"), settings()).unwrap()
    }

    pub(crate) fn kept(&self) -> usize {
        std::fs::read_dir(self.file("state")).map_or(0, |entries| entries.count())
    }

    pub(crate) fn request(&self) -> LeaseRequest {
        LeaseRequest {
            holder: holder(),
            netns: self.container.path(),
            args: Vec::new(),
            ipam: serde_json::Map::new(),
        }
    }

    /// Gets a lease and gives the interface its address.
    pub(crate) fn acquire(&self, keeper: &LeaseKeeper) -> String {
        let result = keeper.acquire(&self.request()).unwrap();
        let address = result.ips[0].address.to_string();
        self.container
            .ip(&format!("addr replace {address} dev eth0"));
        address
    }

    pub(crate) fn plugin(&self, socket: &str, mut ipam: Value) -> Plugin {
        ipam["type"] = json!("dhcp");
        ipam["daemonSocketPath"] = json!(self.file(socket));
        Plugin::new("dhcp", &self.container.path(), json!({"ipam": ipam}))
    }

    /// The stock daemon.
    pub(crate) fn stock_daemon(&self) -> Running {
        let socket = self.file("stock.sock");
        let daemon = Process::new(stock_plugins().join("dhcp"))
            .args(["daemon", "-socketpath"])
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}: run scripts/fetch-test-deps"));
        let start = Instant::now();
        while !socket.exists() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "the daemon does not start"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Running(daemon)
    }
}

pub(crate) fn name_of(netns: &Netns) -> String {
    netns
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

pub(crate) fn settings() -> Settings {
    Settings {
        timing: Timing {
            exchange: Duration::from_secs(3),
            acquisition: Duration::from_secs(6),
            ..Timing::default()
        },
        ..Settings::default()
    }
}

pub(crate) fn holder() -> Holder {
    Holder {
        container_id: "web".to_owned(),
        network: "net".to_owned(),
        ifname: "eth0".to_owned(),
    }
}
