//! Commands that the user ends by Ctrl-C.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};

use crate::fake::{Server, World};
use crate::{Ran, circuit};

const MANY: usize = 40;
/// How many connects a command has in flight.
const AT_ONCE: usize = 16;

/// A command that connects many, all of which have begun and none of which ends.
async fn connecting(server: &Server) -> (Child, BufReader<ChildStderr>) {
    let names: Vec<String> = (0..MANY).map(|n| format!("slow{n}")).collect();
    let connect = ["network", "connect", &names.join(","), "ctr0"];
    let mut command = circuit(&server.target(), &connect);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let begun = async {
        while server.world.started.load(Ordering::SeqCst) < AT_ONCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), begun)
        .await
        .expect("they begin");
    (child, stderr)
}

fn press(child: &Child) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
}

async fn noted(stderr: &mut BufReader<ChildStderr>) {
    let mut note = String::new();
    stderr.read_line(&mut note).await.unwrap();
    assert!(note.contains("ending after what runs now"), "{note:?}");
}

/// Lets everything that has begun end, now and later.
fn release(world: Arc<World>) {
    tokio::spawn(async move {
        loop {
            world.go_on.notify_waiters();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

async fn ended(child: Child, mut stderr: BufReader<ChildStderr>) -> Ran {
    let mut ran = Ran::new(child.wait_with_output().await.unwrap());
    tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut ran.stderr)
        .await
        .unwrap();
    ran
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_begun_comes_to_its_end_and_the_rest_is_left() {
    let server = Server::start().await;
    let (child, mut stderr) = connecting(&server).await;
    press(&child);
    noted(&mut stderr).await;
    release(Arc::clone(&server.world));
    let ran = ended(child, stderr).await;
    assert_eq!(
        ran.error(),
        format!(
            "stopped: {} of {MANY} were left as they are",
            MANY - AT_ONCE
        )
    );
    // Nothing has begun that was not told of.
    assert_eq!(ran.stdout.lines().count(), AT_ONCE, "{ran:?}");
    assert_eq!(server.world.started.load(Ordering::SeqCst), AT_ONCE);
    assert_eq!(server.world.finished.load(Ordering::SeqCst), AT_ONCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn pressed_twice_only_the_server_goes_on() {
    let server = Server::start().await;
    let (child, mut stderr) = connecting(&server).await;
    press(&child);
    noted(&mut stderr).await;
    press(&child);
    let ran = ended(child, stderr).await;
    assert_eq!(
        ran.error(),
        "ended at once: the server goes on with what it has begun"
    );
    assert_eq!(ran.stdout, "");
    assert_eq!(server.world.finished.load(Ordering::SeqCst), 0);
    release(Arc::clone(&server.world));
    server.shutdown.cancel();
    server.serving.await.unwrap().unwrap();
    assert_eq!(server.world.finished.load(Ordering::SeqCst), AT_ONCE);
}

/// A command that goes through many things is ended between two of them.
async fn ended_in_the_middle(words: &[&str], error: &str) {
    let server = Server::start().await;
    server.world.lingers.store(true, Ordering::SeqCst);
    let mut command = circuit(&server.target(), words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    // The first have been told, and there will be more.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    let reading = stdout.read_line(&mut first);
    tokio::time::timeout(Duration::from_secs(30), reading)
        .await
        .expect("something is told")
        .unwrap();
    assert_ne!(first, "");
    press(&child);
    noted(&mut stderr).await;
    assert_eq!(ended(child, stderr).await.error(), error);
    // The server stops soon after it has learnt that nobody hears of it.
    release(Arc::clone(&server.world));
    let stopped = async {
        while server.world.finished.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stopped)
        .await
        .expect("the server stops");
    let begun = server.world.started.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.world.started.load(Ordering::SeqCst), begun);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_stops_between_two_networks() {
    let error = "stopped: the remaining networks were left as they are";
    ended_in_the_middle(&["network", "prune"], error).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_stops_between_two_findings() {
    let error = "stopped: the rest was not examined";
    ended_in_the_middle(&["doctor", "--fix"], error).await;
}

/// `top` of a daemon that took its question and does not answer.
async fn unanswered(stdio: impl Fn() -> Stdio) -> (Server, Child) {
    let server = Server::start().await;
    server.world.hangs.store(true, Ordering::SeqCst);
    let mut command = circuit(&server.target(), &["top"]);
    command.stdin(stdio()).stdout(stdio()).stderr(stdio());
    let child = command.spawn().unwrap();
    let asked = server.world.begun.notified();
    tokio::time::timeout(Duration::from_secs(30), asked)
        .await
        .expect("it asks");
    (server, child)
}

/// Long before the question itself is given up.
async fn ends_well(mut child: Child) {
    let ended = tokio::time::timeout(Duration::from_secs(15), child.wait()).await;
    assert!(ended.expect("it ends").unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn top_ends_while_the_daemon_hangs() {
    let (_server, child) = unanswered(Stdio::null).await;
    press(&child);
    ends_well(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_ends_by_its_key_while_the_daemon_hangs() {
    let terminal = openpty(None, None).unwrap();
    let (_server, child) = unanswered(|| terminal.slave.try_clone().unwrap().into()).await;
    nix::unistd::write(&terminal.master, b"q").unwrap();
    ends_well(child).await;
}
