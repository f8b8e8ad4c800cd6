//! Definitions that are moved between the daemon and a folder.

use circuit_core::service::Problem;

use crate::fake::Server;
use crate::run;

const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"web","plugins":[{"type":"bridge"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_file_keeps_no_other_from_being_pushed() {
    let server = Server::start().await;
    let at = &server.target();
    let dir = tempfile::tempdir().unwrap();
    for name in ["_odd", "a b", "web"] {
        std::fs::write(dir.path().join(format!("{name}.json")), CONFIG).unwrap();
    }
    let from = dir.path().to_str().unwrap();
    let pushed = run(at, &["network", "push", "--from", from]).await;
    assert_eq!((pushed.code, &*pushed.stdout), (1, "pushed web\n"));
    for name in ["_odd", "a b"] {
        assert!(pushed.stderr.contains(name), "{}", pushed.stderr);
    }
    assert_eq!(server.world.calls(), ["create web force=false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_by_pull() {
    let server = Server::start().await;
    let at = &server.target();
    let problem = |network: &str, message: &str| Problem {
        network: network.into(),
        message: message.into(),
        ..Problem::default()
    };
    server.world.problems.lock().unwrap().extend([
        problem("bad", "/store/bad.json: not valid json"),
        problem("web", "/store/web.json: it calls itself \"x\""),
    ]);
    let networks = || server.world.networks.lock().unwrap();
    networks().insert("web".into(), CONFIG.into());
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().to_str().unwrap();
    let pull = ["network", "pull", "--to", to];
    let pulled = run(at, &pull).await;
    assert_eq!((pulled.code, &*pulled.stdout), (1, "pulled web\n"));
    assert!(
        pulled.stderr.contains("error: /store/bad.json: not valid"),
        "{}",
        pulled.stderr
    );
    assert!(pulled.stderr.contains("warning: "), "{}", pulled.stderr);
    // It is there, and could not be read.
    let bad = run(at, &[&pull[..], &["bad"]].concat()).await;
    assert_eq!(bad.code, 1);
    assert!(!bad.stderr.contains("does not exist"), "{}", bad.stderr);
    let web = run(at, &[&pull[..], &["web"]].concat()).await;
    assert_eq!(web.code, 0, "{}", web.stderr);
}
