//! What the daemon has made: whether it is as it was, and whether something is left
//! that nobody has.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use circuit_core::attachment::{Attachment, Phase};
use circuit_core::cni::ConfigList;
use circuit_core::doctor::Finding;
use circuit_core::labels::PortMapping;
use circuit_core::request::Requested;
use circuit_core::{ErrorKind, Result};
use circuit_net::driver::is_left_to_daemon;
use circuit_net::listening::Listening;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{NodeDoctor, host};

/// For so long whoever works on a container is waited for: a plugin may take minutes.
const WORK: Duration = Duration::from_secs(5);

/// The time that it takes to give back what a container had.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// The ports of the host that lead to an attachment.
fn published(attachment: &Attachment) -> Vec<PortMapping> {
    let ports = attachment.capability_args.get("portMappings");
    let ports = ports.and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(PortMapping::from_json).collect()
}

fn is_silence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded)
}

/// Whether a published port is one that a program listens at.
fn hides(port: &PortMapping, program: &Listening) -> bool {
    // A port at all addresses is at one of the loopback's only.
    let is_own = program.address.is_loopback() && program.address != Ipv4Addr::LOCALHOST;
    let at = SocketAddr::new(program.address, program.port);
    let same_address = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
        None => !is_own && !is_left_to_daemon(at),
        Some(ip) => program.address.is_unspecified() || ip == program.address,
    };
    port.protocol == program.protocol && port.host_port == program.port && same_address
}

