//! The configuration file and the environment, as the binary reads them.

use std::path::Path;

use crate::fake::Server;
use crate::{Ran, circuit};
use tokio::process::Command;

/// The command with this file, without what the tests' own environment says.
fn with_file(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit"));
    command.args(arguments).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CIRCUIT_") {
            command.env_remove(name);
        }
    }
    command.env("CIRCUIT_CONFIG", file);
    command
}

async fn ran(command: &mut Command) -> Ran {
    Ran::new(command.output().await.unwrap())
}

/// A printed configuration without its comments: what it sets.
fn keys(printed: &str) -> Vec<&str> {
    let lines = printed.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(" # ").next()).collect()
}

#[tokio::test]
async fn what_is_printed_can_be_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
    std::fs::write(
        &first,
        "heartbeat = \"1s\"\nlease = \"9s\"\ndns-upstream = [\"9.9.9.9\", \"[fd00::1]:5353\"]\n\
         debug = true\ndns-limit = 12\nlog-format = \"json\"\n",
    )
    .unwrap();
    let arguments = ["server", "--print-config", "--heartbeat", "3s", "-a", ":1"];
    let mut command = with_file(&first, &arguments);
    command.args(["-a", "unix:///s", "--insecure"]);
    command
        .env("CIRCUIT_LEASE", "8s")
        .env("CIRCUIT_DEBUG", "false");
    let printed = ran(&mut command).await.ok();
    for line in [
        "heartbeat = \"3s\" # flag",
        "lease = \"8s\" # CIRCUIT_LEASE",
        "debug = false # CIRCUIT_DEBUG",
        "address = [\":1\", \"unix:///s\"] # flag",
        &format!("dns-limit = 12 # {} line 5", first.display()),
        "dns-ttl = \"0s\" # default",
        "# node-name = \"\" # not set",
    ] {
        assert!(printed.lines().any(|one| one == line), "{line}:\n{printed}");
    }
    std::fs::write(&second, &printed).unwrap();
    let again = ran(&mut with_file(&second, &["server", "--print-config"]))
        .await
        .ok();
    assert_eq!(keys(&again), keys(&printed));
    let flag = second.to_str().unwrap();
    let by_flag = ["server", "--print-config", "--config", flag];
    let by_flag = ran(&mut with_file(&first, &by_flag)).await.ok();
    assert_eq!(by_flag, again);
}

#[tokio::test]
async fn a_file_that_is_wrong_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let missing = dir.path().join("none.toml");
    let error = ran(&mut with_file(&missing, &["server"])).await;
    let want = format!(
        "cannot read the configuration {}: no such file or directory",
        missing.display()
    );
    assert_eq!(error.error(), want);
    for (text, want) in [
        (
            "\nheartbeet = \"1s\"",
            " line 2: unknown key \"heartbeet\"; did you mean \"heartbeat\"?",
        ),
        (
            "debug = 1",
            " line 1: debug must be true or false, not an integer",
        ),
        (
            "[dns]\nupstream = []",
            " line 1: unknown key \"dns.upstream\"; did you mean \"dns-upstream\"?",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        for command in [&["server"][..], &["network", "ls"]] {
            let ran = ran(&mut with_file(&file, command)).await;
            assert_eq!(ran.error(), format!("{}{want}", file.display()));
        }
    }
    // What is only wrong together with other settings says where it was written.
    std::fs::write(&file, "redis-url = \"redis://a\"\nlease = \"1s\"").unwrap();
    let ran = ran(&mut with_file(&file, &["server", "--print-config"])).await;
    let end = format!("(lease is from {} line 2)", file.display());
    assert!(
        ran.error().starts_with("--lease is shorter than"),
        "{ran:?}"
    );
    assert!(ran.error().ends_with(&end), "{ran:?}");
}

#[tokio::test]
async fn passwords_are_not_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "datastore = \"redis://u:hunter2@a\"").unwrap();
    let mut command = with_file(&file, &["server", "--print-config"]);
    command.env("CIRCUIT_REDIS_URL", "redis://:swordfish@a");
    let printed = ran(&mut command).await.ok();
    assert!(
        !printed.contains("hunter2") && !printed.contains("swordfish"),
        "{printed}"
    );
    let line = "# redis-url = \"redis://:***@a\" # CIRCUIT_REDIS_URL; the password is left out\n";
    assert!(printed.contains(line), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_find_the_daemon_by_the_file() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let nodes = ["cluster", "nodes"];
    let by_flag = ran(&mut circuit(&server.target(), &nodes)).await.ok();
    std::fs::write(&file, format!("address = [{:?}]", server.target())).unwrap();
    assert_eq!(ran(&mut with_file(&file, &nodes)).await.ok(), by_flag);
    std::fs::write(&file, "address = [\"unix:///no/such.sock\"]").unwrap();
    assert!(
        ran(&mut with_file(&file, &nodes))
            .await
            .error()
            .contains("/no/such.sock")
    );
    let mut command = with_file(&file, &nodes);
    command.env("CIRCUIT_ADDRESS", server.target());
    assert_eq!(ran(&mut command).await.ok(), by_flag);
}
