//! What commands print.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use circuit_core::service::Problem;
use circuit_testing::PATIENCE;
use tokio::io::AsyncReadExt;
use tokio::process::Child;

use crate::fake::Server;
use crate::{Ran, circuit, run, run_with_input};

const CONFIG: &str =
    "{\n\"cniVersion\":\"1.0.0\", \"name\":\"ctr0\",\n\t\"plugins\":[{\"type\":\"bridge\"}]}";

#[tokio::test(flavor = "multi_thread")]
async fn every_printed_form() {
    let server = Server::start().await;
    let at = &server.target();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ctr0.conflist");
    std::fs::write(&file, CONFIG).unwrap();
    let file = file.to_str().unwrap();

    assert_eq!(run(at, &["network", "create", "ctr0", file]).await.ok(), "");
    let second = ["network", "create", "macs", "-", "--force"];
    assert_eq!(
        run_with_input(at, &second, b"{\"type\":\"macvlan\"}")
            .await
            .ok(),
        ""
    );
    assert_eq!(
        run_with_input(at, &["network", "create", "bad", "-"], b"?")
            .await
            .ok(),
        ""
    );
    assert_eq!(server.world.calls()[1], "create macs force=true");

    let table = "NAME      TYPE\nbad       -\nctr0      bridge\nmacs      macvlan\n";
    assert_eq!(run(at, &["network", "ls"]).await.ok(), table);
    assert_eq!(run(at, &["network", "list"]).await.ok(), table);
    assert_eq!(run(at, &["network", "info", "ctr0"]).await.ok(), CONFIG);
    assert_eq!(
        run(at, &["network", "connect", "shell", "ctr0"]).await.ok(),
        "connected shell to ctr0 with ip=10.255.0.2\n"
    );
    assert_eq!(
        run(at, &["network", "disconnect", "shell", "ctr0"])
            .await
            .ok(),
        "disconnected shell from ctr0\n"
    );
    assert_eq!(
        run(at, &["network", "ips", "shell"]).await.ok(),
        "NETWORK   IP           INTERFACE\n\
         ctr0      10.255.0.2   eth0\n\
         ctr1      fd00::2      eth1\n"
    );
    assert_eq!(
        run(at, &["network", "ips", "shell", "--network", "ctr1"])
            .await
            .ok(),
        "NETWORK   IP        INTERFACE\nctr1      fd00::2   eth1\n"
    );
    assert_eq!(run(at, &["network", "delete", "ctr0"]).await.ok(), "ctr0\n");
    assert_eq!(
        run(at, &["cluster", "nodes"]).await.ok(),
        "NAME      VERSION   CPUS      MEMORY    UPTIME           KERNEL\n\
         node1     0.1.0     2         25 GB     36 minutes ago   6.18.44\n\
         node2     0.1.0     2         25 GB     36 minutes ago   6.18.44\n"
    );
    assert_eq!(
        run(at, &["container", "stop", "shell"]).await.ok(),
        "stopped shell\n"
    );
    let start = run(at, &["container", "start", "shell"]).await.ok();
    assert_eq!(start, "started shell with pid=23217\n");
    let restart = run(at, &["container", "restart", "-t", "1m", "shell"])
        .await
        .ok();
    assert_eq!(restart, "restarted shell with pid=23218\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_listings() {
    let server = Server::start().await;
    let at = &server.target();
    let problem = Problem {
        container: "shell".into(),
        network: "ctr9".into(),
        message: "network ctr9 does not exist".into(),
    };
    server.world.problems.lock().unwrap().push(problem);
    server
        .world
        .networks
        .lock()
        .unwrap()
        .insert("ctr0".into(), CONFIG.into());
    let json = async |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(at, arguments).await.ok()).unwrap()
    };
    let problems = serde_json::json!([{
        "container": "shell", "network": "ctr9", "message": "network ctr9 does not exist",
    }]);
    assert_eq!(
        json(&["network", "ls", "--format", "json"]).await,
        serde_json::json!({
            "networks": [{ "name": "ctr0", "type": "bridge" }], "problems": problems,
        })
    );
    let ips = json(&["network", "ips", "shell", "--format", "json"]).await;
    assert_eq!(ips["container"], "shell");
    assert_eq!(
        ips["ips"][1],
        serde_json::json!({ "network": "ctr1", "ip": "fd00::2", "interface": "eth1" })
    );
    assert_eq!(ips["problems"], problems);
    let nodes = json(&["cluster", "nodes", "--format=json"]).await;
    assert_eq!(nodes["nodes"][0]["name"], "node1");
    assert_eq!(nodes["nodes"][0]["uptime"], 2168);
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_warnings_and_no_failure() {
    let server = Server::start().await;
    let problem = Problem {
        container: "shell".into(),
        network: "ctr9".into(),
        message: "does not exist;\ncreate it".into(),
    };
    server.world.problems.lock().unwrap().push(problem);
    server
        .world
        .networks
        .lock()
        .unwrap()
        .insert("ctr9".into(), CONFIG.into());
    let want = "warning: container shell, network ctr9: does not exist; create it\n";
    for arguments in [
        &["network", "ls"][..],
        &["network", "ips", "shell"],
        &["network", "info", "ctr9"],
    ] {
        let ran = run(&server.target(), arguments).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, want), "{arguments:?}");
        assert!(!ran.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_one_line_and_code_1() {
    let server = Server::start().await;
    let at = &server.target();
    let ran = run(at, &["network", "info", "nope"]).await;
    assert_eq!(
        ran.error(),
        "network nope does not exist; see `circuit network ls`"
    );
    assert_eq!(ran.stdout, "");
    let ran = run(at, &["network", "create", "a", "/no/such/file"]).await;
    assert_eq!(
        ran.error(),
        "cannot read /no/such/file: no such file or directory"
    );
    let ran = run(at, &["network", "connect", "", "ctr0"]).await;
    assert_eq!(
        ran.error(),
        "the name of the container is empty; give its name"
    );
    let ran = run("ftp://a", &["network", "ls"]).await;
    assert!(ran.error().starts_with("bad address \"ftp://a\": "));
    let ran = run(at, &["-a", "b:1", "-a", "c:1", "network", "ls"]).await;
    assert_eq!(ran.error(), "several addresses were given; name one server");
    let ran = run("unix:///no/such.sock", &["network", "ls"]).await;
    assert!(ran.error().ends_with("is `circuit server` running?"));
    assert_eq!(run(at, &["network", "nonsense"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_names_are_done_all_the_same() {
    let server = Server::start().await;
    let at = &server.target();
    server
        .world
        .networks
        .lock()
        .unwrap()
        .insert("b".into(), Vec::new());
    let ran = run(at, &["network", "rm", "-f", "a", "b", "c", "b"]).await;
    let gone = |name| format!("network {name} does not exist; see `circuit network ls`");
    assert_eq!(ran.error(), format!("{}; {}", gone("a"), gone("c")));
    assert_eq!(ran.stdout, "b\n");
    let ran = run(at, &["container", "stop", "gone", "web", "--timeout", "1m"]).await;
    assert_eq!(ran.error(), "container gone does not exist");
    assert_eq!(ran.stdout, "stopped web\n");
    assert!(
        server
            .world
            .calls()
            .contains(&"stop web Some(60s)".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reading_is_no_panic() {
    let server = Server::start().await;
    let large = vec![b' '; 1 << 20];
    server
        .world
        .networks
        .lock()
        .unwrap()
        .insert("a".into(), large);
    let mut command = circuit(&server.target(), &["network", "info", "a"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .await
        .unwrap();
    assert_eq!(
        (child.wait().await.unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );
}

/// A command whose standard output nobody reads.
fn unread(at: &str, arguments: &[&str]) -> Child {
    let mut command = circuit(at, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    child
}

async fn ended(child: Child) -> Ran {
    Ran::new(child.wait_with_output().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reading_is_no_reason_to_leave_the_rest() {
    let server = Server::start().await;
    let (at, world) = (&server.target(), &server.world);
    for name in ["a", "c"] {
        let mut networks = world.networks.lock().unwrap();
        networks.insert(name.into(), Vec::new());
    }
    let ran = ended(unread(at, &["network", "rm", "a", "b", "c"])).await;
    assert_eq!(
        ran.error(),
        "network b does not exist; see `circuit network ls`"
    );
    assert!(world.networks.lock().unwrap().is_empty());
    let ran = ended(unread(at, &["network", "disconnect", "a,b,c", "ctr0"])).await;
    assert_eq!(ran.ok(), "");
    let mut calls = world.calls().split_off(3);
    calls.sort();
    assert_eq!(
        calls,
        ["a", "b", "c"].map(|it| format!("disconnect {it} ctr0"))
    );
    for arguments in [&["doctor"][..], &["doctor", "--format", "json"]] {
        let ran = ended(unread(at, arguments)).await;
        assert_eq!(ran.error(), "there is a problem");
    }

    // A prune is read to its end, which is not before 20 more networks.
    world.lingers.store(true, Ordering::SeqCst);
    let mut child = unread(at, &["network", "prune"]);
    let another = async || {
        let begun = tokio::time::timeout(PATIENCE, world.begun.notified());
        begun.await.expect("the prune goes on");
    };
    for _ in 0..20 {
        another().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.go_on.notify_one();
    }
    another().await;
    assert_eq!(child.try_wait().unwrap(), None);
    world.lingers.store(false, Ordering::SeqCst);
    world.go_on.notify_one();
    assert_eq!(ended(child).await.ok(), "");
    assert_eq!(world.finished.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_listed_and_addresses_freed() {
    let server = Server::start().await;
    let at = &server.target();
    assert_eq!(
        run(at, &["ipam", "ls"]).await.ok(),
        "POOL      ADDRESS    STATE     NODE      NETWORK   CONTAINER\n\
         lan       10.9.0.2   used      node1     lan0      default-shell\n"
    );
    let wide = run(at, &["ipam", "ls", "--wide", "--pool", "p"]).await.ok();
    assert!(
        wide.contains("10.9.0.3   spare") && wide.contains("3629s"),
        "{wide}"
    );
    let json = ["ipam", "ls", "--network", "lan0", "--format", "json"];
    let json: serde_json::Value = serde_json::from_str(&run(at, &json).await.ok()).unwrap();
    assert_eq!(json["addresses"].as_array().unwrap().len(), 1);
    assert_eq!(json["addresses"][0]["claim_seconds"], 3629);
    run(at, &["ipam", "release", "10.9.0.2", "--pool", "lan"])
        .await
        .ok();
    run(at, &["ipam", "release", "--node", "node1", "--force"])
        .await
        .ok();
    let calls = server.world.calls();
    let address = r#"release Address { pool: Some("lan"), address: 10.9.0.2 } force=false"#;
    assert_eq!(calls, [address, r#"release Node("node1") force=true"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_asked_for_and_listed() {
    let server = Server::start().await;
    let at = &server.target();
    let printed = run(at, &["dns", "query", "web.ctr0"]).await.ok();
    assert!(printed.contains("web.ctr0.circuit.internal"), "{printed}");
    let last = printed.lines().last().unwrap();
    assert_eq!(
        last,
        "NOERROR: from containers on node1, node2, in 1.042 ms"
    );
    let json = ["dns", "query", "web", "aaaa", "--format", "json"];
    let json: serde_json::Value = serde_json::from_str(&run(at, &json).await.ok()).unwrap();
    assert_eq!(
        (&json["code"], &json["micros"]),
        (&"NOERROR".into(), &1042.into())
    );
    let missing = run(at, &["dns", "query", "gone"]).await;
    assert!(
        missing.stdout.ends_with("in 1.042 ms\n"),
        "{}",
        missing.stdout
    );
    assert_eq!(missing.error(), "gone does not exist");
    let listed = run(at, &["dns", "dump", "CTR1.circuit.internal."])
        .await
        .ok();
    assert_eq!(
        listed,
        "NAME                        TYPE      DATA        NODE\n\
         web.ctr1.circuit.internal   A         10.89.0.2   node1\n"
    );
    // A suffix ends whole labels only.
    let none = ["dns", "dump", "ternal", "--format", "json"];
    let none: serde_json::Value = serde_json::from_str(&run(at, &none).await.ok()).unwrap();
    assert_eq!(none["records"].as_array().unwrap().len(), 0);
    let calls = server.world.calls();
    assert_eq!(calls, ["query web.ctr0 ", "query web aaaa", "query gone "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_in_a_few_words() {
    let server = Server::start().await;
    let at = &server.target();
    let words = ["network", "create", "web", "--driver", "bridge", "--dns"];
    assert_eq!(
        run(at, &words).await.ok(),
        "created web with 10.88.0.0/24\n"
    );
    let call = server.world.calls().remove(0);
    assert!(
        call.contains("name: \"web\"") && call.contains("dns: true"),
        "{call}"
    );
    let dry = run(at, &["network", "create", "dry", "--dry-run"])
        .await
        .ok();
    let config: serde_json::Value = serde_json::from_str(&dry).unwrap();
    assert_eq!(config["plugins"][0]["type"], "bridge");
    assert!(!server.world.networks.lock().unwrap().contains_key("dry"));

    // A file says by itself what the words say.
    let both = run(
        at,
        &["network", "create", "web", "file", "--driver", "bridge"],
    )
    .await;
    assert_eq!(both.code, 2, "{}", both.stderr);
    let wrong = run(at, &["network", "create", "x", "--subnet", "ten"]).await;
    assert_eq!(
        wrong.error(),
        "\"ten\" is no subnet: write one like 10.88.0.0/24"
    );

    let inspected = run(at, &["network", "inspect", "web"]).await.ok();
    for part in [
        "driver:       bridge, portmap\n",
        "in use:       1 of 65533\n",
        "web         n1        10.255.0.2   eth0        02:00:00:00:00:07   8080:80/tcp   db\n",
        "\"io.circuit.dns\": true",
    ] {
        assert!(inspected.contains(part), "{part}: {inspected}");
    }
    let json = run(at, &["network", "inspect", "web", "--format", "json"])
        .await
        .ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["containers"][0]["ips"][0], "10.255.0.2");
    assert_eq!(json["config"]["name"], "web");

    assert_eq!(run(at, &["network", "prune"]).await.ok(), "unused\n");
    assert_eq!(
        run(at, &["network", "prune", "--dry-run"]).await.ok(),
        "used: kept, used by container shell\nunused: would be deleted\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_reach_the_server_and_many_are_connected_at_once() {
    let server = Server::start().await;
    let at = &server.target();
    let words = "network connect shell ctr0 --ip 10.88.0.7 --mac 02:42:0A:58:00:07 --alias db,sql \
                 -p 8080:80 --publish 127.0.0.1:53:53/udp --interface data0";
    let words: Vec<&str> = words.split_whitespace().collect();
    run(at, &words).await.ok();
    assert_eq!(
        server.world.calls(),
        [
            "connect shell ctr0 {\"ips\":[\"10.88.0.7\"],\"mac\":\"02:42:0a:58:00:07\",\
          \"aliases\":[\"db\",\"sql\"],\"interface\":\"data0\",\
          \"ports\":[\"8080:80/tcp\",\"127.0.0.1:53:53/udp\"]}"
        ]
    );
    let wrong = run(at, &["network", "connect", "shell", "ctr0", "--ip", "ten"]).await;
    assert_eq!(
        wrong.error(),
        "\"ten\" is no address: write one like 10.88.0.7 or fd00::7"
    );

    let many = run(at, &["network", "connect", "a,b,c,b", "ctr0"])
        .await
        .ok();
    let mut lines: Vec<&str> = many.lines().collect();
    lines.sort_unstable();
    let line = |name| format!("connected {name} to ctr0 with ip=10.255.0.2");
    assert_eq!(lines, ["a", "b", "c"].map(line));
    let piped = run_with_input(at, &["network", "disconnect", "-", "ctr0"], b"a\nb\n").await;
    assert_eq!(piped.ok().lines().count(), 2);
    let fixed = run(
        at,
        &["network", "connect", "a,b", "ctr0", "--ip", "10.88.0.7"],
    )
    .await;
    assert_eq!(
        fixed.error(),
        "--ip is for one container; connect them one by one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_and_events() {
    let server = Server::start().await;
    let at = &server.target();
    assert_eq!(
        run(at, &["ps"]).await.ok(),
        "CONTAINER   STATE     NETWORKS          PORTS         RESTART\n\
         web         running   ctr0=10.255.0.2   8080:80/tcp   always (2)\n"
    );
    let all = run(at, &["ps", "--all", "--cluster"]).await.ok();
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 4, "{all}");
    assert!(
        lines[1].starts_with("idle        n1        absent"),
        "{all}"
    );
    assert!(
        lines[3].starts_with("web         n2        running"),
        "{all}"
    );
    let json = run(at, &["ps", "--format", "json"]).await.ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["containers"][0]["restart"]["count"], 2);

    // The fake server's events end; a real one's do not.
    let ran = run(at, &["events", "--last", "9", "--here"]).await;
    assert_eq!(ran.error(), "the server has ended");
    assert_eq!(
        ran.stdout,
        "1970-01-01T00:00:01Z n1 container.connected    web ctr0 eth0 10.255.0.2\n\
         1970-01-01T00:00:03Z n1 container.disconnected web ctr0 eth0 10.255.0.2\n"
    );
    let ran = run(
        at,
        &[
            "events",
            "-n1",
            "--kind",
            "container.disconnected",
            "--format",
            "json",
        ],
    );
    let ran = ran.await;
    let event: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(event["kind"], "container.disconnected");
    let ran = run(at, &["events", "--kind", "nonsense"]).await;
    assert!(
        ran.error()
            .starts_with("\"nonsense\" is no kind of event: use container.connected,")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_is_listed_too() {
    let server = Server::start().await;
    server.world.fleet.store(100_000, Ordering::SeqCst);
    let all = run(&server.target(), &["ps", "--cluster"]).await.ok();
    assert_eq!(all.lines().count(), 1 + 1 + 100_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_shown_in_frames() {
    let server = Server::start().await;
    let at = &server.target();
    let ran = run(at, &["top", "--count", "2", "--interval", "100ms"]).await;
    let shown = ran.ok();
    let lines: Vec<&str> = shown.lines().collect();
    // Not a terminal: frames follow one another, and nothing moves a cursor.
    assert!(!shown.contains('\x1b'), "{shown}");
    assert_eq!(lines.len(), 8, "{shown}");
    let columns = |line: usize| lines[line].split_whitespace().collect::<Vec<&str>>();
    assert_eq!(columns(2)[..4], ["CONTAINER", "STATE", "IN", "OUT"]);
    assert_eq!(columns(3)[..4], ["web", "running", "-", "-"], "{shown}");
    let web = columns(7);
    assert_eq!(web[..2], ["web", "running"], "{shown}");
    // 1 MB in at least 0.1 s.
    assert!(
        web.iter()
            .any(|word| *word == "MB/s" || word.ends_with("MB/s")),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_says_what_to_do() {
    let server = Server::start().await;
    let at = &server.target();
    let ran = run(at, &["doctor"]).await;
    assert_eq!(
        ran.stdout,
        "fine     containerd   7 containers\n\
         problem  forwarding   it is off\n\
         \x20                     to do: switch it on\n"
    );
    assert_eq!(ran.error(), "there is a problem");
    let fixed = run(at, &["doctor", "--fix", "--format", "json"]).await.ok();
    let fixed: serde_json::Value = serde_json::from_str(&fixed).unwrap();
    assert_eq!(fixed["findings"][1]["level"], "fixed");
}

/// As one who is not in the socket's group finds it.
#[tokio::test]
async fn a_socket_for_others_is_not_a_daemon_that_is_away() {
    use circuit_api::{ClientOptions, ConnectError, connect};
    use nix::unistd::{Uid, setfsuid};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("circuit.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let options = ClientOptions {
        target: Some(format!("unix://{}", path.display()).parse().unwrap()),
        tls: None,
    };
    // Of this thread alone, which serves nothing but this test.
    let root = setfsuid(Uid::from_raw(65534));
    let refused = connect(&options).await;
    setfsuid(root);
    let error = refused.unwrap_err();
    assert!(matches!(error, ConnectError::Denied(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("permission denied; run this as root")
    );
}