/// The commands that connect a container anew, with what was asked for by hand: a
/// disconnect ends that.
fn connect_anew(container: &str, asked: &Requested) -> String {
    let network = &asked.network.network;
    let wishes = asked.wishes();
    let mut line = format!(
        "circuit network disconnect {container} {network} && circuit network connect \
         {container} {network}"
    );
    let given = [
        ("--ip", wishes.ips),
        ("--mac", vec![wishes.mac]),
        ("--alias", wishes.aliases),
        ("--publish", wishes.ports),
        ("--interface", vec![wishes.interface]),
    ];
    for (flag, values) in given {
        for value in values.iter().filter(|value| !value.is_empty()) {
            line.push_str(&format!(" {flag} {}", quoted(value)));
        }
    }
    line
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    match word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Something that is left over.
struct Leak {
    /// The network it is of; empty for pinned namespaces.
    network: String,
    finding: Finding,
}

impl Leak {
    fn of(network: &str, finding: Finding) -> Self {
        let network = network.to_owned();
        Self { network, finding }
    }
}

/// What there is to tell after a mending. Counts may have changed: what is left of the
/// same kind says that it was not done.
fn after(found: Vec<Leak>, left: Vec<Leak>) -> Vec<Finding> {
    let is_left = |leak: &Leak| left.iter().any(|it| it.network == leak.network);
    let fixed = found.into_iter().filter(|leak| !is_left(leak));
    let fixed: Vec<Finding> = fixed.map(|leak| leak.finding.fixed()).collect();
    let left = left.into_iter().map(|leak| leak.finding);
    fixed.into_iter().chain(left).collect()
}

fn worked_on(container: &str) -> Finding {
    let why = format!(
        "container {container} is being worked on, for longer than {} s: it was not looked at",
        WORK.as_secs()
    );
    Finding::note("attachments", why)
}

impl NodeDoctor {
    /// Asks the plugins of each attachment. Returns whether to go on.
    pub(super) async fn rules(
        &self,
        fix: bool,
        tell: &(dyn Fn(Finding) -> bool + Send + Sync),
    ) -> bool {
        let mut count = 0;
        for record in self.of.attachments.book().records() {
            let lock = self.of.attachments.lock(&record.container);
            let Ok(_guard) = timeout(WORK, lock).await else {
                if !tell(worked_on(&record.container)) {
                    return false;
                }
                continue;
            };
            // As it is now that nobody else works on it.
            let record = self.of.attachments.book().record(&record.container);
            for attachment in &record.attachments {
                if attachment.phase != Phase::Attached {
                    continue;
                }
                count += 1;
                let asked = record.requested(&attachment.network).cloned();
                let asked = asked.unwrap_or_else(|| Requested::named(&attachment.network));
                let container = &record.container;
                let found = self.attachment(container, attachment, &asked, fix).await;
                if !found.is_none_or(tell) {
                    return false;
                }
            }
        }
        tell(Finding::fine(
            "attachments",
            format!("{count} were looked at"),
        ))
    }

    async fn attachment(
        &self,
        container: &str,
        attachment: &Attachment,
        asked: &Requested,
        fix: bool,
    ) -> Option<Finding> {
        let datapath = &self.of.attachments.parts.datapath;
        let Err(error) = datapath.check(attachment).await else {
            return None;
        };
        let network = &attachment.network;
        let broken = Finding::problem(
            "attachments",
            format!("container {container} on network {network} is not as it was made: {error}"),
            match fix {
                false => "circuit doctor --fix".to_owned(),
                true => connect_anew(container, asked),
            },
        )
        .fixable();
        let mended = fix
            && datapath.mend(attachment).await.is_ok()
            && datapath.check(attachment).await.is_ok();
        Some(if mended { broken.fixed() } else { broken })
    }

    /// Published ports that take the place of programs of the host: the firewall
    /// leads packets to the container before a program sees them.
    pub(super) async fn ports(&self) -> Vec<Finding> {
        let listening = match host::listening().await {
            Ok(listening) => listening,
            Err(error) => {
                let remedy = "see that /proc is mounted";
                return vec![Finding::problem("ports", error.to_string(), remedy)];
            }
        };
        let records = self.of.attachments.book().records();
        let mut found = Vec::new();
        for record in &records {
            for port in record.attachments.iter().flat_map(published) {
                let Some(program) = listening.iter().find(|program| hides(&port, program)) else {
                    continue;
                };
                let at = SocketAddr::new(program.address, program.port);
                found.push(Finding::warning(
                    "ports",
                    format!(
                        "port {port} of container {} goes before a program of the host that \
                         listens at {at}",
                        record.container
                    ),
                    "end that program, or publish another port",
                ));
            }
        }
        if found.is_empty() {
            let fine = "none that is published takes the place of a program's";
            found.push(Finding::fine("ports", fine));
        }
        found
    }

    /// Pins and addresses that nobody has.
    pub(super) async fn leaks(&self, lists: &[ConfigList], fix: bool) -> Vec<Finding> {
        let found = self.leaked(lists).await;
        if found.is_empty() {
            return vec![Finding::fine("leaks", "nothing is left over")];
        }
        if fix {
            if let Err(error) = self.of.attachments.unused_pins(true).await {
                tracing::warn!(%error, "cannot remove pinned namespaces that nothing uses");
            }
            if let Err(error) = self.of.attachments.collect_garbage().await {
                tracing::warn!(%error, "cannot clean up");
            }
            return after(found, self.leaked(lists).await);
        }
        found.into_iter().map(|leak| leak.finding).collect()
    }

    async fn leaked(&self, lists: &[ConfigList]) -> Vec<Leak> {
        let mut found = Vec::new();
        let unused = self.of.attachments.unused_pins(false).await;
        let unused = unused.unwrap_or_default();
        if unused > 0 {
            let finding = Finding::warning(
                "leaks",
                format!("{unused} pinned namespaces that no container uses"),
                "circuit doctor --fix",
            );
            found.push(Leak::of("", finding.fixable()));
        }
        // Other runtimes use networks that are not to be cleaned up.
        for list in lists.iter().filter(|list| !list.disable_gc) {
            let name = &list.name;
            let over = match self.addresses_left(name).await {
                Ok(over) => over,
                // Another check tells of a runtime that does not answer.
                Err(error) if is_silence(error.kind()) => continue,
                Err(error) => {
                    let remedy = "see that circuit may read it";
                    let finding = Finding::problem("leaks", error.to_string(), remedy);
                    found.push(Leak::of(name, finding));
                    continue;
                }
            };
            if over > 0 {
                let finding = Finding::warning(
                    "leaks",
                    format!("{over} addresses of network {name} that no container has"),
                    "circuit doctor --fix, for networks of cniVersion 1.1.0",
                );
                found.push(Leak::of(name, finding.fixable()));
            }
        }
        found
    }

    /// How many addresses of a network nobody has. What was given back a moment later
    /// was somebody's, who was just being taken off the network.
    async fn addresses_left(&self, network: &str) -> Result<usize> {
        let attachments = &self.of.attachments;
        let Ok(stored) = attachments.parts.networks.network(network).await else {
            return Ok(0);
        };
        let text = String::from_utf8_lossy(&stored.data);
        let mut left = attachments.stray(network, &text).await?;
        left.retain(|held| held.address.is_some());
        if !left.is_empty() {
            sleep(GIVING_BACK).await;
            let again = attachments.stray(network, &text).await?;
            left.retain(|held| again.contains(held));
        }
        Ok(left.len())
    }

    /// What containers should have and have not.
    pub(super) fn containers(&self) -> Vec<Finding> {
        let book = self.of.attachments.book();
        let troubled = book.troubled();
        if troubled.is_empty() {
            return vec![Finding::fine("containers", "all are as they should be")];
        }
        let problems = troubled
            .iter()
            .flat_map(|container| book.problems_of(container));
        problems
            .map(|problem| {
                let about = match problem.network.is_empty() {
                    true => format!("container {}", problem.container),
                    false => format!(
                        "container {} on network {}",
                        problem.container, problem.network
                    ),
                };
                let remedy = "put right what it says; it is tried again by itself";
                Finding::problem(
                    "containers",
                    format!("{about}: {}", problem.message),
                    remedy,
                )
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::doctor::Level;
    use circuit_core::request::Wishes;

    use super::*;

    #[test]
    fn who_is_connected_anew_has_what_was_asked_for() {
        let plain = Requested::named("web");
        let line = "circuit network disconnect a web && circuit network connect a web";
        assert_eq!(connect_anew("a", &plain), line);
        let list = |text: &str| vec![text.to_owned()];
        let wishes = Wishes {
            ips: list("10.88.0.7"),
            mac: "02:42:0a:58:00:07".to_owned(),
            aliases: list("the db's"),
            interface: "data0".to_owned(),
            ports: vec!["80:8080".to_owned(), "[fd00::1]:53:53/udp".to_owned()],
        };
        let asked = Requested::read("web", wishes).unwrap();
        let given = r"--ip 10.88.0.7 --mac 02:42:0a:58:00:07 --alias 'the db'\''s' --publish 80:8080/tcp --publish '[fd00::1]:53:53/udp' --interface data0";
        assert_eq!(connect_anew("a", &asked), format!("{line} {given}"));
    }

    #[test]
    fn what_was_mended_in_part_is_not_fixed() {
        let leak = |network: &str, count: u32| {
            let message = format!("{count} addresses of network {network}");
            Leak::of(network, Finding::warning("leaks", message, "").fixable())
        };
        let found = vec![leak("", 2), leak("db", 3), leak("web", 3)];
        let told = after(found, vec![leak("web", 1), leak("new", 1)]);
        let told: Vec<(&str, bool)> = told
            .iter()
            .map(|finding| (&*finding.message, finding.level == Level::Fixed))
            .collect();
        assert_eq!(
            told,
            [
                ("2 addresses of network ", true),
                ("3 addresses of network db", true),
                ("1 addresses of network web", false),
                ("1 addresses of network new", false),
            ]
        );
    }

    #[test]
    fn ports_that_take_a_programs_place() {
        let hidden = |published: &str, protocol, address: &str| {
            let ports = circuit_core::labels::parse_ports(published).unwrap();
            let program = Listening {
                protocol,
                address: address.parse().unwrap(),
                port: 80,
            };
            hides(&ports[0], &program)
        };
        assert!(hidden("80:8080", "tcp", "0.0.0.0"));
        assert!(hidden("80:8080", "tcp", "127.0.0.1"));
        assert!(hidden("80:8080", "tcp", "::"));
        assert!(hidden("192.0.2.7:80:8080", "tcp", "0.0.0.0"));
        assert!(hidden("192.0.2.7:80:8080", "tcp", "192.0.2.7"));
        assert!(!hidden("192.0.2.7:80:8080", "tcp", "192.0.2.8"));
        assert!(!hidden("80:8080", "udp", "0.0.0.0"));
        assert!(!hidden("81:80", "tcp", "0.0.0.0"));
        assert!(!hidden("80:53/udp", "udp", "::1"));
        assert!(!hidden("80:53/udp", "udp", "127.0.0.53"));
    }
}
