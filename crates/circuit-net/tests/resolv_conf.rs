//! The `/etc/resolv.conf` of containers that run, against the kernel. A
//! container is a process in a mount namespace of its own, with a root that was
//! a folder of the test's; nothing here writes to the machine's `/etc`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[path = "common/exchange.rs"]
mod exchange;
#[path = "common/stage.rs"]
mod stage;

use circuit_core::resolver::{Bytes, Place, Present};
use circuit_core::{Error, ErrorKind, Result};
use circuit_net::resolv_conf::{self, MAX_LENGTH, Restored};
use exchange::exchanging;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use stage::{Container, Stage, names};

const OURS: &str = "nameserver 10.255.0.1\noptions ndots:0\n";
const NEXT: &str = ".resolv.conf.circuit";

fn place(pid: u32) -> Place {
    Place {
        pid,
        own_file: None,
    }
}

fn read(pid: u32) -> Result<Present> {
    resolv_conf::read(&place(pid))
}

fn replace(pid: u32, text: &str) -> Result<Present> {
    resolv_conf::replace(&place(pid), text)
}

fn restore(pid: u32, original: &Present, ours: &str) -> Result<Restored> {
    resolv_conf::restore(&place(pid), original, ours)
}

/// Asserts that an error is of the kind, names what it is about and the remedy.
fn assert_refused(error: &Error, words: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    for word in words.iter().chain(&["the container's /etc"]) {
        assert!(error.message().contains(word), "{word} is not in: {error}");
    }
}

/// Asserts that all is refused, and that a restore leaves it as it is.
fn assert_all_refused(stage: &Stage, container: &Container, words: &[&str]) {
    assert_refused(&read(container.pid()).unwrap_err(), words);
    assert_refused(&replace(container.pid(), OURS).unwrap_err(), words);
    assert_eq!(
        restore(container.pid(), &Present::Missing, OURS).unwrap(),
        Restored::Changed
    );
    stage.assert_no_leftover();
    stage.assert_host_is_untouched();
}

#[test]
fn a_file_is_replaced_and_comes_back_to_the_byte() {
    let (stage, all) = (Stage::new(), (0..=255).collect::<Vec<u8>>());
    let file = stage.resolv_conf();
    fs::write(&file, &all).unwrap();
    chown(&file, Some(12), Some(34)).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o4640)).unwrap();
    chown(stage.path("root/etc"), Some(56), Some(78)).unwrap();
    let container = stage.start();

    let original = replace(container.pid(), OURS).unwrap();
    let expected = Present::File {
        content: Bytes(all.clone()),
        mode: 0o4640,
        uid: 12,
        gid: 34,
    };
    assert_eq!(original, expected);
    assert_eq!(container.sees(), OURS);
    let meta = file.symlink_metadata().unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o644, 56, 78)
    );

    let again = replace(container.pid(), OURS).unwrap();
    assert!(again.is(OURS) && read(container.pid()).unwrap().is(OURS));
    assert_eq!(
        file.symlink_metadata().unwrap().ino(),
        meta.ino(),
        "the same text is not written again"
    );

    for _ in 0..2 {
        assert_eq!(
            restore(container.pid(), &original, OURS).unwrap(),
            Restored::Done
        );
        assert_eq!(fs::read(&file).unwrap(), all);
        let meta = file.symlink_metadata().unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            (0o4640, 12, 34)
        );
        assert_eq!(read(container.pid()).unwrap(), expected);
    }
    stage.assert_no_leftover();
}

#[test]
fn where_nothing_was_nothing_is_left() {
    let stage = Stage::new();
    let container = stage.start();
    assert_eq!(read(container.pid()).unwrap(), Present::Missing);
    let original = replace(container.pid(), OURS).unwrap();
    assert_eq!(original, Present::Missing);
    assert_eq!(container.sees(), OURS);
    for _ in 0..2 {
        assert_eq!(
            restore(container.pid(), &original, OURS).unwrap(),
            Restored::Done
        );
        assert_eq!(names(&stage.path("root/etc")), [""; 0]);
    }
}

