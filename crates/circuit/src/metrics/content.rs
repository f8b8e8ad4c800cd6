//! Every metric: its name, what it means, and where its value comes from. The
//! names are an interface, and so is docs/metrics.md, which a test compares.

use std::fmt::Result;

use circuit_core::service::ClusterStatus;

use super::page::{Page, flag, number};
use super::process::Process;
use super::{Account, Pool, Reading};
use crate::dns;
use crate::figures::{Figures, Work};
use crate::redis::Store;

/// No labels.
const NONE: [(&str, &str); 0] = [];

impl Reading {
    pub(super) fn write(&self, page: &mut Page<'_>) -> Result {
        let build = [([("version", crate::VERSION)], 1.0)];
        page.gauges(
            "circuit_build_info",
            "The program that runs; always 1.",
            build,
        )?;
        let figures = self.told.attachments.figures();
        connections(page, figures)?;
        let attached = self.attached.iter();
        page.gauges(
            "circuit_attachments",
            "Attachments of this node's containers, by network.",
            attached.map(|(network, count)| ([("network", network.as_str())], number(*count))),
        )?;
        page.gauge(
            "circuit_problems",
            "Networks that containers of this node should be on, and are not or not rightly.",
            number(self.told.attachments.book().problem_count() as u64),
        )?;
        pools(page, &self.pools, &self.accounts)?;
        reconciler(page, figures)?;
        cluster(page, &self.cluster)?;
        redis(page, &self.told.redis)?;
        names(page, self.told.dns.figures())?;
        process(page, &self.process)
    }
}

fn connections(page: &mut Page<'_>, figures: &Figures) -> Result {
    work(
        page,
        figures.connects(),
        ("circuit_connects", "Connects, by cause and outcome."),
        (
            "circuit_connect_duration_seconds",
            "Time that connects took which went well, by cause.",
        ),
    )?;
    work(
        page,
        figures.disconnects(),
        ("circuit_disconnects", "Disconnects, by cause and outcome."),
        (
            "circuit_disconnect_duration_seconds",
            "Time that disconnects took which went well, by cause.",
        ),
    )?;
    work(
        page,
        figures.restarts(),
        (
            "circuit_container_restarts",
            "Containers started again, by cause and outcome.",
        ),
        (
            "circuit_container_restart_duration_seconds",
            "Time from the making of a new task until its process ran, by cause.",
        ),
    )
}

fn work<const N: usize>(
    page: &mut Page<'_>,
    work: &Work<N>,
    (name, help): (&str, &str),
    (times, help_of_times): (&str, &str),
) -> Result {
    let counts = work
        .counts()
        .map(|(cause, outcome, count)| ([("cause", cause), ("outcome", outcome)], count));
    page.counters(name, help, counts)?;
    let by_cause = work
        .times()
        .map(|(cause, times)| ([("cause", cause)], times));
    page.times(times, help_of_times, by_cause)
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ipv4" }
}

fn pools(page: &mut Page<'_>, pools: &[Pool], accounts: &[Account]) -> Result {
    let account = |pool: &Pool| {
        let ours = |account: &&Account| account.pool == pool.name && account.ipv6 == pool.ipv6;
        let found = accounts.iter().find(ours);
        found.map_or((0, 0), |found| (found.used as u64, found.held as u64))
    };
    let labels = |pool: &Pool| {
        [
            ("ipam", pool.ipam.clone()),
            ("pool", pool.name.clone()),
            ("family", family(pool.ipv6).to_owned()),
        ]
    };
    page.gauges(
        "circuit_pool_size_addresses",
        "Addresses that a pool has.",
        pools.iter().map(|pool| (labels(pool), number(pool.size))),
    )?;
    let used = |pool: &Pool| number(pool.used.unwrap_or_else(|| account(pool).0));
    page.gauges(
        "circuit_pool_used_addresses",
        "Addresses of a pool that are in use on this node.",
        pools.iter().map(|pool| (labels(pool), used(pool))),
    )?;
    let shared = pools.iter().filter(|pool| pool.used.is_none());
    page.gauges(
        "circuit_pool_held_addresses",
        "Addresses of a pool that this node holds, in use or for containers to come.",
        shared.map(|pool| (labels(pool), number(account(pool).1))),
    )
}

