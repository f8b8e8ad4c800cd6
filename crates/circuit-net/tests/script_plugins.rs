//! Plugins that record, fail, hang or babble.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use circuit_core::cni::{CniVersion, DataPath, code};
use circuit_core::{Error, ErrorKind};
use circuit_net::cni::{AttachmentArgs, CniError, CniRuntime, OperationLock, PluginPath};
use common::{Scripts, attach, eventually, is_running, list, list_with};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(20);

/// Scripts do not care whether this is a namespace.
fn args() -> AttachmentArgs {
    attach(Path::new("/run/netns/nothing"))
}

/// A runtime with one plugin, `it`.
fn one(scripts: &Scripts, body: &str, limit: Duration) -> CniRuntime {
    scripts.plugin("it", body);
    scripts.runtime(limit)
}

async fn add_error(runtime: &CniRuntime) -> circuit_net::cni::AddError {
    runtime
        .add(&list("1.0.0", &[json!({"type": "it"})]), &args(), None)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_chain_is_run_forwards_and_backwards() {
    let scripts = Scripts::new();
    scripts.recorder("one").recorder("two").recorder("three");
    let runtime = scripts.runtime(LIMIT);
    let plugins = ["one", "two", "three"].map(|kind| json!({"type": kind, "own": kind}));
    let list = list("0.4.0", &plugins);
    let mut args = args();
    args.cni_args = vec![
        ("K8S".to_owned(), "x".to_owned()),
        ("B".to_owned(), "2".to_owned()),
    ];

    let (result, raw) = runtime.add(&list, &args, None).await.unwrap();
    assert_eq!(raw["from"], "three");
    assert_eq!(
        raw["cniVersion"], "0.4.0",
        "a result without a version is of the list's"
    );
    assert_eq!(
        result.ips_of("eth0", None),
        ["10.9.9.9/24".parse().unwrap()]
    );
    runtime.check(&list, &args, &raw, None).await.unwrap();
    runtime.del(&list, &args, Some(&raw), None).await.unwrap();
    assert_eq!(
        scripts.text("log").lines().collect::<Vec<_>>(),
        [
            "one ADD",
            "two ADD",
            "three ADD",
            "one CHECK",
            "two CHECK",
            "three CHECK",
            "three DEL",
            "two DEL",
            "one DEL"
        ]
    );

    assert!(scripts.json("one.ADD.json").get("prevResult").is_none());
    assert_eq!(scripts.json("two.ADD.json")["prevResult"]["from"], "one");
    assert_eq!(scripts.json("three.ADD.json")["own"], "three");
    for kind in ["one", "two", "three"] {
        assert_eq!(scripts.json(&format!("{kind}.DEL.json"))["prevResult"], raw);
        assert_eq!(
            scripts.json(&format!("{kind}.CHECK.json"))["prevResult"],
            raw
        );
    }
    let env = scripts.text("one.ADD.env");
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=default-web",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/netns/nothing",
        "CNI_ARGS=K8S=x;B=2",
    ] {
        assert!(env.lines().any(|have| have == line), "{line} in {env}");
    }
    let folders = env
        .lines()
        .find_map(|line| line.strip_prefix("CNI_PATH="))
        .unwrap();
    assert!(folders.ends_with(":/usr/lib/cni"), "{folders}");
    let path = env
        .lines()
        .find_map(|line| line.strip_prefix("PATH="))
        .unwrap();
    assert!(path.split(':').any(|dir| dir == "/usr/sbin"), "{path}");
}