#[test]
fn a_link_is_replaced_itself_wherever_it_leads() {
    let stage = Stage::new();
    let sentinel = stage.sentinel();
    let up = "../".repeat(30);
    fs::write(stage.etc("other"), "another\n").unwrap();
    let targets = [
        "other".to_owned(),
        "/etc/other".to_owned(),
        "../run/systemd/nowhere".to_owned(),
        "resolv.conf".to_owned(),
        sentinel.display().to_string(),
        format!("{up}{}", sentinel.strip_prefix("/").unwrap().display()),
        "/proc/self/fd/1".to_owned(),
    ];
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n");
    let targets = targets.iter().map(|t| t.as_ref()).chain([odd]);
    let container = stage.start();
    for target in targets {
        symlink(target, stage.resolv_conf()).unwrap();
        let original = replace(container.pid(), OURS).unwrap();
        let expected = Bytes(target.as_bytes().to_vec());
        assert_eq!(original, Present::Link { target: expected });
        assert!(stage.resolv_conf().symlink_metadata().unwrap().is_file());
        assert_eq!(container.sees(), OURS);
        for _ in 0..2 {
            assert_eq!(
                restore(container.pid(), &original, OURS).unwrap(),
                Restored::Done
            );
            assert_eq!(fs::read_link(stage.resolv_conf()).unwrap(), target);
        }
        fs::remove_file(stage.resolv_conf()).unwrap();
    }
    assert_eq!(fs::read_to_string(stage.etc("other")).unwrap(), "another\n");
    stage.assert_no_leftover();
    stage.assert_host_is_untouched();
}

#[test]
fn what_was_changed_since_is_left_alone() {
    let stage = Stage::new();
    let file = stage.resolv_conf();
    fs::write(&file, "before\n").unwrap();
    let container = stage.start();
    let original = replace(container.pid(), OURS).unwrap();
    let changed = || restore(container.pid(), &original, OURS).unwrap();

    fs::write(&file, format!("{OURS}# mine\n")).unwrap();
    assert_eq!(changed(), Restored::Changed);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("{OURS}# mine\n")
    );

    fs::write(&file, vec![b'#'; MAX_LENGTH + 1]).unwrap();
    assert_eq!(changed(), Restored::Changed);

    fs::remove_file(&file).unwrap();
    assert_eq!(changed(), Restored::Changed);
    assert_eq!(names(&stage.path("root/etc")), [""; 0]);

    fs::write(stage.etc("same"), OURS).unwrap();
    symlink("same", &file).unwrap();
    assert_eq!(changed(), Restored::Changed);
    assert_eq!(fs::read_link(&file).unwrap(), Path::new("same"));

    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(changed(), Restored::Changed);
    assert!(file.is_dir());

    // Other permissions do not make the text another's.
    fs::remove_dir(&file).unwrap();
    fs::write(&file, OURS).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(changed(), Restored::Done);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\n");
}

#[test]
fn what_is_no_file_is_refused_and_named() {
    for (make, word) in [
        ("mkfifo $F", "a pipe"),
        ("mkdir $F", "a directory"),
        ("mknod $F c 1 5", "a device"),
    ] {
        let stage = Stage::new();
        let path = stage.resolv_conf();
        let mut shell = Command::new("sh");
        let made = shell.args(["-c", make]).env("F", &path).status();
        assert!(made.unwrap().success(), "{make}");
        let before = path.symlink_metadata().unwrap();
        let container = stage.start();
        assert_all_refused(&stage, &container, &["/etc/resolv.conf", word, "label"]);
        let after = path.symlink_metadata().unwrap();
        assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    }
}

#[test]
fn too_much_is_refused_both_ways() {
    let stage = Stage::new();
    let container = stage.start();
    let much = "#".repeat(MAX_LENGTH + 1);
    let error = replace(container.pid(), &much).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(read(container.pid()).unwrap(), Present::Missing);

    fs::write(stage.resolv_conf(), &much).unwrap();
    assert_all_refused(&stage, &container, &["more than 65536 bytes", "label"]);
    fs::write(stage.resolv_conf(), &much[1..]).unwrap();
    let original = replace(container.pid(), OURS).unwrap();
    assert!(original.is(&much[1..]));
}

