//! What `packaging` has for Prometheus and Grafana: that they can read it. That its
//! metrics are there is tried on a real node, by `node/metrics.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use circuit_testing::promtool;
use serde_json::{Value, json};

fn packaging(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging")
        .join(folder)
}

fn dashboard() -> Value {
    let text = fs::read_to_string(packaging("grafana/circuit.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Each query of the dashboard, with the title of its panel.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let mut found = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} shows nothing");
        for target in targets {
            found.push((title, target["expr"].as_str().unwrap()));
        }
    }
    found
}

/// A query as Prometheus gets it, when Grafana has put in the variables.
fn filled(query: &str) -> String {
    let mut text = query.replace("$__rate_interval", "5m");
    for variable in ["$job", "$instance"] {
        text = text.replace(variable, ".+");
    }
    assert!(!text.contains('$'), "a variable that is none: {query}");
    text
}

#[test]
fn promtool_takes_the_rules_and_each_alert_comes_when_it_should() {
    let folder = packaging("prometheus");
    promtool(
        &folder,
        &["check", "rules", "--lint-fatal", "circuit.rules.yml"],
        "",
    )
    .ok();
    promtool(&folder, &["test", "rules", "circuit.rules.test.yml"], "").ok();
    let names = |file: &str, key: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        lines.map(|name| name.trim().to_owned()).collect()
    };
    let alerts = names("circuit.rules.yml", "- alert:");
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(alerts, names("circuit.rules.test.yml", "alertname:"));
}

#[test]
fn promtool_can_read_every_query_of_the_dashboard() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "{queries:?}");
    let rule = |(number, (_, query)): (usize, &(&str, &str))| json!({ "record": format!("query:{number}"), "expr": filled(query) });
    let rules: Vec<Value> = queries.iter().enumerate().map(rule).collect();
    // Rules are YAML, of which JSON is a part.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yml"), rules.to_string()).unwrap();
    let told = promtool(folder.path(), &["check", "rules", "rules.yml"], "").ok();
    let wanted = format!("{} rules found", queries.len());
    assert!(told.contains(&wanted), "{told}");
    // The check can fail.
    let broken = rules.to_string().replace("sum by (", "sum by by (");
    fs::write(folder.path().join("rules.yml"), broken).unwrap();
    let told = promtool(folder.path(), &["check", "rules", "rules.yml"], "");
    assert!(!told.worked(), "{told}");
}

#[test]
fn panels_of_the_dashboard_have_their_place_and_say_what_they_show() {
    let dashboard = dashboard();
    let mut taken: Vec<(String, [u64; 4])> = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let described = panel["description"]
            .as_str()
            .is_some_and(|it| !it.is_empty());
        assert!(described, "{title} is not described");
        // Whoever imports it chooses the source.
        let sources = panel["targets"].as_array().unwrap().iter().chain([panel]);
        for of in sources {
            assert_eq!(of["datasource"]["uid"], "${datasource}", "{title}");
        }
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        let [x, y, w, h] = place;
        assert!(x + w <= 24, "{title} is beyond the right edge");
        for (other, [ox, oy, ow, oh]) in &taken {
            let apart = x >= ox + ow || *ox >= x + w || y >= oy + oh || *oy >= y + h;
            assert!(apart, "{title} lies over {other}");
        }
        taken.push((title.to_owned(), place));
    }
}
