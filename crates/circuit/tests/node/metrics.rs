//! What a daemon tells monitoring programs: that it is right, that their own
//! checker takes it, and that what we ship about it speaks of nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use circuit_testing::{Lan, PATIENCE, TestNode, network, promtool, wait_until};
use serde_json::json;

use crate::node;
use crate::support::{NETWORK, RESTART, assert_names, create_ctr0, membership};

const ADDRESS: &str = "127.0.0.1:9464";

/// A page as a monitoring program reads it.
struct Page(String);

impl Page {
    fn of(node: &TestNode) -> Self {
        let url = format!("http://{ADDRESS}/metrics");
        Self(node.run("curl", &["-sf", &url]).ok())
    }

    /// The values of this page, by name and labels as they are written there.
    fn samples(&self) -> BTreeMap<&str, f64> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                (series, value.parse().expect("a number"))
            })
            .collect()
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let found = self.samples().get(series).copied();
        found.unwrap_or_else(|| panic!("no {series} in\n{}", self.0))
    }

    /// Each metric with its type and its labels, but for those of buckets.
    fn metrics(&self) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let types = self.0.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some((name.to_owned(), (kind.to_owned(), BTreeSet::new())))
        });
        let mut found: BTreeMap<String, (String, BTreeSet<String>)> = types.collect();
        for series in self.samples().into_keys() {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let of = found
                .get_mut(metric(name))
                .unwrap_or_else(|| panic!("{name} has no type"));
            let labels = labels.trim_end_matches('}').split(',');
            let keys = labels.filter_map(|label| label.split_once('='));
            of.1.extend(
                keys.map(|(key, _)| key.to_owned())
                    .filter(|key| key != "le"),
            );
        }
        found
    }
}

/// The metric that a series is a part of: histograms have several.
fn metric(series: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| series.strip_suffix(end))
        .unwrap_or(series)
}

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(repository(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The words of a text that can be names of ours.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("circuit_") || word.starts_with("process_"))
        .map(metric)
        .collect()
}

#[test]
fn figures_move_with_what_is_done() {
    let node = node().server(&["--metrics", ADDRESS]).start();
    create_ctr0(&node);
    let before = Page::of(&node);
    assert_eq!(
        before.value("circuit_connects_total{cause=\"request\",outcome=\"success\"}"),
        0.0
    );
    node.run_container("asked", &[], &[]);
    for _ in 0..2 {
        node.circuit(&["network", "connect", "asked", "ctr0"]).ok();
    }
    node.circuit(&["network", "connect", "asked", "nowhere"])
        .fails(1);
    node.run_container("labelled", &[(NETWORK, "ctr0"), (RESTART, "always")], &[]);
    node.wait_for_addresses("labelled");
    let wait_for = |what: &str, series: &str, wanted: f64| {
        wait_until(what, PATIENCE, || {
            Page::of(&node).samples().get(series) == Some(&wanted)
        });
    };
    let attachments = "circuit_attachments{network=\"ctr0\"}";
    wait_for("both are counted", attachments, 2.0);
    let old = node.task_pid("labelled").expect("it runs");
    node.kill_task("labelled");
    node.wait_for_new_task("labelled", old);
    let restarts = "circuit_container_restarts_total{cause=\"policy\",outcome=\"success\"}";
    wait_for("the policy's restart is counted", restarts, 1.0);
    node.circuit(&["container", "restart", "labelled"]).ok();
    wait_for("both are connected again", attachments, 2.0);
    node.circuit(&["network", "disconnect", "asked", "ctr0"])
        .ok();
    let page = Page::of(&node);
    for (series, wanted) in [
        ("circuit_containerd_up", 1.0),
        ("circuit_problems", 0.0),
        (attachments, 1.0),
        (
            "circuit_connects_total{cause=\"request\",outcome=\"success\"}",
            1.0,
        ),
        (
            "circuit_connects_total{cause=\"request\",outcome=\"unchanged\"}",
            1.0,
        ),
        (
            "circuit_connects_total{cause=\"request\",outcome=\"not_found\"}",
            1.0,
        ),
        (
            "circuit_connects_total{cause=\"label\",outcome=\"success\"}",
            3.0,
        ),
        (
            "circuit_connect_duration_seconds_count{cause=\"request\"}",
            1.0,
        ),
        (
            "circuit_connect_duration_seconds_count{cause=\"label\"}",
            3.0,
        ),
        (
            "circuit_disconnects_total{cause=\"request\",outcome=\"success\"}",
            1.0,
        ),
        (
            "circuit_disconnects_total{cause=\"exit\",outcome=\"success\"}",
            2.0,
        ),
        (
            "circuit_disconnect_duration_seconds_count{cause=\"exit\"}",
            2.0,
        ),
        (
            "circuit_container_restarts_total{cause=\"request\",outcome=\"success\"}",
            1.0,
        ),
        (
            "circuit_container_restart_duration_seconds_count{cause=\"policy\"}",
            1.0,
        ),
        (
            "circuit_pool_used_addresses{ipam=\"host-local\",pool=\"ctr0\",family=\"ipv4\"}",
            1.0,
        ),
    ] {
        assert_eq!(page.value(series), wanted, "{series}:\n{}", page.0);
    }
    for grown in [
        "circuit_events_total",
        "circuit_event_lag_seconds_count",
        "circuit_reconcile_passes_total",
        "circuit_reconcile_looks_total{outcome=\"success\"}",
        "circuit_reconcile_differences_total{kind=\"attach\",found_by=\"event\"}",
        "circuit_reconcile_mended_total{kind=\"attach\"}",
        "circuit_connect_duration_seconds_sum{cause=\"label\"}",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ] {
        assert!(page.value(grown) > 0.0, "{grown}:\n{}", page.0);
    }
    // What only grows never falls, whatever the order of the reads.
    for (series, value) in before.samples() {
        if series.split('{').next().unwrap().ends_with("_total") {
            assert!(page.value(series) >= value, "{series} has fallen");
        }
    }
    for container in ["asked", "labelled"] {
        node.remove_container(container);
    }
    node.assert_nothing_left();
}

