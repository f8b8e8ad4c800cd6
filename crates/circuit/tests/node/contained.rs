//! The daemon in a container of its own, started as the documentation has it.

use circuit_testing::{PATIENCE, Plugins, TestNode, network, wait_until};

use crate::support::{NETWORK, assert_names};

const GUIDE: &str = include_str!("../../../../docs/install.md");
/// The image of the guide, and the container's name.
const IMAGE: &str = "localhost/circuit:latest circuit";

/// The guide's commands: what is made first, and the flags of `ctr run`.
fn commands() -> (String, Vec<String>) {
    let (_, rest) = GUIDE.split_once("## As a container").unwrap();
    let block = rest.split("```").nth(1).unwrap();
    let (before, run) = block.split_once("ctr run -d ").unwrap();
    let (flags, _) = run.split_once(IMAGE).unwrap();
    let flags = flags.split_whitespace().filter(|word| *word != "\\");
    (before.to_owned(), flags.map(str::to_owned).collect())
}

/// Starts it with the program and its libraries from the machine: the guide's image
/// has one static file.
fn start(node: &TestNode, flags: &[String]) {
    let program = node.program();
    let mounts = ["/lib", "/lib64", program.as_str()].map(|path| {
        let from = std::fs::canonicalize(path).unwrap();
        format!(
            "type=bind,src={},dst={path},options=rbind:ro",
            from.display()
        )
    });
    let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
    all.extend(mounts.iter().flat_map(|mount| ["--mount", mount]));
    node.run_container_with(&all, "circuit", &[], &[&program, "server"]);
    wait_until("the daemon answers", PATIENCE, || {
        node.circuit(&["network", "ls"]).worked()
    });
}

#[test]
fn a_daemon_in_a_container_leaves_pins_on_its_host() {
    let node = crate::node()
        .plugins(Plugins::None)
        .without_daemon()
        .start();
    let (before, flags) = commands();
    // As systemd makes it.
    node.run("mount", &["--make-rshared", "/run"]).ok();
    node.run("sh", &["-ec", &before]).ok();
    start(&node, &flags);
    node.create_network("ctr0", &network::bridge("ctr0", "10.88.0.0/16"));
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    let pinned = || {
        let mounts = node.run("findmnt", &["-rn", "-t", "nsfs", "-o", "TARGET"]);
        mounts.ok().contains("/run/circuit/netns/default-web")
    };
    assert!(pinned());

    let told = node.circuit(&["doctor"]).stdout;
    assert!(!told.contains("pinned namespaces end"), "{told}");

    // Its container's end takes nothing with it, even when the task ends meanwhile.
    node.remove_container("circuit");
    assert!(pinned());
    node.end_task("web");
    assert_eq!(node.leases().len(), 1);
    start(&node, &flags);
    wait_until("the next daemon cleans up", PATIENCE, || {
        node.leases().is_empty() && !pinned()
    });
    node.remove_container("web");
    node.remove_container("circuit");
    node.assert_nothing_left();

    // Who forgets a flag is told.
    let forgotten = ["--rootfs-propagation", "rshared"];
    let mut fewer = flags.clone();
    fewer.retain(|flag| !forgotten.contains(&flag.as_str()));
    assert_eq!(fewer.len() + 2, flags.len());
    start(&node, &fewer);
    let told = node.circuit(&["doctor"]).stdout;
    assert_names(
        &told,
        &[
            "pinned namespaces end with the daemon",
            "--rootfs-propagation",
        ],
    );
    node.remove_container("circuit");
}