fn reconciler(page: &mut Page<'_>, figures: &Figures) -> Result {
    page.gauge(
        "circuit_containerd_up",
        "Whether containerd answers and its events are followed.",
        flag(figures.is_runtime_up()),
    )?;
    page.counter(
        "circuit_events",
        "Events of containerd that were taken.",
        number(figures.events.get()),
    )?;
    page.times(
        "circuit_event_lag_seconds",
        "Time from an event of containerd until it was handled.",
        [(NONE, &figures.event_lag)],
    )?;
    page.counter(
        "circuit_reconcile_passes",
        "Passes over all containers.",
        number(figures.passes.get()),
    )?;
    page.counters(
        "circuit_reconcile_looks",
        "Looks at single containers, by outcome.",
        [
            ([("outcome", "success")], figures.looks.get()),
            ([("outcome", "failure")], figures.failed_looks.get()),
        ],
    )?;
    let found = figures
        .differences()
        .map(|(what, by, count)| ([("kind", what), ("found_by", by)], count));
    page.counters(
        "circuit_reconcile_differences",
        "Differences between what should be and what is, by kind and by what has made it look.",
        found,
    )?;
    let mended = figures.mendings();
    page.counters(
        "circuit_reconcile_mended",
        "Differences that were brought in line, by kind.",
        mended.map(|(what, count)| ([("kind", what)], count)),
    )
}

fn cluster(page: &mut Page<'_>, status: &ClusterStatus) -> Result {
    page.gauge(
        "circuit_cluster_nodes",
        "Nodes that are known, this one too.",
        number(status.nodes.len() as u64),
    )?;
    if status.registry.is_empty() {
        return Ok(());
    }
    page.gauge(
        "circuit_registry_up",
        "Whether the cluster registry answers.",
        flag(status.connected),
    )?;
    if let Some(heard) = status.heard {
        page.gauge(
            "circuit_registry_age_seconds",
            "Time since what is known of other nodes was compared with the registry.",
            heard.as_secs_f64(),
        )?;
    }
    page.gauge(
        "circuit_registry_compare_seconds",
        "Time that the last comparison with the registry took.",
        status.lag.as_secs_f64(),
    )?;
    page.counter(
        "circuit_registry_ignored",
        "Messages and records of the registry that made no sense.",
        number(status.nonsense),
    )
}

fn redis(page: &mut Page<'_>, stores: &[(&'static str, Store)]) -> Result {
    let up = |store: &Store| flag(store.is_up());
    page.gauges(
        "circuit_redis_up",
        "Whether Redis answers, by what it is for.",
        stores
            .iter()
            .map(|(role, store)| ([("role", *role)], up(store))),
    )?;
    let connections = |store: &Store| store.link().borrow().generation;
    page.counters(
        "circuit_redis_connections",
        "Connections to Redis that were made, by what it is for.",
        stores
            .iter()
            .map(|(role, store)| ([("role", *role)], connections(store))),
    )
}

fn names(page: &mut Page<'_>, figures: &dns::Figures) -> Result {
    let answers = figures.answers();
    page.counters(
        "circuit_dns_answers",
        "Answers of DNS by result code.",
        answers.map(|(code, count)| ([("code", code)], count)),
    )?;
    page.counter(
        "circuit_dns_forwarded",
        "Questions that other servers were asked.",
        number(figures.passed_on()),
    )?;
    page.counter(
        "circuit_dns_limited",
        "Questions that no other server was asked, as their source had asked too often or had too many under way.",
        number(figures.too_fast()),
    )?;
    page.counter(
        "circuit_dns_ignored",
        "Messages that were no questions.",
        number(figures.nonsense()),
    )
}

