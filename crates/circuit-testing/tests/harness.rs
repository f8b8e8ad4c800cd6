//! Test nodes themselves: they work without a Circuit daemon, see nothing of
//! each other, and leave nothing on the machine.

use std::{fs, path::Path};

use circuit_testing::{Containerd, CoreDns, Lan, PATIENCE, Plugins, TestNode, network, wait_until};

fn bare() -> circuit_testing::NodeBuilder {
    TestNode::builder("/nonexistent/circuit").without_daemon()
}

#[test]
fn two_nodes_run_a_container_of_the_same_name() {
    let (one, other) = (bare().start(), bare().containerd(Containerd::Newer).start());
    for node in [&one, &other] {
        node.run_container("web", &[("who", "me")], &[]);
        assert_eq!(node.exec("web", &["echo", "hello"]).ok(), "hello\n");
        assert_eq!(node.container_info("web")["Labels"]["who"], "me");
        assert_eq!(node.interfaces("web"), []);
    }
    one.remove_container("web");
    assert!(one.task("web").is_none());
    assert!(other.task_pid("web").is_some());
}

#[test]
fn containerd_comes_back_and_finds_its_containers() {
    let node = bare().start();
    node.run_container("web", &[], &[]);
    let pid = node.task_pid("web");
    node.kill_containerd();
    node.start_containerd();
    assert_eq!(node.task_pid("web"), pid);
    node.kill_task("web");
    wait_until("the task stops", circuit_testing::PATIENCE, || {
        node.task_pid("web").is_none()
    });
}

#[test]
fn what_an_attachment_holds_is_seen() {
    for plugins in [Plugins::System, Plugins::Newer] {
        let node = bare().plugins(plugins).uplink().start();
        node.run_container("web", &[], &[]);
        let netns = format!("/proc/{}/ns/net", node.task_pid("web").unwrap());
        let config = network::single_bridge("ctr0", "10.255.0.0/16");
        node.assert_nothing_left();

        node.run_plugin("ADD", &config, "web", &netns, "eth0").ok();
        let left = node.leftovers();
        assert_eq!(left.interfaces.len(), 1, "{left}");
        assert_eq!(left.leases, ["ctr0/10.255.0.2"]);
        assert!(!left.chains.is_empty());
        let interfaces = node.interfaces("web");
        assert_eq!(interfaces[0].addresses, ["10.255.0.2/16"]);
        node.exec("web", &["ping", "-c", "1", "192.0.2.1"]).ok();

        node.run_plugin("DEL", &config, "web", &netns, "eth0").ok();
        node.assert_nothing_left();
    }
}

#[test]
fn the_extension_can_be_written_and_read() {
    let node = bare().start();
    node.run_container("web", &[], &[]);
    assert_eq!(node.extension("web"), None);
    node.set_extension("web", vec![1, 2, 3]);
    let wanted = (circuit_testing::EXTENSION_TYPE.to_owned(), vec![1, 2, 3]);
    assert_eq!(node.extension("web"), Some(wanted));
}

#[test]
fn a_reboot_keeps_disks_and_nothing_else() {
    let mut node = bare().uplink().start();
    node.run_container("web", &[], &[]);
    node.create_container("idle", &[("who", "me")], &["sleep", "1000"]);
    let netns = format!("/proc/{}/ns/net", node.task_pid("web").unwrap());
    let config = network::single_bridge("ctr0", "10.255.0.0/16");
    node.run_plugin("ADD", &config, "web", &netns, "eth0").ok();
    fs::write(node.path("/run/flag"), "").unwrap();

    node.reboot();
    assert!(!node.path("/run/flag").exists());
    assert_eq!(node.leases(), ["ctr0/10.255.0.2"]);
    assert_eq!((node.veths(), node.chains()), (vec![], vec![]));
    assert_eq!((node.task("web"), node.task("idle")), (None, None));
    assert_eq!(node.container_info("idle")["Labels"]["who"], "me");
    node.start_task("idle");
    assert_eq!(node.exec("idle", &["echo", "hello"]).ok(), "hello\n");
    node.run("busybox", &["ping", "-c", "1", "192.0.2.1"]).ok();
}

