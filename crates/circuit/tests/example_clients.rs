//! The clients of the documentation, `examples/clients`, do what the guide says: each
//! connects a container, lists its addresses, and follows what happens to it.
#![allow(
    clippy::expect_used,
    reason = "a test that cannot go on says what it lacks"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use circuit_testing::{PATIENCE, TestNode, network, wait_until};

const SOCKET: &str = "unix:///run/circuit/circuit.sock";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a script of the repository prints: where it has put what it made.
fn made_by(script: &str) -> String {
    let script = repository().join("scripts").join(script);
    let made = Command::new("bash").arg(&script).output();
    let made = made.expect("bash runs");
    assert!(
        made.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&made.stderr)
    );
    let printed = String::from_utf8(made.stdout).expect("a path in UTF-8");
    printed.trim_end().to_owned()
}

/// Runs a client on a container that is disconnected once the client has told that it
/// is connected.
fn try_client(node: &TestNode, program: &str, before: &[&str], stubs: &str) {
    let client = |container: &str, network: &str| {
        let mut command = node.command(program);
        command
            .args(before)
            .args([SOCKET, container, network])
            .env("PYTHONPATH", stubs);
        command
    };
    let refused = client("shell", "none").output().expect("the client runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("network none does not exist"), "{said}");
    assert!(
        said.to_uppercase().replace('_', "").contains("NOTFOUND"),
        "{said}"
    );

    let printed = node.folder().join("printed");
    let out = fs::File::create(&printed).expect("a file");
    let mut running = client("shell", "ctr0")
        .stdout(Stdio::from(out))
        .spawn()
        .expect("the client runs");
    wait_until("the client follows", PATIENCE, || {
        let told = fs::read_to_string(&printed).unwrap_or_default();
        told.contains("container.connected")
    });
    node.circuit(&["network", "disconnect", "shell", "ctr0"])
        .ok();
    let mut ended = None;
    wait_until("the client ends", PATIENCE, || {
        ended = running.try_wait().expect("its end");
        ended.is_some()
    });
    let told = fs::read_to_string(&printed).expect("what it printed");
    assert!(ended.is_some_and(|status| status.success()), "{told}");
    let told: Vec<&str> = told.lines().collect();
    let address = told[1].split(' ').nth(1).unwrap_or_default();
    assert_eq!(
        told,
        [
            &*format!("connected shell to ctr0 with ip={address}"),
            &*format!("ctr0 {address} eth0"),
            "container.connected shell ctr0",
            "container.disconnected shell ctr0",
        ]
    );
}

fn node() -> TestNode {
    let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit")).start();
    node.create_network("ctr0", &network::bridge("ctr0", "10.255.0.0/16"));
    node.run_container("shell", &[], &[]);
    node
}

#[test]
fn the_python_client_of_the_guide_works() {
    let python = made_by("python-env");
    let node = node();
    let stubs = node.folder().join("stubs");
    fs::create_dir_all(&stubs).expect("a folder");
    let protos = repository().join("crates/circuit-api/proto");
    let generate = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&protos)
        .arg(format!("--python_out={}", stubs.display()))
        .arg(format!("--grpc_python_out={}", stubs.display()))
        .args(["circuit.proto", "events.proto"])
        .output()
        .expect("python runs");
    assert!(generate.status.success(), "{generate:?}");
    let client = repository().join("examples/clients/python/client.py");
    let client = client.to_str().expect("a path in UTF-8");
    let stubs = stubs.to_str().expect("a path in UTF-8");
    try_client(&node, &python, &["-B", client], stubs);
    node.remove_container("shell");
    node.assert_nothing_left();
}

#[test]
fn the_go_client_of_the_guide_works() {
    let program = made_by("go-client");
    let node = node();
    try_client(&node, &program, &[], "");
    node.remove_container("shell");
    node.assert_nothing_left();
}

/// The library of CoreDNS asks again, on another connection, for what a connection of
/// questions does not have.
#[test]
fn a_client_in_go_may_mix_questions_and_other_calls() {
    let mixed = Path::new(&made_by("go-client")).with_file_name("mixed");
    let mixed = mixed.to_str().expect("a path in UTF-8");
    let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit"))
        .server(&["--debug"])
        .start();
    // A question for the address of shell.ctr0.
    let question = concat!(
        "1234",
        "0100",
        "0001",
        "0000",
        "0000",
        "0000",
        "05",
        "7368656c6c",
        "04",
        "63747230",
        "00",
        "0001",
        "0001"
    );
    for target in ["127.0.0.1:8080", SOCKET] {
        let ran = node.run(mixed, &[target, question]);
        assert_eq!(ran.ok(), "250\n", "{target}");
    }
    // After one that mixes, no connection is of questions for a time.
    let log = node.daemon_log();
    let taken = log.matches("a connection asks for names as CoreDNS does");
    assert_eq!(taken.count(), 1, "{log}");
}