#[test]
fn a_mounted_file_is_refused() {
    let stage = Stage::new();
    fs::write(stage.resolv_conf(), "below\n").unwrap();
    let setup = "mount --bind $H/etc/resolv.conf $R/etc/resolv.conf";
    let container = stage.start_with(setup, "");
    let words = [
        "/etc/resolv.conf is mounted from elsewhere",
        "leave the mount out",
    ];
    assert_all_refused(&stage, &container, &words);
    assert_eq!(container.sees(), "the host's\n", "it is mounted still");
    assert_eq!(fs::read_to_string(stage.resolv_conf()).unwrap(), "below\n");
}

#[test]
fn a_file_of_the_same_file_system_mounted_over_it_is_refused_too() {
    let stage = Stage::new();
    fs::write(stage.resolv_conf(), "below\n").unwrap();
    fs::write(stage.etc("other"), "another\n").unwrap();
    let setup = "mount --bind $R/etc/other $R/etc/resolv.conf";
    let container = stage.start_with(setup, "");
    assert_all_refused(&stage, &container, &["mounted from elsewhere"]);
    assert_eq!(container.sees(), "another\n");
}

#[test]
fn a_mounted_etc_is_refused() {
    for setup in ["mount -t tmpfs none $R/etc", "mount --bind $H/etc $R/etc"] {
        let stage = Stage::new();
        let container = stage.start_with(setup, "");
        assert_all_refused(&stage, &container, &["/etc is mounted from elsewhere"]);
        assert_eq!(names(&stage.path("root/etc")), [""; 0]);
    }
}

#[test]
fn an_etc_that_is_no_directory_is_refused() {
    let stage = Stage::new();
    let (etc, host) = (stage.path("root/etc"), stage.path("host/etc"));
    let up = "../".repeat(30);
    fs::remove_dir(&etc).unwrap();
    let container = stage.start();
    assert_all_refused(
        &stage,
        &container,
        &["/etc does not exist", "make it", "label"],
    );

    for target in [
        host.display().to_string(),
        format!("{up}{}", host.strip_prefix("/").unwrap().display()),
        "data".to_owned(),
        "/proc/1/root/etc".to_owned(),
    ] {
        symlink(&target, &etc).unwrap();
        assert_all_refused(
            &stage,
            &container,
            &["/etc is a symbolic link", "make it", "label"],
        );
        fs::remove_file(&etc).unwrap();
    }
    assert_eq!(names(&stage.path("root/data")), [""; 0]);

    fs::write(&etc, "").unwrap();
    let error = replace(container.pid(), OURS).unwrap_err();
    assert_refused(&error, &["no directory", "make it a directory"]);
}

#[test]
fn a_read_only_root_is_refused() {
    let stage = Stage::new();
    fs::write(stage.resolv_conf(), "before\n").unwrap();
    let container = stage.start_with("mount -o remount,ro,bind $R", "");
    assert!(read(container.pid()).unwrap().is("before\n"));
    let error = replace(container.pid(), OURS).unwrap_err();
    assert_refused(&error, &["the root file system is read-only", "label"]);
    assert!(read(container.pid()).unwrap().is("before\n"));

    fs::write(stage.resolv_conf(), OURS).unwrap();
    let error = restore(container.pid(), &Present::Missing, OURS).unwrap_err();
    assert_refused(&error, &["the root file system is read-only"]);
    stage.assert_no_leftover();
}

