//! The live picture in a real browser, which `tests/python/picture.py` drives: it
//! says what is to happen with the node, and looks whether the page shows it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use circuit_testing::{Lan, TestNode, network};

use crate::support::{NETWORK, member};

const URL: &str = "http://127.0.0.1:8081/";
/// What picture.py expects to be shown as text.
const HOSTILE: &str = "<img src=x onerror='document.title=`owned`'><script>";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/picture.py")
}

/// Runs the script; each `do` line is answered when it is done.
#[track_caller]
fn drive(mut command: Command, arguments: &[&str], mut act: impl FnMut(&str)) {
    command.arg("-B").arg(script()).args(arguments);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.spawn().expect("python3 runs");
    let mut answers = child.stdin.take().expect("a pipe");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut last = String::new();
    for line in lines {
        last = line.expect("a text");
        if let Some(what) = last.strip_prefix("do ") {
            act(what);
            answers.write_all(b"done\n").expect("somebody who listens");
        }
    }
    let status = child.wait().expect("an end");
    assert!(
        status.success(),
        "the browser saw something else, see above; the last word was {last:?}"
    );
    assert_eq!(last, "all is as it should be");
}

fn start(server: &[&str]) -> TestNode {
    let server = [&["--web", "127.0.0.1:8081"], server].concat();
    let node = crate::node().server(&server).start();
    let create = ["network", "create", "web", "--subnet", "10.88.0.0/24"];
    node.circuit(&create).ok();
    for name in ["api", "db"] {
        node.run_container(name, &[], &[]);
    }
    node.circuit(&["network", "connect", "api", "web"]).ok();
    let wishes = ["--alias", "sql", "-p", "8080:5432"];
    node.circuit(&[&["network", "connect", "db", "web"], &wishes[..]].concat())
        .ok();
    node
}

#[test]
fn a_browser_shows_what_happens() {
    let node = start(&[]);
    drive(node.command("python3"), &[URL], |what| match what {
        "disconnect api" => drop(node.circuit(&["network", "disconnect", "api", "web"]).ok()),
        "remove api" => node.remove_container("api"),
        "run cache" => node.run_container("cache", &[(NETWORK, "web")], &[]),
        "label hostile" => node.run_container("hostile", &[(NETWORK, HOSTILE)], &[]),
        "kill the daemon" => node.kill_daemon(),
        "start the daemon" => node.start_daemon(),
        "disconnect db" => drop(node.circuit(&["network", "disconnect", "db", "web"]).ok()),
        other => panic!("picture.py asks for {other:?}"),
    });
    for name in ["db", "cache", "hostile"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn a_browser_asks_for_the_token() {
    let file = std::env::temp_dir().join(format!("circuit-web-token-{}", std::process::id()));
    std::fs::write(&file, "0123456789abcdef\n").expect("a file");
    let path = file.to_str().expect("a path in UTF-8");
    let node = start(&["--web-token-file", path]);
    std::fs::remove_file(&file).expect("the file");
    drive(node.command("python3"), &[URL, "--token"], |what| {
        panic!("picture.py asks for {what:?}")
    });
    for name in ["api", "db"] {
        node.remove_container(name);
    }
    node.assert_nothing_left();
}

#[test]
fn a_browser_shows_the_cluster() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let web = ["--web", "127.0.0.1:8081"];
    let here = member(&lan, "here", 4).server(&web).start();
    let there = member(&lan, "there", 4).start();
    for (node, container, subnet) in [(&here, "a", "10.90.0.0/16"), (&there, "b", "10.91.0.0/16")] {
        node.create_network("web", &network::bridge("web", subnet));
        node.run_container(container, &[(NETWORK, "web")], &[]);
    }
    drive(
        here.command("python3"),
        &[URL, "--cluster"],
        |what| match what {
            "disconnect b" => there.remove_container("b"),
            "kill the other" => there.kill_daemon(),
            other => panic!("picture.py asks for {other:?}"),
        },
    );
    here.remove_container("a");
    here.assert_nothing_left();
}

/// Three nodes with forty containers, names of the worst kind, and nothing at all.
#[test]
fn a_browser_shows_a_fleet() {
    drive(Command::new("python3"), &[], |what| {
        panic!("picture.py asks for {what:?}")
    });
}
