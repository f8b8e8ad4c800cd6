//! The images that containers run: the machine's static busybox, as OCI archives,
//! made once per test process.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{
    command::host,
    containers::{FOREVER, IMAGE},
    plugins::present,
};

const BUSYBOX: &str = "/bin/busybox";
/// The image of what keeps a pod's namespaces.
pub(crate) const PAUSE: &str = "docker.io/test/pause:latest";

/// Writes the archive of [`IMAGE`] for `ctr image import`.
pub(crate) fn write(folder: &Path) -> PathBuf {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    let archive = ARCHIVE.get_or_init(|| build(IMAGE, &["sh"]));
    written(folder.join("image.tar"), archive)
}

/// The same of [`PAUSE`], which runs until it is killed.
pub(crate) fn write_pause(folder: &Path) -> PathBuf {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    let archive = ARCHIVE.get_or_init(|| build(PAUSE, &FOREVER));
    written(folder.join("pause.tar"), archive)
}

fn written(path: PathBuf, archive: &[u8]) -> PathBuf {
    fs::write(&path, archive).expect("a file in the node's folder");
    path
}

struct Archive(Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn folder(&mut self, path: &str) {
        let mut header = header(EntryType::Directory, 0o755, 0);
        self.0
            .append_data(&mut header, path, &[][..])
            .expect("memory");
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        let mut header = header(EntryType::Regular, mode, data.len());
        self.0.append_data(&mut header, path, data).expect("memory");
    }

    fn link(&mut self, path: &str, target: &str) {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.0
            .append_link(&mut header, path, target)
            .expect("memory");
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = self.0.into_inner().expect("memory");
        bytes.flush().expect("memory");
        bytes
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

fn layer() -> Vec<u8> {
    present(Path::new(BUSYBOX));
    let mut layer = Archive::new();
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        layer.folder(folder);
    }
    layer.file("bin/busybox", 0o755, &fs::read(BUSYBOX).expect("busybox"));
    for applet in host(BUSYBOX, &["--list"])
        .ok()
        .lines()
        .filter(|name| *name != "busybox")
    {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer.finish()
}

/// Adds a blob and returns its descriptor.
fn blob(archive: &mut Archive, media_type: &str, data: &[u8]) -> serde_json::Value {
    let hash: String = Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    archive.file(&format!("blobs/sha256/{hash}"), 0o644, data);
    json!({ "mediaType": media_type, "digest": format!("sha256:{hash}"), "size": data.len() })
}

/// An image of that name, which runs this command unless told otherwise.
fn build(name: &str, command: &[&str]) -> Vec<u8> {
    let mut archive = Archive::new();
    let layer = blob(
        &mut archive,
        "application/vnd.oci.image.layer.v1.tar",
        layer().as_slice(),
    );
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob(
        &mut archive,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer],
    });
    let mut manifest = blob(&mut archive, manifest_type, manifest.to_string().as_bytes());
    manifest["annotations"] = json!({
        "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest",
    });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    archive.file("index.json", 0o644, index.to_string().as_bytes());
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.finish()
}
