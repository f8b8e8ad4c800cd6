//! Who may talk to the daemon, and where.

use std::{fs, os::unix::fs::PermissionsExt as _};

use circuit_testing::{PATIENCE, Ran, TestNode, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::{assert_names, create_ctr0, error_of};

const SOCKET: [&str; 2] = ["--address", "unix:///run/circuit/circuit.sock"];

/// Runs a server that should refuse to; one that serves is ended.
fn server(node: &TestNode, arguments: &[&str]) -> Ran {
    let program = node.program();
    let all = node.server_arguments();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let command = [&["-k", "5", "20", &program], all.as_slice(), arguments].concat();
    node.run("timeout", &command)
}

/// What a refused server says: the last line; log lines may come before.
#[track_caller]
fn refusal(ran: Ran) -> String {
    let stderr = ran.fails(1);
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    errors[0].to_owned()
}

#[test]
fn by_default_only_this_node_can_talk_to_it() {
    let node = crate::node().uplink().start();
    create_ctr0(&node);
    let listening = node.run("ss", &["-Hltn"]).ok();
    let ports: Vec<&str> = listening
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    assert_eq!(ports, ["127.0.0.1:8080"], "{listening}");
    let socket = node.path("/run/circuit/circuit.sock");
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o7777,
        0o660
    );
    node.circuit(&["-a", "127.0.0.1:8080", "network", "ls"])
        .ok();
    let program = node.program();
    let ran = node.outside(&program, &["-a", "192.0.2.2:8080", "network", "ls"]);
    assert_names(&error_of(ran), &["192.0.2.2:8080", "refused"]);
    // The socket goes with the daemon.
    assert_eq!(node.stop_daemon(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn listening_beyond_loopback_needs_a_decision() {
    let node = crate::node().uplink().without_daemon().start();
    let certificates = Certificates::make(&node);
    let (cert, key) = (
        certificates.server.0.as_str(),
        certificates.server.1.as_str(),
    );
    for address in ["0.0.0.0:8080", ":8080", "[::]:8080", "192.0.2.2:8080"] {
        let said = refusal(server(&node, &["--address", address]));
        assert_names(
            &said,
            &[
                address,
                "--tls-client-ca",
                "--tls-server-cert",
                "--insecure",
            ],
        );
        let tls = ["--tls-server-cert", cert, "--tls-server-key", key];
        let said = refusal(server(&node, &[&["--address", address][..], &tls].concat()));
        assert_names(&said, &[address, "--tls-client-ca", "--insecure"]);
    }
    // One address too many is enough.
    let both = ["--address", "127.0.0.1:8080", "--address", "192.0.2.2:8080"];
    refusal(server(&node, &both));
    assert!(!node.path("/run/circuit/circuit.sock").exists());
}

#[test]
fn insecure_is_what_the_user_says() {
    let arguments = [&SOCKET[..], &["--address", "192.0.2.2:8080", "--insecure"]].concat();
    let node = crate::node().uplink().server(&arguments).start();
    create_ctr0(&node);
    let program = node.program();
    let ran = node.outside(&program, &["-a", "192.0.2.2:8080", "network", "ls"]);
    assert_eq!(ran.ok(), "NAME      TYPE\nctr0      bridge\n");
}

/// Certificate and key files of a test's own authority.
struct Certificates {
    authority: String,
    server: (String, String),
    client: (String, String),
    stranger: (String, String),
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Certificates {
    fn make(node: &TestNode) -> Self {
        let (ours, theirs) = (authority(), authority());
        let leaf = |file: &str, by: &CertifiedIssuer<'static, KeyPair>| {
            let names = ["localhost", "127.0.0.1", "192.0.2.2"].map(str::to_owned);
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(names).unwrap();
            let cert = params.signed_by(&key, by).unwrap();
            let cert = node.file(&format!("{file}.pem"), cert.pem());
            let key = node.file(&format!("{file}.key"), key.serialize_pem());
            (cert, key)
        };
        Self {
            server: leaf("server", &ours),
            client: leaf("client", &ours),
            stranger: leaf("stranger", &theirs),
            authority: node.file("ca.pem", ours.pem()),
        }
    }
}

/// Starts the node's daemon on a TLS port and on its socket.
fn serve(arguments: impl Fn(&Certificates) -> Vec<String>) -> (TestNode, Certificates) {
    // The files have to be there first: a node tells their place when it is up.
    let node = crate::node().uplink().without_daemon().start();
    let certificates = Certificates::make(&node);
    let more = arguments(&certificates);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let (cert, key) = &certificates.server;
    let tls = ["--tls-server-cert", cert, "--tls-server-key", key];
    node.start_daemon_with(&[&SOCKET[..], &tls, &more].concat());
    (node, certificates)
}

fn own(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(ToString::to_string).collect()
}

#[test]
fn tls_is_served_and_verified() {
    let (node, certificates) = serve(|_| own(&["--address", "127.0.0.1:8443"]));
    let list = |arguments: &[&str]| node.circuit(&[arguments, &["network", "ls"]].concat());
    let at = ["-a", "https://127.0.0.1:8443"];
    let ca = ["--tls-ca", certificates.authority.as_str()];
    list(&[&at[..], &ca].concat()).ok();
    list(&["-a", "127.0.0.1:8443", ca[0], ca[1]]).ok();
    // The original's way: the server's own certificate is trusted.
    list(&[&at[..], &["--tls-server-cert", &certificates.server.0]].concat()).ok();
    list(&[&at[..], &["--tls-skip-verify"]].concat()).ok();
    // An authority that nobody knows, a certificate of somebody else, no TLS.
    error_of(list(&at));
    error_of(list(
        &[&at[..], &["--tls-ca", &certificates.stranger.0]].concat(),
    ));
    let said = error_of(list(&["-a", "127.0.0.1:8443"]));
    assert_names(&said, &["tls"]);
    // The socket needs no TLS.
    list(&[]).ok();
}

#[test]
fn clients_show_their_certificates() {
    let (node, certificates) = serve(|certificates| {
        let ca = certificates.authority.as_str();
        own(&["--address", "192.0.2.2:8443", "--tls-client-ca", ca])
    });
    create_ctr0(&node);
    let program = node.program();
    let list = |arguments: &[&str]| {
        let ca = ["--tls-ca", certificates.authority.as_str()];
        let at = ["-a", "https://192.0.2.2:8443"];
        node.outside(
            &program,
            &[&at[..], &ca, arguments, &["network", "ls"]].concat(),
        )
    };
    let show = |(cert, key): &(String, String)| {
        list(&["--tls-client-cert", cert, "--tls-client-key", key])
    };
    assert_eq!(
        show(&certificates.client).ok(),
        "NAME      TYPE\nctr0      bridge\n"
    );
    let said = error_of(list(&[]));
    assert_names(&said, &["--tls-client-cert"]);
    error_of(show(&certificates.stranger));
    // And still there afterwards.
    show(&certificates.client).ok();
}

#[test]
fn bad_tls_files_are_named() {
    let node = crate::node().without_daemon().start();
    let certificates = Certificates::make(&node);
    let (cert, key) = &certificates.server;
    let rubbish = node.file("rubbish", "rubbish");
    for (arguments, part) in [
        (
            vec!["--tls-server-cert", "/no/cert", "--tls-server-key", key],
            "/no/cert",
        ),
        (
            vec!["--tls-server-cert", cert, "--tls-server-key", &rubbish],
            rubbish.as_str(),
        ),
        (
            vec!["--tls-server-cert", &rubbish, "--tls-server-key", key],
            rubbish.as_str(),
        ),
        (vec!["--tls-server-cert", cert], "--tls-server-key"),
        (vec!["--tls-client-ca", cert], "--tls-server-cert"),
    ] {
        let said = refusal(server(&node, &arguments));
        assert_names(&said, &[part]);
    }
}

#[test]
fn a_second_daemon_is_refused() {
    let node = crate::node().start();
    create_ctr0(&node);
    let said = refusal(server(&node, &SOCKET));
    assert_names(&said, &["/run/circuit/circuit.sock", "another"]);
    let said = refusal(server(&node, &["--address", "127.0.0.1:8080"]));
    assert_names(&said, &["127.0.0.1:8080", "in use"]);
    // Elsewhere it would still work on the same records.
    let said = refusal(server(&node, &["--address", "unix:///run/other.sock"]));
    assert_names(&said, &["/var/lib/circuit/state", "another"]);
    // The first one minds nothing of it.
    node.run_container("shell", &[], &[]);
    node.circuit(&["network", "connect", "shell", "ctr0"]).ok();
    node.kill_daemon();
    // A socket that a crash left is no daemon.
    node.start_daemon_with(&[]);
}

#[test]
fn impossible_flags_are_refused_at_once() {
    let node = crate::node().without_daemon().start();
    for (arguments, part) in [
        (&["--redis-url", "etcd://127.0.0.1"][..], "--redis-url"),
        (&["--address", "nonsense"], "nonsense"),
        (&["--cni-timeout", "0"], "--cni-timeout"),
    ] {
        let ran = server(&node, arguments);
        assert!(matches!(ran.code, Some(1 | 2)), "{ran}");
        assert_names(&ran.stderr, &["error: ", part]);
    }
}

/// A bridge may have the kernel take packets of containers for loopback addresses.
#[test]
fn loopback_is_for_programs_of_the_machine() {
    let metrics = ["--metrics", "127.0.0.1:9464"];
    let node = crate::node().server(&metrics).start();
    node.run("ip", &["address", "add", "192.0.2.77/32", "dev", "lo"])
        .ok();
    for port in [8080, 9464] {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let ask = |from: &str| {
            let arguments = ["-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w"];
            let more = ["%{http_code}", "--interface", from, &url];
            node.run("curl", &[&arguments[..], &more].concat()).stdout
        };
        assert_ne!(ask("127.0.0.1"), "000", "{port}");
        assert_eq!(ask("192.0.2.77"), "000", "{port}");
    }
}

/// What labels say is no line of the log of its own.
#[test]
fn labels_write_no_lines_into_the_log() {
    let node = crate::node().start();
    let name = "no\n2026-01-01T00:00:00Z  INFO stopped db";
    node.run_container("web", &[("io.circuit.network", name)], &[]);
    wait_until("it is told of", PATIENCE, || {
        crate::support::logged(&node, &["WARN", "container web"]) > 0
    });
    let log = node.daemon_log();
    let forged = |line: &&str| line.starts_with("2026-01-01");
    assert_eq!(log.lines().filter(forged).count(), 0, "{log}");
}