fn process(page: &mut Page<'_>, process: &Process) -> Result {
    if let Some(cpu) = process.cpu {
        page.counter(
            "process_cpu_seconds",
            "Time of processors that was used.",
            cpu.as_secs_f64(),
        )?;
    }
    let start = process.start.map(|start| start.as_secs_f64());
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory that is resident.",
            process.resident.map(number),
        ),
        (
            "process_virtual_memory_bytes",
            "Memory that is mapped.",
            process.virtual_size.map(number),
        ),
        (
            "process_open_fds",
            "Open file descriptors.",
            process.open_files.map(number),
        ),
        (
            "process_max_fds",
            "File descriptors that may be open.",
            process.most_files.map(number),
        ),
        ("process_threads", "Threads.", process.threads.map(number)),
        (
            "process_start_time_seconds",
            "When the daemon was started, since the epoch.",
            start,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(name, help, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fmt;
    use std::sync::Mutex;
    use std::time::Duration;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::figures::{Connect, Outcome};

    type Write = Box<dyn Fn(&mut Page<'_>) -> Result + Send>;

    struct Part(Mutex<Write>);

    impl fmt::Debug for Part {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> Result {
            f.write_str("Part")
        }
    }

    impl Collector for Part {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
            self.0.lock().unwrap()(&mut Page::new(encoder))
        }
    }

    fn text(write: impl Fn(&mut Page<'_>) -> Result + Send + 'static) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Part(Mutex::new(Box::new(write)))));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn every_result_code_has_its_count() {
        let text = text(|page| names(page, &dns::Figures::default()));
        let line = "\ncircuit_dns_answers_total{code=\"NXDOMAIN\"} 0\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("\ncircuit_dns_forwarded_total 0"), "{text}");
        let kind = "# TYPE circuit_dns_answers_total counter\n";
        assert!(text.contains(kind), "{text}");
    }

    #[test]
    fn a_node_without_a_registry_tells_nothing_of_one() {
        let alone = text(|page| cluster(page, &ClusterStatus::default()));
        assert!(alone.contains("\ncircuit_cluster_nodes 0") && !alone.contains("registry"));
        let member = ClusterStatus {
            registry: "redis://h:1".to_owned(),
            nonsense: 3,
            ..ClusterStatus::default()
        };
        let member = text(move |page| cluster(page, &member));
        assert!(member.contains("\ncircuit_registry_up 0"), "{member}");
        let line = "\ncircuit_registry_ignored_total 3";
        assert!(member.contains(line), "{member}");
        assert!(!member.contains("age_seconds"), "{member}");
    }

    #[test]
    fn connects_are_told_by_cause_with_their_times() {
        let text = text(|page| {
            let figures = Figures::default();
            let took = Duration::from_millis(3);
            figures.connected(Connect::Request, Outcome::Success, took);
            connections(page, &figures)
        });
        for line in [
            "circuit_connects_total{cause=\"request\",outcome=\"success\"} 1",
            "circuit_connects_total{cause=\"label\",outcome=\"internal\"} 0",
            "circuit_connect_duration_seconds_bucket{cause=\"request\",le=\"0.0025\"} 0",
            "circuit_connect_duration_seconds_bucket{cause=\"request\",le=\"0.005\"} 1",
            "circuit_connect_duration_seconds_bucket{cause=\"request\",le=\"+Inf\"} 1",
            "circuit_connect_duration_seconds_sum{cause=\"request\"} 0.003",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
    }

    #[test]
    fn pools_are_told_with_what_this_node_has() {
        let pool = |ipam: &str, name: &str, used| Pool {
            ipam: ipam.to_owned(),
            name: name.to_owned(),
            ipv6: false,
            size: 253,
            used,
        };
        let all = [
            pool("circuit", "fleet", None),
            pool("host-local", "a\"b", Some(2)),
        ];
        let account = Account {
            pool: "fleet".to_owned(),
            ipv6: false,
            held: 16,
            used: 3,
        };
        let text = text(move |page| pools(page, &all, std::slice::from_ref(&account)));
        let fleet = "{ipam=\"circuit\",pool=\"fleet\",family=\"ipv4\"}";
        let local = "{ipam=\"host-local\",pool=\"a\\\"b\",family=\"ipv4\"}";
        for line in [
            format!("circuit_pool_size_addresses{fleet} 253"),
            format!("circuit_pool_used_addresses{fleet} 3"),
            format!("circuit_pool_held_addresses{fleet} 16"),
            format!("circuit_pool_used_addresses{local} 2"),
        ] {
            let starts = text.lines().any(|it| it.starts_with(&line));
            assert!(starts, "{line}: {text}");
        }
        assert!(!text.contains(&format!("held_addresses{local}")), "{text}");
    }

    #[test]
    fn what_there_is_none_of_is_left_out() {
        assert_eq!(text(|page| redis(page, &[])), "");
        assert_eq!(text(|page| process(page, &Process::default())), "");
    }
}
