//! Files of the host's that are mounted at the `/etc/resolv.conf` of containers and are
//! their own, as nerdctl and containerd's CRI have them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

#[path = "common/stage.rs"]
mod stage;

use circuit_core::ErrorKind;
use circuit_core::resolver::{Place, Present};
use circuit_net::resolv_conf::{Restored, read, replace, restore};
use stage::{Container, Stage};

const OURS: &str = "# circuit: names\nnameserver 10.88.0.1\n";
const ITS_OWN: &str = "nameserver 192.0.2.53\n";

/// A container that has the file `own` of the host's mounted, read-only for the sake of
/// it.
struct Mounted {
    stage: Stage,
    container: Container,
}

impl Mounted {
    fn new() -> Self {
        let stage = Stage::new();
        fs::write(stage.resolv_conf(), "under the mount\n").unwrap();
        fs::write(stage.path("own"), ITS_OWN).unwrap();
        let own = stage.path("own");
        let own = own.display();
        let setup = format!(
            "mount --bind {own} $R/etc/resolv.conf; mount -o remount,ro,bind $R/etc/resolv.conf"
        );
        let container = stage.start_with(&setup, "");
        Self { stage, container }
    }

    fn own(&self) -> PathBuf {
        self.stage.path("own")
    }

    fn place(&self) -> Place {
        Place {
            pid: self.container.pid(),
            own_file: Some(self.own()),
        }
    }

    fn assert_refused(&self) {
        for refused in [read(&self.place()), replace(&self.place(), OURS)] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
            assert!(
                error.message().contains("mounted from elsewhere"),
                "{error}"
            );
        }
        let done = restore(&self.place(), &Present::Missing, OURS).unwrap();
        assert_eq!(done, Restored::Changed);
        self.stage.assert_host_is_untouched();
    }
}

#[test]
fn its_own_file_is_written_where_it_is_and_put_back() {
    let it = Mounted::new();
    fs::set_permissions(it.own(), PermissionsExt::from_mode(0o640)).unwrap();
    let before = fs::metadata(it.own()).unwrap();
    assert!(read(&it.place()).unwrap().is(ITS_OWN));
    let original = replace(&it.place(), OURS).unwrap();
    assert!(original.is(ITS_OWN));
    assert_eq!(it.container.sees(), OURS);
    // The second time it is ours.
    assert!(replace(&it.place(), OURS).unwrap().is(OURS));
    for _ in 0..2 {
        assert_eq!(
            restore(&it.place(), &original, OURS).unwrap(),
            Restored::Done
        );
        assert_eq!(it.container.sees(), ITS_OWN);
    }
    let after = fs::metadata(it.own()).unwrap();
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
    assert_eq!(
        fs::read_to_string(it.stage.resolv_conf()).unwrap(),
        "under the mount\n"
    );
    it.stage.assert_no_leftover();
}

#[test]
fn what_somebody_changed_since_is_left() {
    let it = Mounted::new();
    let original = replace(&it.place(), OURS).unwrap();
    fs::write(it.own(), "nameserver 192.0.2.9\n").unwrap();
    assert_eq!(
        restore(&it.place(), &original, OURS).unwrap(),
        Restored::Changed
    );
    assert_eq!(it.container.sees(), "nameserver 192.0.2.9\n");
}

#[test]
fn without_a_mount_it_is_the_containers_file() {
    let stage = Stage::new();
    fs::write(stage.path("own"), ITS_OWN).unwrap();
    let container = stage.start();
    let place = Place {
        pid: container.pid(),
        own_file: Some(stage.path("own")),
    };
    assert_eq!(replace(&place, OURS).unwrap(), Present::Missing);
    assert_eq!(container.sees(), OURS);
    assert_eq!(fs::read_to_string(stage.path("own")).unwrap(), ITS_OWN);
}

/// Whoever can put something else in the folder of the file, or mount another file
/// inside, does not make the daemon write there.
#[test]
fn nothing_else_is_written() {
    // A link to the host's in the place of the file.
    let it = Mounted::new();
    fs::remove_file(it.own()).unwrap();
    symlink(it.stage.sentinel(), it.own()).unwrap();
    it.assert_refused();

    // The host's own file under that name.
    fs::remove_file(it.own()).unwrap();
    fs::hard_link(it.stage.sentinel(), it.own()).unwrap();
    it.assert_refused();

    // Nothing, or what would be waited for.
    fs::remove_file(it.own()).unwrap();
    it.assert_refused();
    let made = Command::new("mkfifo").arg(it.own()).status().unwrap();
    assert!(made.success());
    it.assert_refused();

    // A second name of the file itself, which may be in somebody's reach.
    let it = Mounted::new();
    fs::hard_link(it.own(), it.stage.path("second")).unwrap();
    it.assert_refused();
    fs::remove_file(it.stage.path("second")).unwrap();
    assert!(read(&it.place()).is_ok());

    // The host's, mounted over it.
    let it = Mounted::new();
    let file = it.stage.sentinel();
    let over = Command::new("nsenter")
        .args(["-m", "-t", &it.container.pid().to_string(), "--"])
        .args(["/busybox", "mount", "-t", "tmpfs", "none", "/data"])
        .status();
    assert!(over.unwrap().success());
    let inside = "echo theirs > /data/x; /busybox mount -o bind /data/x /etc/resolv.conf";
    let over = Command::new("nsenter")
        .args(["-m", "-t", &it.container.pid().to_string(), "--"])
        .args(["/busybox", "sh", "-c", inside])
        .status();
    assert!(over.unwrap().success());
    it.assert_refused();
    assert_eq!(fs::read_to_string(file).unwrap(), "the host's\n");
    assert_eq!(it.container.sees(), "theirs\n");
}

/// A folder of the host's may be called as a container is.
#[test]
fn what_the_host_itself_has_is_no_containers() {
    let stage = Stage::new();
    fs::write(stage.resolv_conf(), "under the mount\n").unwrap();
    let setup = "mount --bind /etc/resolv.conf $R/etc/resolv.conf";
    let container = stage.start_with(setup, "");
    let place = Place {
        pid: container.pid(),
        own_file: Some("/etc/resolv.conf".into()),
    };
    // Nothing is tried that would write it.
    let error = read(&place).unwrap_err();
    assert!(
        error.message().contains("mounted from elsewhere"),
        "{error}"
    );
}