#[test]
fn nothing_stays_on_the_machine() {
    let node = bare().uplink().start();
    node.run_container("web", &[], &[]);
    let (name, folder) = (node.name().to_owned(), node.folder().to_path_buf());
    drop(node);
    assert!(!folder.exists());
    for namespace in [name.clone(), format!("{name}-outside")] {
        assert!(!Path::new("/run/netns").join(namespace).exists());
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        assert!(
            !hierarchy
                .unwrap()
                .path()
                .join("circuit-test")
                .join(&name)
                .exists()
        );
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&name), "{mounts}");
}

#[test]
fn nodes_on_a_lan_reach_each_other_and_its_redis_unless_they_are_cut_off() {
    let lan = Lan::new();
    let mut redis = lan.redis();
    let node = || bare().lan(&lan);
    let (one, two) = (node().start(), node().start());
    assert_eq!(
        (&*one.address(), &*two.address()),
        ("192.0.2.11", "192.0.2.12")
    );
    let ping =
        |from: &TestNode, to: &str| from.run("busybox", &["ping", "-c1", "-W1", to]).worked();
    let redis_answers = |from: &TestNode| {
        let ask = "exec 3<>/dev/tcp/192.0.2.1/6379 && echo PING >&3 && read -t 1 -r x <&3 && [[ $x == +PONG* ]]";
        from.run("timeout", &["2", "bash", "-c", ask]).worked()
    };
    for (from, to) in [(&one, &two), (&two, &one)] {
        wait_until("the nodes are there", PATIENCE, || {
            ping(from, &to.address())
        });
        assert!(redis_answers(from));
    }
    lan.cut(&one);
    assert!(!ping(&one, &two.address()) && !redis_answers(&one));
    assert!(redis_answers(&two), "the others are not cut off");
    let link = one.run("ip", &["link", "show", "lan0"]).ok();
    assert!(
        link.contains("LOWER_UP"),
        "the cable stays plugged in: {link}"
    );
    lan.mend(&one);
    wait_until("it is back", PATIENCE, || redis_answers(&one));
    redis.kill();
    assert!(!redis_answers(&one));
    redis.come_back();
    assert!(redis_answers(&one));
}

/// Answers for one name, and refuses others.
fn corefile(port: u16) -> String {
    format!("web.test:{port} {{\n hosts {{\n  10.88.0.7 web.test\n }}\n}}\n")
}

#[test]
fn a_stock_coredns_answers_in_a_node_only_and_ends() {
    let (one, other) = (bare().start(), bare().start());
    one.run_container("web", &[], &[]);
    let ask = ["@127.0.0.1", "+time=1", "+tries=1", "+short", "web.test"];
    let coredns = CoreDns::start(&one, &corefile(53), 53);
    assert_eq!(one.dig(&ask).ok(), "10.88.0.7\n");
    let asked = one.exec("web", &["nslookup", "web.test", "127.0.0.1"]);
    assert!(!asked.worked(), "{asked}");
    for nobody in [other.dig(&ask), one.dig_in("web", &ask)] {
        nobody.fails(9);
    }
    assert!(coredns.log().contains("CoreDNS-"), "{}", coredns.log());
    drop(coredns);
    one.dig(&ask).fails(9);
    drop(CoreDns::start(&one, &corefile(53), 53));
}

#[test]
fn a_stock_coredns_answers_on_a_lan() {
    let lan = Lan::new();
    let node = bare().lan(&lan).start();
    let bound = corefile(5353).replacen('{', "{\n bind 192.0.2.1", 1);
    let _coredns = CoreDns::on_lan(&lan, &bound, 5353);
    let ask = ["@192.0.2.1", "-p", "5353", "+short", "web.test"];
    assert_eq!(node.dig(&ask).ok(), "10.88.0.7\n");
}
