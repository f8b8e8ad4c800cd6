//! The API from another language: a Python client, generated from the `.proto`
//! files, calls every RPC of the daemon of a test node.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; what the client says belongs to its output"
)]

use std::{path::Path, process::Command};

use circuit_testing::TestNode;

/// The interpreter of the environment with the generator and its libraries.
fn python() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/python-env");
    let output = Command::new("bash")
        .arg(script)
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "no python environment: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).expect("a path in UTF-8");
    printed.trim_end().to_owned()
}

#[test]
fn a_generated_client_calls_every_rpc() {
    let python = python();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../circuit-api/proto");
    let node = TestNode::builder(env!("CARGO_BIN_EXE_circuit")).start();
    node.run_container("shell", &[], &[]);
    node.run_container("idle", &[], &[]);
    node.end_task("idle");
    let labels = [
        ("io.circuit.network", "auto"),
        ("io.circuit.restart", "always"),
    ];
    node.run_container("web", &labels, &[]);

    let printed = node
        .run(
            &python,
            &[
                // Bytecode of the client does not belong into the source tree.
                "-B",
                tests.to_str().expect("a path in UTF-8"),
                "--protos",
                protos.to_str().expect("a path in UTF-8"),
                "--target",
                "unix:///run/circuit/circuit.sock",
                "--other-target",
                "127.0.0.1:8080",
            ],
        )
        .ok();
    print!("{printed}");
    assert!(printed.starts_with("called "), "{printed}");

    node.remove_container("web");
    node.remove_container("shell");
    node.remove_container("idle");
    node.assert_nothing_left();
}
