//! What nerdctl notes in the containers that it makes, and CRI for its pods: the name
//! that people gave, that somebody stopped it, a `resolv.conf` for it alone.

use std::{fs, path::PathBuf, thread, time::Duration};

use circuit_testing::{PATIENCE, TestNode, wait_until};

use crate::support::{DNS, NETWORK, RESTART, assert_names, error_of, said, wait_for_problem};

/// As long as nerdctl's.
const ID: &str = "0f4c3c2b9d0a7e6f5544332211ffeeddccbbaa99887766554433221100aabbcc";
const STOPPED: &str = "containerd.io/restart.explicitly-stopped";
const ITS_OWN: &str = "nameserver 203.0.113.5\nsearch corp.example\n";

fn node() -> TestNode {
    let node = crate::node().start();
    let create = ["network", "create", "web", "--subnet", "10.88.0.0/24"];
    node.circuit(&create).ok();
    node
}

#[test]
fn the_name_that_people_gave_is_one_for_dns() {
    let node = node();
    let name = ("nerdctl/name", "shop");
    let labels = [
        (NETWORK, "web"),
        name,
        ("io.circuit.network.web.aliases", "db"),
    ];
    node.run_container(ID, &labels, &[]);
    node.wait_for_addresses(ID);
    let asked = |name: &str| node.circuit(&["dns", "query", name]).ok();
    for known in ["shop.web", "db.web", "shop.circuit.internal"] {
        wait_until(known, PATIENCE, || asked(known).contains("10.88.0.2"));
    }
    // By hand too, and what is asked for then is beside it.
    node.run_container("other", &[("nerdctl/name", "till")], &[]);
    let connect = ["network", "connect", "other", "web", "--alias", "pay"];
    node.circuit(&connect).ok();
    for known in ["till.web", "pay.web", "other.web"] {
        wait_until(known, PATIENCE, || asked(known).contains("10.88.0.3"));
    }
    node.remove_container(ID);
    node.remove_container("other");
    node.assert_nothing_left();
}

#[test]
fn containers_are_acted_on_by_what_people_call_them() {
    let node = node();
    node.run_container(ID, &[("nerdctl/name", "shop")], &[]);
    node.run_container("other", &[("nerdctl/name", "till")], &[]);
    for called in ["shop", &ID[..12], ID] {
        node.circuit(&["network", "connect", called, "web"]).ok();
        assert_eq!(node.addresses(ID).len(), 1, "{called}");
        node.circuit(&["network", "disconnect", called, "web"]).ok();
        assert_eq!(node.addresses(ID).len(), 0, "{called}");
    }
    node.circuit(&["container", "stop", "-t", "1s", "shop"])
        .ok();
    assert_eq!(node.task_pid(ID), None);
    node.circuit(&["container", "start", "shop"]).ok();
    node.circuit(&["container", "restart", "-t", "1s", &ID[..16]])
        .ok();
    assert!(node.task_pid(ID).is_some());
    // A network that is not there is no reason to look for another container.
    let error = error_of(node.circuit(&["network", "connect", "shop", "nowhere"]));
    assert_names(&error, &["nowhere"]);
    let error = error_of(node.circuit(&["network", "connect", "sho", "web"]));
    assert_names(&error, &["sho", "ctr containers list"]);
    node.run_container("more", &[("nerdctl/name", "till")], &[]);
    let error = error_of(node.circuit(&["network", "connect", "till", "web"]));
    assert_names(&error, &["several", "more", "other"]);
    for container in [ID, "other", "more"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

#[test]
fn a_stop_that_another_program_noted_holds() {
    let node = node();
    node.run_container("web", &[(NETWORK, "web"), (RESTART, "always")], &[]);
    node.wait_for_addresses("web");
    let note = |stopped: &str| {
        let label = format!("{STOPPED}={stopped}");
        node.ctr(&["container", "label", "web", &label]).ok();
    };
    let stays = || {
        thread::sleep(Duration::from_secs(2));
        assert_eq!(node.task_pid("web"), None);
    };
    // As `nerdctl stop` does.
    note("true");
    node.kill_task("web");
    stays();
    let shown = || node.circuit(&["ps", "--all"]).ok();
    assert_names(&shown(), &["always, stopped"]);
    node.kill_daemon();
    node.start_daemon();
    stays();
    // As `nerdctl start` does.
    note("false");
    let task = || {
        wait_until("a task", PATIENCE, || node.task_pid("web").is_some());
        node.task_pid("web").unwrap()
    };
    task();
    note("true");
    node.kill_task("web");
    stays();
    // Who starts it here ends the rest, for others as well.
    node.circuit(&["container", "start", "web"]).ok();
    let info = node.container_info("web");
    assert_eq!(info["Labels"][STOPPED], "false", "{info}");
    let pid = task();
    assert!(!shown().contains("stopped"), "{}", shown());
    node.kill_task("web");
    node.wait_for_new_task("web", pid);
    node.remove_container("web");
    node.assert_nothing_left();
}

/// A `resolv.conf` of the host's in a folder of that name, and its mount for `ctr`.
fn file_in_a_folder_of(node: &TestNode, name: &str) -> (PathBuf, String) {
    let folder = node.folder().join("files").join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("resolv.conf");
    fs::write(&file, ITS_OWN).unwrap();
    let shown = file.display();
    let mount = format!("type=bind,src={shown},dst=/etc/resolv.conf,options=rbind:ro");
    (file, mount)
}

#[test]
fn a_resolv_conf_for_the_container_alone_is_written_where_it_is() {
    let node = node();
    let (file, mount) = file_in_a_folder_of(&node, ID);
    let labels = [(NETWORK, "web"), (DNS, "true")];
    // A root that is read-only is in nobody's way.
    node.run_container_with(&["--mount", &mount, "--read-only"], ID, &labels, &[]);
    node.wait_for_addresses(ID);
    let has = |line: &str| {
        wait_until(line, PATIENCE, || {
            fs::read_to_string(&file).unwrap().contains(line)
        });
    };
    has("nameserver 10.88.0.1\n");
    let inside = said(&node, ID, &["cat", "/etc/resolv.conf"]);
    let expected = [
        "nameserver 10.88.0.1",
        "search web.circuit.internal",
        "corp.example",
    ];
    assert_names(&inside, &expected);
    let told = node
        .circuit(&["network", "ips", ID, "--format", "json"])
        .ok();
    assert!(!told.contains("mounted from"), "{told}");
    // Another task has the same file.
    let old = node.task_pid(ID).unwrap();
    node.end_task(ID);
    node.ctr(&["task", "delete", ID]);
    node.start_task(ID);
    node.wait_for_new_task(ID, old);
    node.wait_for_addresses(ID);
    has("nameserver 10.88.0.1\n");
    node.circuit(&["network", "disconnect", ID, "web"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), ITS_OWN);
    node.circuit(&["network", "connect", ID, "web"]).ok();
    has("nameserver 10.88.0.1\n");
    node.remove_container(ID);
    node.assert_nothing_left();
}

/// A container's name may be that of a folder of the host's.
#[test]
fn a_file_in_a_folder_of_the_hosts_is_left_alone() {
    let node = node();
    let (file, mount) = file_in_a_folder_of(&node, "etc");
    let labels = [(NETWORK, "web"), (DNS, "true")];
    node.run_container_with(&["--mount", &mount], "etc", &labels, &[]);
    let told = wait_for_problem(&node, "etc", "");
    assert_names(&told, &["mounted from elsewhere"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), ITS_OWN);
    node.remove_container("etc");
    node.assert_nothing_left();
}
