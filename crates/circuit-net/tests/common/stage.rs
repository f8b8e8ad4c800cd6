//! Containers for tests of their `/etc/resolv.conf`: processes in mount namespaces of
//! their own, with a root that was a folder of the test's.

#![allow(dead_code, reason = "every test binary uses another part")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const NEXT: &str = ".resolv.conf.circuit";

/// A root, and beside it what of the host's a container must never reach.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let stage = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for folder in ["root/etc", "root/data", "root/old", "host/etc"] {
            fs::create_dir_all(stage.path(folder)).unwrap();
        }
        for root in ["root", "host"] {
            fs::copy("/bin/busybox", stage.path(root).join("busybox")).unwrap();
        }
        fs::write(stage.path("host/etc/resolv.conf"), "the host's\n").unwrap();
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of the root's `/etc`.
    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.path("root/etc").join(name)
    }

    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.etc("resolv.conf")
    }

    /// What of the host's is linked to or mounted.
    pub(crate) fn sentinel(&self) -> PathBuf {
        self.path("host/etc/resolv.conf")
    }

    pub(crate) fn start(&self) -> Container {
        self.start_with("true", "")
    }

    /// `$R` in the setup is the root, `$H` the host's folder; `inside` are the
    /// words before the command that the container runs.
    pub(crate) fn start_with(&self, setup: &str, inside: &str) -> Container {
        let script = format!(
            "set -e; mount --bind $R $R; {setup}; cd $R; pivot_root . old; \
             exec /busybox sh -ec '/busybox umount -l /old; exec {inside} /busybox sh -c \
             \"echo ready; exec /busybox sleep 300\"'"
        );
        Container::new(
            Command::new("unshare")
                .args(["--mount", "sh", "-c", &script])
                .env("R", self.path("root"))
                .env("H", self.path("host")),
        )
    }

    pub(crate) fn assert_host_is_untouched(&self) {
        assert_eq!(names(&self.path("host")), ["busybox", "etc"]);
        assert_eq!(names(&self.path("host/etc")), ["resolv.conf"]);
        let meta = self.sentinel().symlink_metadata().unwrap();
        assert!(meta.is_file());
        assert_eq!(fs::read_to_string(self.sentinel()).unwrap(), "the host's\n");
    }

    pub(crate) fn assert_no_leftover(&self) {
        assert!(self.etc(NEXT).symlink_metadata().is_err(), "{NEXT} is left");
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The first process of a container.
pub(crate) struct Container(pub(crate) Child);

impl Container {
    pub(crate) fn new(command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut container = Self(child);
        let mut word = [0; 6];
        let out = container.0.stdout.as_mut().unwrap();
        out.read_exact(&mut word)
            .expect("the container starts: tests run as root");
        container
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What the container's own programs see.
    pub(crate) fn sees(&self) -> String {
        let output = Command::new("nsenter")
            .args(["-m", "-t", &self.pid().to_string(), "--"])
            .args(["/busybox", "cat", "/etc/resolv.conf"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
