//! A world: a host, its containers and a neighbour outside, all of them
//! network namespaces with the same names and addresses in each world.
//!
//! A world is a thread in a network and a mount namespace of its own, with its
//! own `/run` and `/var/lib/cni`. It goes with the thread, whatever happens.

use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// The host's end of the wire to the outside, and its addresses.
pub(crate) const UPLINK: &str = "uplink";
pub(crate) const HOST_V4: &str = "198.51.100.1";
pub(crate) const HOST_V6: &str = "2001:db8:51::1";
/// The neighbour's addresses.
pub(crate) const OUTSIDE_V4: &str = "198.51.100.2";
pub(crate) const OUTSIDE_V6: &str = "2001:db8:51::2";
/// The namespaces besides the host's.
pub(crate) const OUTSIDE: &str = "outside";
pub(crate) const CONTAINERS: [&str; 2] = ["one", "two"];

/// In each container the end of a wire whose other end is outside: it goes
/// when the container's devices go.
pub(crate) const WATCH: &str = "watch";

/// How long a namespace may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn watched(container: &str) -> String {
    format!("watch-{container}")
}

/// Duplicate address detection that finds at once that there is none; the
/// sysctl that plugins set is another, `accept_dad`. The rest must not depend
/// on the machine: what is bridged is not filtered, unless a case says so.
const SYSCTLS: [(&str, &str); 9] = [
    ("ipv6/conf/all/dad_transmits", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/all/router_solicitation_delay", "0"),
    ("ipv6/conf/default/router_solicitation_delay", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/ip_forward", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
];

/// A world, seen from its own thread, which is in the host's namespace.
pub(crate) struct World {
    _only_here: (),
}

impl World {
    /// Runs `body` in a new world.
    pub(crate) fn with<R: Send>(body: impl FnOnce(&World) -> R + Send) -> R {
        on_thread(|| body(&World::new()))
    }

    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .expect("namespaces: this suite runs as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        create_dir_all("/var/lib/cni").unwrap();
        for folder in ["/run", "/var/lib/cni"] {
            mount_new("tmpfs", folder);
        }
        mount_new("sysfs", "/sys");
        create_dir_all("/run/netns").unwrap();
        let world = Self { _only_here: () };
        set_sysctls();
        world.add_netns(OUTSIDE);
        for container in CONTAINERS {
            world.add_netns(container);
            world.inside(container, || {
                let watched = watched(container);
                world.ip(&format!(
                    "link add {WATCH} type veth peer name {watched} netns {OUTSIDE}"
                ));
            });
        }
        world.wire();
        world
    }

    /// Joins the host and the outside, which knows the way to the containers,
    /// so that only their addresses tell whether there is masquerade.
    fn wire(&self) {
        self.ip(&format!(
            "link set lo up
             link add {UPLINK} type veth peer name far netns {OUTSIDE}
             link set {UPLINK} up
             addr add {HOST_V4}/24 dev {UPLINK}
             addr add {HOST_V6}/64 dev {UPLINK} nodad"
        ));
        self.inside(OUTSIDE, || {
            self.ip(&format!(
                "link set lo up
                 link set far up
                 addr add {OUTSIDE_V4}/24 dev far
                 addr add {OUTSIDE_V6}/64 dev far nodad
                 route add 10.0.0.0/8 via {HOST_V4}
                 route add fd00::/8 via {HOST_V6}"
            ));
        });
        self.ip(&format!(
            "route add default via {OUTSIDE_V4}\nroute add default via {OUTSIDE_V6}"
        ));
    }

    fn add_netns(&self, name: &str) {
        let path = netns_path(name);
        File::create(&path).unwrap();
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            set_sysctls();
            let own = Some("/proc/thread-self/ns/net");
            mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
    }

    /// Ends a namespace, as a container's death does, and waits until its
    /// devices are gone; its file goes too.
    pub(crate) fn remove_netns(&self, name: &str) {
        let path = netns_path(name);
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_file(path).unwrap();
        let other_end = Path::new("/sys/class/net").join(watched(name));
        self.inside_with_sys(OUTSIDE, || {
            let start = Instant::now();
            while other_end.exists() {
                assert!(start.elapsed() < PATIENCE, "namespace {name} does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }

    /// Runs `body` in a namespace; the empty name is the host.
    pub(crate) fn inside<R: Send>(&self, name: &str, body: impl FnOnce() -> R + Send) -> R {
        on_thread(|| {
            enter(name);
            body()
        })
    }

    /// As [`inside`](Self::inside), with the namespace's devices at `/sys`.
    pub(crate) fn inside_with_sys<R: Send>(
        &self,
        name: &str,
        body: impl FnOnce() -> R + Send,
    ) -> R {
        on_thread(|| {
            if !name.is_empty() {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                enter(name);
                mount_new("sysfs", "/sys");
            }
            body()
        })
    }

    /// Runs commands of `ip`, one a line, which must succeed.
    pub(crate) fn ip(&self, commands: &str) {
        feed("ip", &["-batch", "-"], commands);
    }

    /// Runs a shell command on the host, which must succeed.
    pub(crate) fn shell(&self, command: &str) -> String {
        feed("sh", &["-eu"], command)
    }
}

/// The path of a namespace, in each world the same.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

fn enter(name: &str) {
    if !name.is_empty() {
        let file = File::open(netns_path(name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

fn set_sysctls() {
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys/net").join(name);
        // Those of bridges are there when its part of netfilter is.
        if !name.starts_with("bridge/") || path.exists() {
            std::fs::write(path, value).unwrap();
        }
    }
}

fn mount_new(kind: &str, target: &str) {
    let none = None::<&str>;
    mount(Some(kind), target, Some(kind), MsFlags::empty(), none).unwrap();
}

/// Runs `body` on a thread of its own, which may change its namespaces.
fn on_thread<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs a program that reads `input` and must succeed; returns what it wrote.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?} of {input:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
