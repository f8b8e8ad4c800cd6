//! CNI's other runtimes: containerd's own for CRI, asked by `crictl`, and `cnitool`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    command::Ran,
    containerd::SOCKET,
    holder::Holder,
    image::{self, PAUSE},
    node::TestNode,
    plugins::{cache, present},
};

/// What keeps containerd from serving CRI, in its list of disabled plugins.
pub(crate) const DISABLED: &str = r#"
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime","#;

/// The folders of the runtimes' CNI plugins, and of their networks.
fn folders(dir: &Path) -> [PathBuf; 2] {
    ["cni-bin", "cni-networks"].map(|name| dir.join(name))
}

/// What containerd is told of CRI, in the form that 2.1 reads too.
pub(crate) fn configuration(holder: &Holder) -> String {
    let [plugins, networks] = folders(holder.dir());
    format!(
        r#"[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{}"
  conf_dir = "{}"
"#,
        plugins.display(),
        networks.display()
    )
}

fn tool(name: &str) -> String {
    let program = cache().join("cni-runtimes").join(name);
    present(&program);
    program.to_string_lossy().into_owned()
}

impl TestNode {
    /// Images for containers that are made by CRI.
    pub(crate) fn import_for_cri(&self) {
        for image in [
            image::write(self.folder()),
            image::write_pause(self.folder()),
        ] {
            let image = image.to_string_lossy().into_owned();
            self.ctr(&["--namespace", "k8s.io", "image", "import", &image])
                .ok();
        }
    }

    /// Makes the node's other runtimes of CNI find `circuit` under these names, and
    /// this list as their network.
    ///
    /// # Panics
    /// When the node's folder refuses.
    pub fn give_to_runtimes(&self, types: &[&str], list: &Value) {
        let [plugins, networks] = folders(self.folder());
        for folder in [&plugins, &networks] {
            fs::create_dir_all(folder).expect("a folder in the node's folder");
        }
        for name in types {
            symlink(self.program(), plugins.join(name)).expect("a link in the node's folder");
        }
        let file = networks.join("10-network.conflist");
        fs::write(file, list.to_string()).expect("a file in the node's folder");
    }

    /// Runs `crictl`, on a node with [`cri`](crate::NodeBuilder::cri).
    pub fn crictl(&self, arguments: &[&str]) -> Ran {
        let endpoint = format!("unix://{SOCKET}");
        let at = [
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ];
        self.run(&tool("crictl"), &[&at[..], arguments].concat())
    }

    /// Runs `cnitool`, as it is documented: the operation, the network's name, the
    /// namespace.
    pub fn cnitool(&self, arguments: &[&str]) -> Ran {
        let [plugins, networks] = folders(self.folder()).map(|folder| {
            let folder = folder.to_string_lossy();
            folder.into_owned()
        });
        let environment = [("CNI_PATH", plugins.as_str()), ("NETCONFPATH", &networks)];
        self.run_with(&tool("cnitool"), arguments, &environment, &[])
    }
}