#[tokio::test]
async fn versions_decide_what_is_run() {
    let scripts = Scripts::new();
    scripts.recorder("it");
    let runtime = scripts.runtime(LIMIT);
    let it = json!({"type": "it"});
    let old = list("0.3.1", std::slice::from_ref(&it));
    let (_, raw) = runtime.add(&old, &args(), None).await.unwrap();
    runtime.check(&old, &args(), &raw, None).await.unwrap();
    runtime.del(&old, &args(), Some(&raw), None).await.unwrap();
    assert!(
        scripts.json("it.DEL.json").get("prevResult").is_none(),
        "0.3.1 has none on DEL"
    );
    let middle = list("1.0.0", std::slice::from_ref(&it));
    runtime.status(&middle).await.unwrap();
    runtime.gc(&middle, &[], None).await.unwrap();
    let quiet = list_with(json!({"cniVersion": "1.1.0", "name": "n", "plugins": [it],
                                 "disableCheck": true, "disableGC": "true"}));
    runtime.check(&quiet, &args(), &raw, None).await.unwrap();
    runtime.gc(&quiet, &[], None).await.unwrap();
    assert_eq!(scripts.text("log"), "it ADD\nit DEL\n");
}

#[tokio::test]
async fn status_and_gc_reach_every_plugin() {
    let scripts = Scripts::new();
    scripts.recorder("one").recorder("two");
    let runtime = scripts.runtime(LIMIT);
    let list = list("1.1.0", &[json!({"type": "one"}), json!({"type": "two"})]);
    runtime.status(&list).await.unwrap();
    let valid = [("default-web".to_owned(), "eth0".to_owned())];
    runtime.gc(&list, &valid, None).await.unwrap();
    runtime.gc(&list, &[], None).await.unwrap();
    assert_eq!(
        scripts.text("log"),
        "one STATUS\ntwo STATUS\none GC\ntwo GC\none GC\ntwo GC\n"
    );
    let none = json!({"type": "two", "cniVersion": "1.1.0", "name": "net",
                      "cni.dev/valid-attachments": [], "cni.dev/attachments": []});
    assert_eq!(
        scripts.json("two.GC.json"),
        none,
        "an empty list is said too"
    );
    runtime.gc(&list, &valid, None).await.unwrap();
    assert_eq!(
        scripts.json("one.GC.json")["cni.dev/valid-attachments"],
        json!([{"containerID": "default-web", "ifname": "eth0"}])
    );
    assert!(
        scripts
            .text("one.STATUS.env")
            .contains("CNI_CONTAINERID=\n")
    );
}