/// Runs a test on a thread whose `/etc` is a copy, in mounts of its own.
fn on_host_with_etc(etc: PathBuf, body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("tests run as root");
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        mount(Some(&etc), "/etc", none, MsFlags::MS_BIND, none).unwrap();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_hosts_root_is_refused() {
    let stage = Stage::new();
    let copy = stage.path("host/etc");
    on_host_with_etc(copy, move || {
        // In the host's mounts, in a copy of them, and with another root in them.
        let wait = "echo ready; exec sleep 300";
        let root = stage.path("root");
        let mut chrooted = Command::new("unshare");
        chrooted.args(["--mount", "chroot"]).arg(root);
        chrooted.args(["/busybox", "sh", "-c"]);
        chrooted.arg(wait.replace("sleep", "/busybox sleep"));
        for command in [
            Command::new("sh").args(["-c", wait]),
            Command::new("unshare").args(["--mount", "sh", "-c", wait]),
            &mut chrooted,
        ] {
            let container = Container::new(command);
            assert_all_refused(&stage, &container, &["the host's own", "label"]);
        }
        assert_eq!(names(&stage.path("root/etc")), [""; 0]);
    });
}

#[test]
fn the_hosts_etc_below_another_root_is_refused() {
    let stage = Stage::new();
    let etc = stage.path("root/etc");
    fs::write(stage.resolv_conf(), "the machine's\n").unwrap();
    on_host_with_etc(etc, move || {
        let container = stage.start();
        assert_all_refused(&stage, &container, &["the container's /etc is the host's"]);
        assert_eq!(
            fs::read_to_string("/etc/resolv.conf").unwrap(),
            "the machine's\n"
        );
    });
}

#[test]
fn a_process_that_leads_its_root_elsewhere_leads_nobody() {
    let stage = Stage::new();
    let setup = "mount --bind $H $R/data";
    let container = stage.start_with(setup, "/busybox chroot /data");
    let seen = format!("/proc/{}/root/etc/resolv.conf", container.pid());
    assert_eq!(fs::read_to_string(&seen).unwrap(), "the host's\n");

    assert_eq!(replace(container.pid(), OURS).unwrap(), Present::Missing);
    assert_eq!(fs::read_to_string(stage.resolv_conf()).unwrap(), OURS);
    stage.assert_host_is_untouched();
    let done = restore(container.pid(), &Present::Missing, OURS).unwrap();
    assert_eq!(done, Restored::Done);
    stage.assert_host_is_untouched();
}

#[test]
fn mounts_of_the_processs_own_making_are_refused() {
    let stage = Stage::new();
    // As anybody may in a container: no capability is needed for it.
    let inside = "/busybox unshare --user --mount";
    let container = stage.start_with("mount --bind $H $R/data", inside);
    assert_refused(
        &replace(container.pid(), OURS).unwrap_err(),
        &["mounts of its own making", "label"],
    );
    let done = restore(container.pid(), &Present::Missing, OURS).unwrap();
    assert_eq!(done, Restored::Changed);
    assert_eq!(names(&stage.path("root/etc")), [""; 0]);
}

#[test]
fn a_container_in_a_user_namespace_of_the_runtimes_is_served() {
    let stage = Stage::new();
    let script = "mount --bind $R $R; cd $R; pivot_root . old; \
                  exec /busybox sh -c 'echo ready; exec /busybox sleep 300'";
    // With --fork the pid namespace is the first process's own, as runc makes it.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork"]);
    command
        .args(["sh", "-ec", script])
        .env("R", stage.path("root"));
    let container = Container::new(&mut command);
    let children = format!("/proc/{0}/task/{0}/children", container.pid());
    let first: u32 = fs::read_to_string(children)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let done = replace(first, OURS);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.try_into().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert_eq!(done.unwrap(), Present::Missing);
    assert_eq!(fs::read_to_string(stage.resolv_conf()).unwrap(), OURS);
}

#[test]
fn a_root_that_was_moved_over_the_old_one_is_found() {
    let stage = Stage::new();
    // What runc does without pivot_root, on a machine that runs from memory.
    let script = "mount --bind $R $R; cd $R; mount --move . /; \
                  exec chroot . /busybox sh -c 'echo ready; exec /busybox sleep 300'";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-ec", script])
        .env("R", stage.path("root"));
    let container = Container::new(&mut command);
    assert_eq!(replace(container.pid(), OURS).unwrap(), Present::Missing);
    assert_eq!(fs::read_to_string(stage.resolv_conf()).unwrap(), OURS);
}

#[test]
fn what_a_crash_left_or_somebody_laid_in_the_way_is_removed() {
    let stage = Stage::new();
    let (next, file) = (stage.etc(NEXT), stage.resolv_conf());
    fs::write(&file, "before\n").unwrap();
    let container = stage.start();
    let lay: [&dyn Fn(); 3] = [
        &|| fs::write(&next, "half of it").unwrap(),
        &|| symlink(stage.sentinel(), &next).unwrap(),
        &|| fs::create_dir(&next).unwrap(),
    ];
    for lay in lay {
        lay();
        let original = replace(container.pid(), OURS).unwrap();
        assert!(original.is("before\n"));
        assert_eq!(fs::read_to_string(&file).unwrap(), OURS);
        stage.assert_no_leftover();
        lay();
        restore(container.pid(), &original, OURS).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "before\n");
        stage.assert_no_leftover();
    }
    stage.assert_host_is_untouched();

    fs::create_dir_all(next.join("full")).unwrap();
    let error = replace(container.pid(), OURS).unwrap_err();
    assert_refused(&error, &[NEXT, "in the way", "remove it"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\n");
}

#[test]
fn a_process_that_is_gone_is_told_from_all_else() {
    let stage = Stage::new();
    let mut container = stage.start();
    let pid = container.pid();
    let not_found = || {
        let errors = [
            read(pid).unwrap_err(),
            replace(pid, OURS).unwrap_err(),
            restore(pid, &Present::Missing, OURS).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.message().contains(&pid.to_string()), "{error}");
        }
    };
    container.0.kill().unwrap();
    // It has ended when its output has; nobody has reaped it yet.
    let mut rest = String::new();
    let out = container.0.stdout.as_mut().unwrap();
    out.read_to_string(&mut rest).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while circuit_net::process::started(pid).is_some() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
    not_found();
    container.0.wait().unwrap();
    not_found();
}

#[test]
fn an_etc_that_is_exchanged_meanwhile_leads_nowhere() {
    let stage = Stage::new();
    let container = stage.start();
    let (etc, link) = (stage.path("root/etc"), stage.path("root/link"));
    symlink(stage.path("host/etc"), &link).unwrap();
    let (mut done, mut refused, mut runs) = (0, 0, 0);
    exchanging(&etc, &link, || {
        let deadline = Instant::now() + Duration::from_secs(20);
        while runs < 300 || done == 0 || refused == 0 {
            assert!(
                Instant::now() < deadline,
                "{runs} runs, {done} done, {refused} refused"
            );
            runs += 1;
            match replace(container.pid(), OURS) {
                Ok(original) => {
                    assert!(original == Present::Missing || original.is(OURS));
                    done += 1;
                }
                Err(e) => {
                    assert_refused(&e, &["symbolic link"]);
                    refused += 1;
                }
            }
            restore(container.pid(), &Present::Missing, OURS).unwrap();
            stage.assert_host_is_untouched();
        }
    });
}

#[test]
fn a_file_that_is_exchanged_meanwhile_leads_nowhere() {
    let stage = Stage::new();
    let container = stage.start();
    let (file, other, next) = (stage.resolv_conf(), stage.etc("other"), stage.etc(NEXT));
    for rival in [&other, &next] {
        // The link may have stayed there.
        let _ = fs::remove_file(&file);
        fs::write(&file, "before\n").unwrap();
        exchanging(&file, rival, || {
            for _ in 0..300 {
                // Whatever is there, it is what a link to the host's becomes.
                let _ = fs::remove_file(rival);
                let _ = symlink(stage.sentinel(), rival);
                for seen in [read(container.pid()), replace(container.pid(), OURS)] {
                    assert!(!seen.is_ok_and(|seen| seen.is("the host's\n")));
                }
                let original = Present::Link {
                    target: Bytes(stage.sentinel().as_os_str().as_bytes().to_vec()),
                };
                let _ = restore(container.pid(), &original, OURS);
                stage.assert_host_is_untouched();
            }
        });
        let _ = fs::remove_file(rival);
    }
}
