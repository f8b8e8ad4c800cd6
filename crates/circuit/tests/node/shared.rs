//! Networks that two nodes share by Redis.

use circuit_testing::{PATIENCE, RedisServer, TestNode, network, wait_until};

use crate::support::{assert_names, error_of, json};

fn node(redis: &RedisServer) -> TestNode {
    let url = redis.url();
    crate::node().server(&["--datastore", &url]).start()
}

fn names(node: &TestNode) -> Vec<String> {
    let listing = json(node, &["network", "ls"]);
    let networks = listing["networks"].as_array().unwrap();
    let name = |network: &serde_json::Value| network["name"].as_str().unwrap().to_owned();
    networks.iter().map(name).collect()
}

#[test]
fn a_network_made_on_one_node_is_used_on_the_other() {
    let redis = RedisServer::start();
    let (here, there) = (node(&redis), node(&redis));
    // It waits for its network.
    there.run_container("early", &[("io.circuit.network", "web")], &[]);
    let config = network::bridge("web", "10.88.0.0/16");
    here.create_network("web", &config);
    let shown = || names(&there) == ["web"];
    wait_until("the network is on the other node", PATIENCE, shown);
    assert_eq!(there.circuit(&["network", "info", "web"]).ok(), config);
    let connected = || {
        !json(&there, &["network", "ips", "early"])["ips"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    wait_until("who waited for it is connected", PATIENCE, connected);
    there.run_container("late", &[], &[]);
    there.circuit(&["network", "connect", "late", "web"]).ok();
    for container in ["early", "late"] {
        there.remove_container(container);
    }
    // Nobody tells of what others have.
    let error = error_of(here.circuit(&["network", "rm", "web"]));
    assert_names(&error, &["web", "--redis-url", "--force"]);
    assert_eq!(here.circuit(&["network", "prune"]).ok(), "");
    let kept = here.circuit(&["network", "prune", "--dry-run"]).ok();
    assert_names(&kept, &["web: kept, shared", "--redis-url"]);
    assert_eq!(names(&there), ["web"]);
    there.circuit(&["network", "rm", "--force", "web"]).ok();
    wait_until("it is gone here too", PATIENCE, || names(&here).is_empty());
}

#[test]
fn a_network_leaves_no_bridge_on_other_nodes() {
    let redis = RedisServer::start();
    let (here, there) = (node(&redis), node(&redis));
    let made = here.circuit(&["network", "create", "web"]).ok();
    wait_until("it is shared", PATIENCE, || names(&there) == ["web"]);
    there.run_container("a", &[], &[]);
    there.circuit(&["network", "connect", "a", "web"]).ok();
    there.circuit(&["network", "disconnect", "a", "web"]).ok();
    let bridge = || there.run("ip", &["link", "show", "br-web"]).worked();
    assert!(bridge(), "a bridge stays as long as its network");
    here.circuit(&["network", "rm", "--force", "web"]).ok();
    wait_until("its bridge is gone", PATIENCE, || !bridge());
    assert_eq!(here.circuit(&["network", "create", "web"]).ok(), made);
    there.remove_container("a");
    there.assert_nothing_left();
}

#[test]
fn a_replaced_network_leaves_no_bridge_on_other_nodes() {
    let redis = RedisServer::start();
    let (here, there) = (node(&redis), node(&redis));
    here.circuit(&["network", "create", "web"]).ok();
    wait_until("it is shared", PATIENCE, || names(&there) == ["web"]);
    there.run_container("a", &[], &[]);
    there.circuit(&["network", "connect", "a", "web"]).ok();
    there.circuit(&["network", "disconnect", "a", "web"]).ok();
    let bridge = || there.run("ip", &["link", "show", "br-web"]).worked();
    assert!(bridge(), "a bridge stays as long as its network");
    let replace = ["network", "create", "web", "--force", "--subnet"];
    here.circuit(&[&replace[..], &["10.66.0.0/24"]].concat())
        .ok();
    wait_until("the bridge is gone", PATIENCE, || !bridge());
    let told = there.circuit(&["network", "connect", "a", "web"]).ok();
    assert_eq!(told, "connected a to web with ip=10.66.0.2\n");
    there.remove_container("a");
    there.assert_nothing_left();
}

#[test]
fn a_node_starts_and_connects_without_redis() {
    let mut redis = RedisServer::start();
    let node = node(&redis);
    node.create_network("web", &network::bridge("web", "10.88.0.0/16"));
    node.stop_daemon();
    redis.kill();
    node.start_daemon();
    node.run_container("one", &[], &[]);
    node.circuit(&["network", "connect", "one", "web"]).ok();
    let config = network::bridge("db", "10.89.0.0/16");
    let refused = node.circuit_with_input(&["network", "create", "db", "-"], config.as_bytes());
    let error = error_of(refused);
    assert!(error.contains("shared by redis"), "{error}");
    assert_eq!(names(&node), ["web"]);
    let examined = node.circuit(&["doctor"]);
    assert_names(&examined.stdout, &["which shares the networks, does not"]);
    redis.come_back();
    let create = || {
        node.circuit_with_input(&["network", "create", "db", "-"], config.as_bytes())
            .worked()
    };
    wait_until("networks can be made again", PATIENCE, create);
    let examined = node.circuit(&["doctor"]).stdout;
    assert!(!examined.contains("shares the networks"), "{examined}");
    node.remove_container("one");
}

#[test]
fn networks_move_between_datastores() {
    let redis = RedisServer::start();
    let (local, shared) = (crate::node().start(), node(&redis));
    let config = network::bridge("web", "10.88.0.0/16");
    local.create_network("web", &config);
    local.create_network("db", &network::bridge("db", "10.89.0.0/16"));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let pulled = local.circuit(&["network", "pull", "--to", folder]).ok();
    assert_eq!(pulled, "pulled db\npulled web\n");
    let again = local
        .circuit(&["network", "pull", "--to", folder, "web"])
        .ok();
    assert_eq!(again, "web is there already\n");
    let pushed = shared
        .circuit(&["network", "push", "--from", folder, "web"])
        .ok();
    assert_eq!(pushed, "pushed web\n");
    assert_eq!(shared.circuit(&["network", "info", "web"]).ok(), config);
    let store = format!("local://{folder}");
    let rest = shared.circuit(&["network", "push", "--from", &store]).ok();
    assert_eq!(rest, "pushed db\nweb is there already\n");
    let unknown = shared.circuit(&["network", "push", "--from", folder, "nix"]);
    assert!(error_of(unknown).contains("nix.json"));
}

#[test]
fn a_wrong_password_is_told_at_the_start() {
    let node = crate::node().without_daemon().start();
    let redis = RedisServer::start();
    let socket = redis.url();
    let url = format!("{socket}?user=nobody&password=s3cret");
    let mut arguments = node.server_arguments();
    let at = arguments.iter().position(|a| a == "--datastore").unwrap();
    arguments[at + 1] = url;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = node.circuit(&arguments).fails(1);
    let error = said.lines().last().unwrap();
    assert!(
        error.starts_with("error: --datastore: redis refuses the user or the password"),
        "{said}"
    );
    assert!(!said.contains("s3cret"), "{said}");
}