#[tokio::test]
async fn status_codes_come_through() {
    let scripts = Scripts::new();
    let body = r#"[ $CNI_COMMAND = STATUS ] || exit 0
echo '{"cniVersion":"1.1.0","code":51,"msg":"limited"}'; exit 1"#;
    let runtime = one(&scripts, body, LIMIT);
    let error = runtime
        .status(&list("1.1.0", &[json!({"type": "it"})]))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(code::LIMITED_CONNECTIVITY));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn error_codes_decide_what_follows() {
    let scripts = Scripts::new();
    let fail = |code: u32| format!(r#"echo '{{"code":{code},"msg":"m","details":"d"}}'; exit 1"#);
    let later = add_error(&one(&scripts, &fail(11), LIMIT)).await;
    assert!(later.error.is_try_again() && later.cleanup_owed);
    assert_eq!(Error::from(later.clone()).kind(), ErrorKind::Unavailable);
    assert_eq!(later.to_string(), "cni plugin it ADD: m: d (code 11)");
    let unknown = add_error(&one(&scripts, &fail(3), LIMIT)).await;
    assert!(!unknown.cleanup_owed);
    let other = add_error(&one(&scripts, &fail(120), LIMIT)).await;
    assert!(other.cleanup_owed);
    assert_eq!(other.error.kind(), ErrorKind::Internal);
    // To detach what the plugin does not know is no failure.
    let runtime = one(&scripts, &fail(3), LIMIT);
    runtime
        .del(
            &list("1.0.0", &[json!({"type": "it"})]),
            &args(),
            None,
            None,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn standard_error_and_the_exit_status_are_in_the_text() {
    let scripts = Scripts::new();
    let failed = add_error(&one(
        &scripts,
        "echo first >&2; echo second >&2; exit 7",
        LIMIT,
    ))
    .await;
    assert_eq!(
        failed.to_string(),
        "cni plugin it ADD: exit status 7, stderr: first; second"
    );
    let reported = r#"echo why >&2; echo '{"code":100,"msg":"m"}'; exit 1"#;
    let failed = add_error(&one(&scripts, reported, LIMIT)).await;
    assert_eq!(
        failed.to_string(),
        "cni plugin it ADD: m (code 100), stderr: why"
    );
    let failed = add_error(&one(&scripts, "kill -9 $$", LIMIT)).await;
    assert!(
        failed.to_string().contains("killed by signal 9"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_result_that_cannot_be_used_leaves_a_del_owed() {
    let scripts = Scripts::new();
    for (body, text) in [
        ("true", "wrote no result"),
        ("echo nonsense", "result is not json"),
        ("echo '[1]'", "result is not an object"),
        (r#"echo '{"ips":[{}]}'"#, "ips[0]: has no address"),
        (r#"echo '{"cniVersion":"0.2.0"}'"#, "0.2.0"),
        ("head -c 2000000 /dev/zero", "more than 1048576 bytes"),
    ] {
        let failed = add_error(&one(&scripts, body, LIMIT)).await;
        assert!(failed.cleanup_owed, "{body}");
        assert!(failed.to_string().contains(text), "{body}: {failed}");
    }
}

#[tokio::test]
async fn much_output_and_unread_input_block_nobody() {
    let scripts = Scripts::new();
    let body = r#"head -c 3000000 /dev/zero >&2; echo '{"ips":[]}'"#;
    let runtime = one(&scripts, body, LIMIT);
    let big = json!({"type": "it", "padding": "x".repeat(900_000)});
    runtime
        .add(&list("1.0.0", &[big]), &args(), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_process_that_outlives_its_plugin_is_not_waited_for() {
    let scripts = Scripts::new();
    let body = "sleep 60 & echo $! > $D/pid; echo '{\"ips\":[]}'";
    let runtime = one(&scripts, body, LIMIT);
    let start = Instant::now();
    runtime
        .add(&list("1.0.0", &[json!({"type": "it"})]), &args(), None)
        .await
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    let pid = scripts.text("pid");
    assert!(is_running(&pid), "it may be a daemon that the plugin needs");
    common::shell(&format!("kill {pid}"));
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let scripts = Scripts::new();
    let body = "echo $$ > $D/self; sleep 300 & echo $! > $D/child; echo stuck >&2; wait";
    let runtime = one(&scripts, body, Duration::from_millis(700));
    let start = Instant::now();
    let failed = add_error(&runtime).await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(failed.error, CniError::Timeout { .. }) && failed.cleanup_owed);
    assert_eq!(
        failed.to_string(),
        "cni plugin it ADD: killed after 700ms, stderr: stuck"
    );
    assert_eq!(Error::from(failed).kind(), ErrorKind::DeadlineExceeded);
    let (own, child) = (scripts.text("self"), scripts.text("child"));
    assert!(
        !Path::new(&format!("/proc/{}", own.trim())).exists(),
        "reaped"
    );
    eventually("the child is gone", || !is_running(&child)).await;
}

#[tokio::test]
async fn every_plugin_is_detached_even_when_one_fails() {
    let scripts = Scripts::new();
    scripts
        .recorder("one")
        .recorder("three")
        .plugin("two", "echo two >> $D/log; exit 9");
    let runtime = scripts.runtime(LIMIT);
    let list = list(
        "1.0.0",
        &["one", "two", "missing", "three"].map(|kind| json!({"type": kind})),
    );
    let failed = runtime.del(&list, &args(), None, None).await.unwrap_err();
    assert!(
        matches!(failed, CniError::Missing { .. }),
        "the first of two: {failed}"
    );
    assert_eq!(scripts.text("log"), "three DEL\ntwo\none DEL\n");
}

#[tokio::test]
async fn a_dropped_add_ends_by_itself() {
    let scripts = Scripts::new();
    let body = "echo $$ > $D/pid; sleep 0.5; touch $D/done; echo '{}'";
    let runtime = one(&scripts, body, LIMIT);
    let it = list("1.0.0", &[json!({"type": "it"})]);
    let arguments = args();
    let add = runtime.add(&it, &arguments, None);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), add)
            .await
            .is_err()
    );
    eventually("the plugin has run to its end", || {
        scripts.file("done").exists()
    })
    .await;
    let pid = scripts.text("pid");
    eventually("it is reaped", || {
        !Path::new(&format!("/proc/{}", pid.trim())).exists()
    })
    .await;

    let hanging = one(
        &scripts,
        "echo $$ > $D/hung; sleep 300",
        Duration::from_millis(600),
    );
    let add = hanging.add(&it, &arguments, None);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), add)
            .await
            .is_err()
    );
    let pid = scripts.text("hung");
    eventually("the deadline still counts", || !is_running(&pid)).await;
}

/// The lock files that processes have open, by their names.
fn locks_of(pids: &str) -> Vec<String> {
    let mut found = Vec::new();
    for pid in pids.split_whitespace() {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let files = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let names = files.map(|file| file.display().to_string());
        found.extend(names.filter_map(|name| Some(name.split_once("/locks/")?.1.to_owned())));
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_lock_is_held_until_its_plugin_has_ended() {
    let scripts = Scripts::new();
    // Nobody waits for what this one leaves running.
    let body = "sleep 300 >/dev/null 2>&1 & echo $! >> $D/pids; echo '{}'";
    let runtime = one(&scripts, body, LIMIT);
    scripts.plugin("slow", "echo $$ > $D/slow.pid; sleep 300");
    let file = scripts.file("locks/web");
    let lock = OperationLock::acquire(&file, LIMIT).await.unwrap();
    let error = OperationLock::acquire(&file, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(
        error.message().contains("locks/web is still locked"),
        "{error}"
    );

    let (it, slow) = (json!({"type": "it"}), json!({"type": "slow"}));
    let (it, slow) = (list("1.0.0", &[it]), list("1.0.0", &[slow]));
    runtime.add(&it, &args(), Some(&lock)).await.unwrap();
    let started = args();
    let runs = || !scripts.text("slow.pid").trim().is_empty();
    // Whoever waited for it goes away.
    tokio::select! {
        ended = runtime.add(&slow, &started, Some(&lock)) => panic!("{ended:?}"),
        () = eventually("it runs", runs) => {}
    }
    drop(lock);
    let pid = scripts.text("slow.pid");
    assert!(OperationLock::try_acquire(&file).unwrap().is_none());
    common::shell(&format!("kill -9 -{pid}"));
    let lock = OperationLock::acquire(&file, LIMIT).await.unwrap();
    assert_eq!(locks_of(&scripts.text("pids")), ["web (deleted)"]);

    // Without being told to, nobody inherits it.
    runtime.add(&it, &args(), None).await.unwrap();
    assert_eq!(locks_of(&scripts.text("pids")), ["web (deleted)"]);
    drop(lock);
    assert!(OperationLock::try_acquire(&file).unwrap().is_some());
    common::shell(&format!("kill {}", scripts.text("pids").replace('\n', " ")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_started_at_the_same_moment_does_not_inherit_the_lock() {
    const EACH: usize = 8;
    let scripts = Scripts::new();
    scripts.plugin("short", "echo '{}'");
    scripts.plugin(
        "long",
        "sleep 300 >/dev/null 2>&1 & echo $! >> $D/pids; echo '{}'",
    );
    let runtime = scripts.runtime(LIMIT);
    let file = |kind: &str, number| scripts.file(&format!("locks/{kind}-{number}"));
    let mut runs = tokio::task::JoinSet::new();
    for (number, kind) in (0..EACH).flat_map(|number| [(number, "short"), (number, "long")]) {
        let (runtime, file) = (runtime.clone(), file(kind, number));
        runs.spawn(async move {
            let lock = OperationLock::acquire(file, LIMIT).await.unwrap();
            let list = list("1.0.0", &[json!({"type": kind})]);
            runtime.add(&list, &args(), Some(&lock)).await.unwrap();
        });
    }
    runs.join_all().await;
    let inherited = locks_of(&scripts.text("pids"));
    let own = (0..EACH).map(|number| format!("long-{number} (deleted)"));
    assert_eq!(inherited, own.collect::<Vec<_>>());
    common::shell(&format!("kill {}", scripts.text("pids").replace('\n', " ")));
}

/// Not a test of its own: the daemon that the next test kills.
#[tokio::test]
async fn daemon_to_be_killed() {
    let Ok(dir) = std::env::var("CIRCUIT_TEST_DAEMON") else {
        return;
    };
    let dir = Path::new(&dir);
    let lock = OperationLock::acquire(dir.join("lock"), LIMIT)
        .await
        .unwrap();
    let runtime = CniRuntime::new(PluginPath::new([dir]), LIMIT);
    let list = list("1.0.0", &[json!({"type": "it"})]);
    let _ = runtime.add(&list, &args(), Some(&lock)).await;
}

#[tokio::test]
async fn a_killed_daemons_plugins_still_hold_the_lock() {
    let scripts = Scripts::new();
    // The plugin's child inherits the lock, too, and outlives it.
    scripts.plugin(
        "it",
        "echo $$ > $D/leader; sleep 300 & echo $! > $D/pid; wait",
    );
    let dir = scripts.file("");
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon_to_be_killed"])
        .env("CIRCUIT_TEST_DAEMON", &dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the plugin runs", || !scripts.text("pid").trim().is_empty()).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    let leader = scripts.text("leader").trim().to_owned();
    common::shell(&format!("kill -9 {leader}"));
    eventually("the plugin has ended", || !is_running(&leader)).await;
    let file = dir.join("lock");
    let error = OperationLock::acquire(&file, Duration::from_millis(100))
        .await
        .unwrap_err();
    let pid = scripts.text("pid").trim().to_owned();
    assert!(
        error.message().contains(&format!("(processes {pid}")),
        "{error}"
    );
    common::shell(&format!("kill -9 {pid}"));
    OperationLock::acquire(&file, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_lock_file_that_was_replaced_guards_nothing() {
    let scripts = Scripts::new();
    let file = scripts.file("lock");
    let _old = OperationLock::acquire(&file, LIMIT).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    let new = OperationLock::acquire(&file, LIMIT).await.unwrap();
    assert_eq!(new.path(), file);
    assert!(OperationLock::try_acquire(&file).unwrap().is_none());
}

#[tokio::test]
async fn wrong_arguments_are_refused_before_anything_runs() {
    let scripts = Scripts::new();
    scripts.recorder("it");
    let runtime = scripts.runtime(LIMIT);
    let list = list("1.0.0", &[json!({"type": "it"})]);
    let refuse = async |change: fn(&mut AttachmentArgs)| {
        let mut args = args();
        change(&mut args);
        let failed = runtime.add(&list, &args, None).await.unwrap_err();
        assert!(!failed.cleanup_owed);
        assert_eq!(failed.error.kind(), ErrorKind::InvalidArgument, "{failed}");
    };
    refuse(|args| args.container_id.clear()).await;
    refuse(|args| args.container_id = "../x".to_owned()).await;
    refuse(|args| args.ifname.clear()).await;
    refuse(|args| args.ifname = "a/b".to_owned()).await;
    refuse(|args| args.ifname = "sixteen-letters-".to_owned()).await;
    refuse(|args| args.netns = None).await;
    refuse(|args| args.cni_args = vec![("A".to_owned(), "1;B=2".to_owned())]).await;
    assert_eq!(scripts.text("log"), "");
}

#[tokio::test]
async fn a_file_that_is_no_program_is_a_clear_error() {
    let scripts = Scripts::new();
    scripts.plugin("it", "true");
    std::fs::write(scripts.file("it"), b"\x7fELFnonsense").unwrap();
    let failed = add_error(&scripts.runtime(LIMIT)).await;
    assert!(!failed.cleanup_owed);
    assert_eq!(failed.error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        failed.to_string().contains("cannot run cni plugin"),
        "{failed}"
    );
}

#[tokio::test]
async fn a_plugin_is_asked_for_its_versions_once_until_it_is_replaced() {
    let scripts = Scripts::new();
    scripts.recorder("it");
    let runtime = scripts.runtime(LIMIT);
    runtime.versions("it").await.unwrap();
    runtime.versions("it").await.unwrap();
    assert_eq!(scripts.text("log"), "it VERSION\n");
    std::fs::remove_file(scripts.file("it")).unwrap();
    scripts.plugin("it", r#"echo '{"supportedVersions":["0.1.0"]}'"#);
    assert!(
        runtime
            .versions("it")
            .await
            .unwrap()
            .iter()
            .all(|v| !v.is_supported())
    );
    scripts.plugin("mute", "echo '{}'");
    let error = runtime.versions("mute").await.unwrap_err();
    assert!(
        error.to_string().contains("no supportedVersions"),
        "{error}"
    );
}

#[tokio::test]
async fn address_management_speaks_the_lists_version_too() {
    let scripts = Scripts::new();
    let spoken = r#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}"#;
    scripts.plugin("theirs", &format!("echo '{spoken}'"));
    scripts.recorder("it");
    let runtime = scripts.runtime(LIMIT).on(DataPath::Auto);
    for kind in ["bridge", "it"] {
        let plugin = json!({"type": kind, "ipam": {"type": "theirs"}});
        let both = json!({"cniVersions": ["1.0.0", "1.1.0"], "name": "n", "plugins": [plugin]});
        let version = runtime.probe(&list_with(both)).await.unwrap();
        assert_eq!(version, CniVersion::V1_0_0, "{kind}");
        let error = runtime.probe(&list("1.1.0", &[plugin])).await.unwrap_err();
        let told = "cni plugin theirs speaks 0.4.0, 1.0.0, not 1.1.0";
        assert!(error.message().contains(told), "{kind}: {error}");
    }
}

#[tokio::test]
async fn the_list_is_spoken_as_the_attachment_was_made() {
    let scripts = Scripts::new();
    scripts.recorder("it");
    let runtime = scripts.runtime(LIMIT);
    let list = list_with(
        json!({"cniVersion": "0.4.0", "cniVersions": ["1.1.0"], "name": "n",
                                "plugins": [{"type": "it"}]}),
    );
    let made = json!({"cniVersion": "0.4.0", "ips": []});
    runtime
        .del(&list, &args(), Some(&made), None)
        .await
        .unwrap();
    assert_eq!(scripts.json("it.DEL.json")["cniVersion"], "0.4.0");
    runtime.del(&list, &args(), None, None).await.unwrap();
    assert_eq!(scripts.json("it.DEL.json")["cniVersion"], "1.1.0");
    // A record from before the network was changed is turned into the new version.
    let older = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.2/8"}]});
    runtime
        .del(&list, &args(), Some(&older), None)
        .await
        .unwrap();
    let prev = &scripts.json("it.DEL.json")["prevResult"];
    assert_eq!(
        (&prev["cniVersion"], &prev["ips"][0]),
        (&json!("1.1.0"), &json!({"address": "10.0.0.2/8"}))
    );
}