/// A bridge that takes nothing away while that file is there.
const KEEPS: &str = "#!/bin/sh\n\
     [ $CNI_COMMAND = DEL ] && [ -e /run/keep ] && exit 1\n\
     exec %STOCK%/bridge\n";

#[test]
fn what_a_connect_takes_away_first_is_counted() {
    let node = node().server(&["--metrics", ADDRESS]).start();
    node.script_plugin("keeps", KEEPS);
    let config = network::by_plugin("keeps", "kept", "10.4.0.0/16");
    node.create_network("kept", &config);
    node.run_container("a", &[], &[]);
    node.circuit(&["network", "connect", "a", "kept"]).ok();
    fs::write(node.path("/run/keep"), "").unwrap();
    let disconnect = ["network", "disconnect", "a", "kept"];
    node.circuit(&disconnect).fails(1);
    fs::remove_file(node.path("/run/keep")).unwrap();
    node.circuit(&["network", "connect", "a", "kept"]).ok();
    let changed = "circuit_disconnects_total{cause=\"change\",outcome=\"success\"}";
    assert_eq!(Page::of(&node).value(changed), 1.0);
    node.remove_container("a");
    node.assert_nothing_left();
}

#[test]
fn answers_of_dns_are_counted_by_their_result() {
    let listen = "127.0.0.1:5353";
    let node = node()
        .server(&["--metrics", ADDRESS, "--dns-listen", listen])
        .start();
    create_ctr0(&node);
    node.run_container("web", &[(NETWORK, "ctr0")], &[]);
    node.wait_for_addresses("web");
    let count = |code: &str| {
        let series = format!("circuit_dns_answers_total{{code=\"{code}\"}}");
        let page = Page::of(&node);
        page.samples().get(series.as_str()).copied().unwrap_or(0.0)
    };
    let counts = || ["NOERROR", "NXDOMAIN", "REFUSED"].map(count);
    let before = counts();
    // Nobody is asked who does not want to be: no recursion is desired.
    for (name, times) in [("web.ctr0", 3), ("gone.ctr0", 2), ("host.test", 1)] {
        for _ in 0..times {
            let words = ["@127.0.0.1", "-p", "5353", "+norecurse", name];
            node.dig(&words).ok();
        }
    }
    let wanted = [before[0] + 3.0, before[1] + 2.0, before[2] + 1.0];
    assert_eq!(counts(), wanted);
    node.remove_container("web");
    node.assert_nothing_left();
}

/// A node that tells everything there is to tell, but for `process_`: it is in a
/// cluster, its networks are shared, and one has a pool that is.
fn a_node_with_everything(lan: &Lan) -> TestNode {
    let membership = membership("one", 4);
    let mut arguments: Vec<&str> = membership.iter().map(String::as_str).collect();
    arguments.extend(["--datastore", "redis", "--metrics", ADDRESS]);
    let node = node().lan(lan).server(&arguments).start();
    create_ctr0(&node);
    let ipam = json!({ "subnet": "10.99.0.0/24", "exclude": ["10.99.0.1"] });
    node.create_network("lan", &network::pool("lan", &ipam));
    node.run_container("web", &[(NETWORK, "ctr0,lan")], &[]);
    node.wait_for_addresses("web");
    wait_until("the registry was compared with", PATIENCE, || {
        let page = Page::of(&node);
        let samples = page.samples();
        samples.contains_key("circuit_registry_age_seconds")
            && samples.get("circuit_attachments{network=\"lan\"}") == Some(&1.0)
    });
    node
}

#[test]
fn what_is_said_and_shown_of_metrics_is_served() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = a_node_with_everything(&lan);
    let page = Page::of(&node);
    let served = page.metrics();
    let known: BTreeSet<&str> = served.keys().map(String::as_str).collect();
    for file in [
        "packaging/prometheus/circuit.rules.yml",
        "packaging/prometheus/circuit.rules.test.yml",
        "packaging/grafana/circuit.json",
    ] {
        let text = text(file);
        let named = named(&text);
        assert!(named.len() > 10, "{file} names {named:?}");
        let missing: Vec<_> = named.difference(&known).collect();
        assert!(missing.is_empty(), "{file} names {missing:?}, not served");
    }
    // The documentation says it all, with types and labels.
    let documented: BTreeMap<String, (String, BTreeSet<String>)> = text("docs/metrics.md")
        .lines()
        .filter_map(documented)
        .collect();
    assert_eq!(documented, served, "docs/metrics.md and the page");
    let shared =
        page.value("circuit_pool_held_addresses{ipam=\"circuit\",pool=\"lan\",family=\"ipv4\"}");
    assert!(shared >= 1.0, "{}", page.0);
    assert_eq!(page.value("circuit_redis_up{role=\"datastore\"}"), 1.0);
    node.remove_container("web");
}

/// A metric of a table: | `name` | type | `label`, `label` | meaning |.
fn documented(line: &str) -> Option<(String, (String, BTreeSet<String>))> {
    let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
    let name = cells.next()?.strip_suffix('`')?;
    if named(name).is_empty() {
        return None;
    }
    let kind = cells.next()?.to_owned();
    let labels = cells.next()?.split('`').skip(1).step_by(2);
    Some((name.to_owned(), (kind, labels.map(str::to_owned).collect())))
}

#[test]
fn promtool_finds_no_fault_with_a_page() {
    let lan = Lan::new();
    let _redis = lan.redis();
    let node = a_node_with_everything(&lan);
    let page = Page::of(&node);
    let told = promtool(Path::new("/"), &["check", "metrics"], &page.0);
    // Warnings are told without an exit code of their own.
    assert!(
        told.worked() && told.stderr.is_empty(),
        "{told}\n{}",
        page.0
    );
    // The check can fail.
    let broken = page.0.replace(
        "# TYPE circuit_events_total counter",
        "# TYPE circuit_events_total gauge",
    );
    let told = promtool(Path::new("/"), &["check", "metrics"], &broken);
    assert!(!told.worked() || !told.stderr.is_empty(), "{told}");
    node.remove_container("web");
}

#[test]
fn beyond_loopback_every_name_counts() {
    let beyond = ["--metrics", "0.0.0.0:9464", "--insecure"];
    let node = node().server(&beyond).start();
    let page = format!("http://{ADDRESS}/metrics");
    let arguments = ["-H", "Host: other.example:9464", &page];
    assert!(code(&node, &arguments).starts_with("200"));
}

/// The status of an answer, and what it is.
fn code(node: &TestNode, arguments: &[&str]) -> String {
    let print = [
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{content_type}",
    ];
    node.run("curl", &[&print, arguments].concat()).ok()
}

#[test]
fn only_the_page_is_served() {
    let node = node().server(&["--metrics", ADDRESS]).start();
    let code = |arguments: &[&str]| code(&node, arguments);
    let page = format!("http://{ADDRESS}/metrics");
    let told = code(&[&page]);
    assert!(told.starts_with("200 text/plain; version=0.0.4"), "{told}");
    assert!(code(&["-X", "POST", &page]).starts_with("405"));
    assert!(code(&[&format!("http://{ADDRESS}/")]).starts_with("404"));
    // Nor to pages of sites whose names lead here.
    let named = |host: &str| code(&["-H", &format!("Host: {host}"), &page]);
    assert!(named("localhost:9464").starts_with("200"));
    assert!(named("other.example:9464").starts_with("403"));
    // A port that is taken is said at the start.
    let mut arguments = vec![
        "server",
        "-a",
        "unix:///run/other.sock",
        "--metrics",
        ADDRESS,
    ];
    arguments.extend(["--state-dir", "/run/other", "--run-dir", "/run/other"]);
    let refused = node.run(&node.program(), &arguments).fails(1);
    assert_names(&refused, &[ADDRESS, "--metrics", "in use"]);
}
