#![allow(clippy::unwrap_used)]

mod together_tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex as StdMutex;

use circuit_core::ErrorKind;
use circuit_core::request::Requested;
use circuit_core::service::{Addresses, Connected, Lookups, Problem};
use ipnet::IpNet;

use super::*;
use crate::store::LocalStore;

#[derive(Default)]
struct Users {
    users: StdMutex<Vec<String>>,
    sticky: bool,
    wanted: StdMutex<BTreeMap<String, String>>,
    holders: StdMutex<Vec<String>>,
    blind: bool,
    created: StdMutex<Vec<String>>,
}

#[async_trait]
impl Attachments for Users {
    async fn connect(&self, _: &str, _: &Requested) -> Result<Connected> {
        Err(Error::internal("not asked for here"))
    }
    async fn disconnect(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    async fn ips(&self, _: &str, _: Option<&str>) -> Result<Addresses> {
        Ok(Addresses::default())
    }
    fn remembered(&self, _: &str, _: Option<&str>) -> Option<Addresses> {
        None
    }
    fn problems_of_network(&self, _: &str) -> Vec<Problem> {
        Vec::new()
    }
    async fn wanted(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.wanted.lock().unwrap().clone())
    }
    async fn users_of(&self, _: &str) -> Result<Vec<String>> {
        Ok(self.users.lock().unwrap().clone())
    }
    async fn holders(&self, _: &StoredNetwork) -> Result<Vec<String>> {
        if self.blind {
            return Err(Error::precondition("another daemon has its addresses"));
        }
        Ok(self.holders.lock().unwrap().clone())
    }
    async fn network_created(&self, network: &str) {
        self.created.lock().unwrap().push(network.to_owned());
    }
    async fn disconnect_all(&self, _: &str) -> Result<()> {
        if !self.sticky {
            self.users.lock().unwrap().clear();
        }
        Ok(())
    }
}

struct Here {
    facts: Facts,
    missing: bool,
    removed: Arc<StdMutex<Vec<String>>>,
}

#[async_trait]
impl Surroundings for Here {
    async fn probe(&self, _: &ConfigList) -> Result<()> {
        if self.missing {
            Err(Error::precondition("plugin bridge is missing"))
        } else {
            Ok(())
        }
    }
    async fn facts(&self) -> Result<Facts> {
        Ok(self.facts.clone())
    }
    async fn remove_bridge(&self, name: &str, _: &[IpNet]) -> Result<()> {
        self.removed.lock().unwrap().push(name.to_owned());
        Ok(())
    }
}

fn route(dst: &str, oif: &str) -> Route {
    Route {
        dst: dst.parse().unwrap(),
        gateway: None,
        oif: Some(oif.into()),
        table: 254,
        protocol: 2,
        scope: 253,
        priority: 0,
        unicast: true,
    }
}

struct Setup {
    _dir: tempfile::TempDir,
    users: Arc<Users>,
    removed: Arc<StdMutex<Vec<String>>>,
    service: NetworkService,
}

/// A host with routes and resolvers.
fn here(missing: bool) -> Here {
    let facts = Facts {
        routes: vec![
            route("0.0.0.0/0", "eth0"),
            route("192.168.1.0/24", "eth0"),
            route("10.88.0.0/16", "ctr0"),
            Route {
                unicast: false,
                ..route("10.99.0.0/16", "lo")
            },
        ],
        resolvers: vec![
            IpAddr::from([192, 168, 1, 1]),
            IpAddr::from([172, 20, 0, 53]),
        ],
    };
    Here {
        facts,
        missing,
        removed: Arc::default(),
    }
}

fn setup_with(users: Users, missing: bool) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let users = Arc::new(users);
    let store = LocalStore::open(&format!("local://{}", dir.path().display())).unwrap();
    let here = here(missing);
    let removed = Arc::clone(&here.removed);
    let service = NetworkService::on(Arc::new(store), users.clone(), Arc::new(here));
    Setup {
        _dir: dir,
        users,
        removed,
        service,
    }
}

fn setup() -> Setup {
    setup_with(Users::default(), false)
}

fn bridge(name: &str, subnet: &str) -> Vec<u8> {
    config(name, "bridge", &format!("\"bridge\":\"{name}\","), subnet)
}

fn config(name: &str, kind: &str, more: &str, subnet: &str) -> Vec<u8> {
    format!(
        "{{\"cniVersion\":\"1.0.0\",\"name\":\"{name}\",\"plugins\":[{{\"type\":\"{kind}\",{more}\
         \"ipam\":{{\"type\":\"host-local\",\"ranges\":[[{{\"subnet\":\"{subnet}\"}}]]}}}}]}}"
    )
    .into_bytes()
}

fn kind<T>(result: Result<T>, kind: ErrorKind) -> String {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

/// Why networks that `prune` does not delete are kept.
async fn kept_by_prune(service: &NetworkService) -> Vec<String> {
    let kept = StdMutex::new(Vec::new());
    let note = |pruned: Pruned| {
        kept.lock().unwrap().extend(pruned.kept);
        true
    };
    service.prune(false, &note).await.unwrap();
    kept.into_inner().unwrap()
}

#[tokio::test]
async fn a_network_is_created_once_and_told_of() {
    let Setup {
        _dir,
        users,
        service,
        ..
    } = setup();
    let data = bridge("a", "10.1.0.0/16");
    service.create("a", &data, false).await.unwrap();
    assert_eq!(service.get("a").await.unwrap().data, data);
    assert_eq!(*users.created.lock().unwrap(), ["a"]);
    let error = kind(
        service.create("a", &data, false).await,
        ErrorKind::AlreadyExists,
    );
    assert!(error.contains("--force"), "{error}");
    service
        .create("a", &bridge("a", "10.2.0.0/16"), true)
        .await
        .unwrap();
    assert_ne!(service.get("a").await.unwrap().data, data);
}

#[tokio::test]
async fn what_cannot_be_a_network_is_not_stored() {
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup();
    for (name, data, part) in [
        ("../a", bridge("a", "10.1.0.0/16"), "cannot name a network"),
        (
            "a",
            b"hello".to_vec(),
            "the configuration of network a: not valid json",
        ),
        (
            "a",
            bridge("b", "10.1.0.0/16"),
            "calls itself \"b\", not \"a\"",
        ),
        (
            "a",
            bridge("a", "10.1.0.0/99"),
            "the configuration of network a: ",
        ),
        (
            "a",
            br#"{"cniVersion":"1.0.0","type":"bridge"}"#.to_vec(),
            "name is missing",
        ),
    ] {
        let error = kind(
            service.create(name, &data, true).await,
            ErrorKind::InvalidArgument,
        );
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(service.list().await.unwrap(), NetworkListing::default());
}

#[tokio::test]
async fn a_missing_plugin_is_told_even_when_forced() {
    let Setup {
        _dir,
        service,
        users,
        ..
    } = setup_with(Users::default(), true);
    let created = service.create("a", &bridge("a", "10.1.0.0/16"), true).await;
    let error = kind(created, ErrorKind::FailedPrecondition);
    assert_eq!(error, "network a: plugin bridge is missing");
    assert!(users.created.lock().unwrap().is_empty());
}

#[tokio::test]
async fn overlaps_are_refused_and_named() {
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup();
    service
        .create("a", &bridge("a", "10.1.0.0/16"), false)
        .await
        .unwrap();
    for (subnet, part) in [
        (
            "10.1.2.0/24",
            "overlaps network a (10.1.0.0/16); choose another one, or give --force",
        ),
        (
            "10.0.0.0/8",
            "network a (10.1.0.0/16), route 10.88.0.0/16 dev ctr0",
        ),
        ("192.168.1.128/25", "route 192.168.1.0/24 dev eth0"),
        ("172.20.0.0/24", "resolver 172.20.0.53"),
    ] {
        let created = service.create("b", &bridge("b", subnet), false).await;
        let error = kind(created, ErrorKind::FailedPrecondition);
        assert!(error.contains(part), "{error}");
    }
    service
        .create("b", &bridge("b", "10.1.2.0/24"), true)
        .await
        .unwrap();
    // Neither its own bridge, nor a route to nowhere, nor the default route.
    service
        .create("ctr0", &bridge("ctr0", "10.88.0.0/16"), false)
        .await
        .unwrap();
    service
        .create("c", &bridge("c", "10.99.0.0/16"), false)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_network_that_joins_the_lan_may_have_its_subnet() {
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup();
    let on_lan = config("lan", "macvlan", "\"master\":\"eth0\",", "192.168.1.0/24");
    service.create("lan", &on_lan, false).await.unwrap();
}

#[tokio::test]
async fn a_network_in_use_stays() {
    let users = Users {
        users: StdMutex::new(vec!["db".into(), "web".into()]),
        ..Users::default()
    };
    let Setup {
        _dir,
        service,
        users,
        ..
    } = setup_with(users, false);
    service
        .create("a", &bridge("a", "10.1.0.0/16"), false)
        .await
        .unwrap();
    let error = kind(
        service.delete("a", false).await,
        ErrorKind::FailedPrecondition,
    );
    assert_eq!(
        error,
        "network a is used by containers db, web; disconnect them first, or give --force"
    );
    let replaced = service.create("a", &bridge("a", "10.2.0.0/16"), true).await;
    assert!(kind(replaced, ErrorKind::FailedPrecondition).contains("db, web"));
    service.delete("a", true).await.unwrap();
    assert!(users.users.lock().unwrap().is_empty());
    kind(service.get("a").await, ErrorKind::NotFound);
}

#[tokio::test]
async fn force_gives_up_on_containers_that_join_again() {
    let users = Users {
        users: StdMutex::new((0..12).map(|n| format!("c{n}")).collect()),
        sticky: true,
        ..Users::default()
    };
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup_with(users, false);
    service
        .create("a", &bridge("a", "10.1.0.0/16"), false)
        .await
        .unwrap();
    let error = kind(
        service.delete("a", true).await,
        ErrorKind::FailedPrecondition,
    );
    assert!(error.contains("c9 and 2 more; they join again"), "{error}");
    service.get("a").await.unwrap();
}

#[tokio::test]
async fn an_unknown_network_is_not_found() {
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup();
    service
        .create("ctr0", &bridge("ctr0", "10.1.0.0/16"), false)
        .await
        .unwrap();
    let error = kind(service.delete("ctr", false).await, ErrorKind::NotFound);
    assert!(error.ends_with("did you mean ctr0?"), "{error}");
    kind(
        service.delete("a/b", true).await,
        ErrorKind::InvalidArgument,
    );
}

#[tokio::test]
async fn a_broken_file_can_be_deleted_and_replaced() {
    let Setup {
        service, _dir: dir, ..
    } = setup();
    std::fs::write(dir.path().join("a.json"), "{").unwrap();
    assert_eq!(service.list().await.unwrap().problems.len(), 1);
    service
        .create("a", &bridge("a", "10.1.0.0/16"), true)
        .await
        .unwrap();
    assert_eq!(service.list().await.unwrap().problems, []);
    std::fs::write(dir.path().join("b.json"), "{").unwrap();
    service.delete("b", false).await.unwrap();
}

#[tokio::test]
async fn a_described_network_gets_a_free_subnet() {
    let Setup {
        _dir,
        service,
        users: _,
        ..
    } = setup();
    // A route of the host takes 10.88.0.0/16, a resolver 172.20.0.0/24.
    let pools = ["base=10.88.0.0/15,size=24", "base=172.20.0.0/16,size=24"];
    let service = service.with_pools(pools.map(|pool| pool.parse().unwrap()).into());
    let described = |name: &str| Description {
        name: name.to_owned(),
        ..Description::default()
    };
    let subnet =
        |made: &StoredNetwork| ConfigList::parse(&made.data).unwrap().subnets()[0].to_string();
    let dry = service.make(described("a"), false, true).await.unwrap();
    assert_eq!(subnet(&dry), "10.89.0.0/24");
    kind(service.get("a").await, ErrorKind::NotFound);
    let made = service.make(described("a"), false, false).await.unwrap();
    assert_eq!(made, dry);
    assert_eq!(service.get("a").await.unwrap(), made);
    let second = service.make(described("b"), false, false).await.unwrap();
    assert_eq!(subnet(&second), "10.89.1.0/24");
    let again = service.make(described("a"), false, false).await;
    kind(again, ErrorKind::AlreadyExists);
    let taken = Description {
        subnets: vec!["10.89.0.0/25".parse().unwrap()],
        ..described("c")
    };
    let error = kind(
        service.make(taken, false, false).await,
        ErrorKind::FailedPrecondition,
    );
    assert!(error.contains("overlaps network a"), "{error}");
}

#[tokio::test]
async fn networks_that_nobody_wants_are_pruned() {
    let Setup {
        _dir,
        service,
        users,
        ..
    } = setup();
    for (name, third) in [("asked", 1), ("left", 2), ("gone", 3)] {
        let data = bridge(name, &format!("10.1.{third}.0/24"));
        service.create(name, &data, false).await.unwrap();
    }
    let by = ("asked".to_owned(), "db".to_owned());
    users.wanted.lock().unwrap().extend([by]);
    let looked = StdMutex::new(Vec::new());
    let note = |pruned: Pruned| {
        looked.lock().unwrap().push((pruned.name, pruned.kept));
        true
    };
    service.prune(true, &note).await.unwrap();
    let want = [
        (
            "asked".to_owned(),
            Some("asked for by container db".to_owned()),
        ),
        ("gone".to_owned(), None),
        ("left".to_owned(), None),
    ];
    assert_eq!(*looked.lock().unwrap(), want);
    assert_eq!(service.list().await.unwrap().networks.len(), 3);
    // Who reads stops it.
    let first = |pruned: Pruned| pruned.kept.is_some();
    service.prune(false, &first).await.unwrap();
    let names = |listing: NetworkListing| {
        let names = listing.networks.into_iter().map(|n| n.name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(service.list().await.unwrap()), ["asked", "left"]);
    users.users.lock().unwrap().push("web".to_owned());
    service.prune(false, &|_| true).await.unwrap();
    assert_eq!(names(service.list().await.unwrap()), ["asked", "left"]);
    users.users.lock().unwrap().clear();
    service.prune(false, &|_| true).await.unwrap();
    assert_eq!(names(service.list().await.unwrap()), ["asked"]);
}

#[tokio::test]
async fn what_other_programs_hold_keeps_a_network() {
    let Setup {
        _dir,
        service,
        users,
        ..
    } = setup();
    let data = bridge("a", "10.1.0.0/16");
    service.create("a", &data, false).await.unwrap();
    users.holders.lock().unwrap().push("other-web".to_owned());
    let error = kind(
        service.delete("a", false).await,
        ErrorKind::FailedPrecondition,
    );
    assert_eq!(
        error,
        "network a is used by container other-web of another program; disconnect them first, or \
         give --force"
    );
    let replaced = service.create("a", &data, true).await;
    assert!(kind(replaced, ErrorKind::FailedPrecondition).contains("other-web"));
    let kept = kept_by_prune(&service).await;
    assert_eq!(kept, ["used by container other-web of another program"]);
    service.delete("a", true).await.unwrap();
    assert_eq!(*users.holders.lock().unwrap(), ["other-web"]);
}

#[tokio::test]
async fn a_network_whose_holders_another_daemon_knows_stays() {
    let blind = Users {
        blind: true,
        ..Users::default()
    };
    let setup = setup_with(blind, false);
    let service = &setup.service;
    let data = bridge("a", "10.1.0.0/16");
    service.create("a", &data, false).await.unwrap();
    let other = bridge("a", "10.2.0.0/16");
    for refused in [
        service.delete("a", false).await,
        service.create("a", &other, true).await,
    ] {
        let error = kind(refused, ErrorKind::FailedPrecondition);
        assert!(error.contains("only --force deletes it"), "{error}");
    }
    let kept = kept_by_prune(service).await;
    assert!(kept[0].contains("another daemon"), "{kept:?}");
    service.delete("a", true).await.unwrap();
}

#[tokio::test]
async fn a_network_that_unknown_nodes_may_use_stays() {
    let setup = setup();
    let service = setup.service.shared(Sharing::Unknown);
    let data = bridge("a", "10.1.0.0/16");
    service.create("a", &data, false).await.unwrap();
    let there = service.create("a", &data, false).await;
    let error = kind(there, ErrorKind::AlreadyExists);
    assert!(error.contains("--redis-url"), "{error}");
    let deleted = service.delete("a", false).await;
    let error = kind(deleted, ErrorKind::FailedPrecondition);
    for part in ["network a is shared", "--redis-url", "--force"] {
        assert!(error.contains(part), "{error}");
    }
    let kept = kept_by_prune(&service).await;
    assert!(kept[0].contains("--redis-url"), "{kept:?}");
    service.get("a").await.unwrap();
    // Who says so knows.
    let other = bridge("a", "10.2.0.0/16");
    service.create("a", &other, true).await.unwrap();
    service.delete("a", true).await.unwrap();
}

/// A fleet without containers, and whether it is heard of.
struct Fleet(bool);

#[async_trait]
impl Lookups for Fleet {
    async fn ips(&self, _: &str, _: Option<&str>) -> Result<Addresses> {
        Ok(Addresses::default())
    }
    fn users_elsewhere(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
    fn is_current(&self) -> bool {
        self.0
    }
}

#[tokio::test]
async fn what_was_heard_of_other_nodes_a_while_ago_frees_no_network() {
    let setup = setup();
    let service = setup.service.shared(Sharing::Known(Arc::new(Fleet(false))));
    let data = bridge("a", "10.1.0.0/16");
    service.create("a", &data, false).await.unwrap();
    let deleted = service.delete("a", false).await;
    let error = kind(deleted, ErrorKind::FailedPrecondition);
    for part in ["network a is shared", "does not answer", "--force"] {
        assert!(error.contains(part), "{error}");
    }
    let kept = kept_by_prune(&service).await;
    assert!(kept[0].contains("does not answer"), "{kept:?}");
    let service = service.shared(Sharing::Known(Arc::new(Fleet(true))));
    service.delete("a", false).await.unwrap();
}

#[tokio::test]
async fn a_bridge_goes_with_the_network_that_it_is_named_after() {
    let setup = setup();
    let service = &setup.service;
    let config = |name: &str, bridge: &str| {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"{name}","type":"bridge","bridge":"{bridge}"}}"#
        );
        text.into_bytes()
    };
    for (name, bridge) in [
        ("web", "br-web"),
        ("lan", "br0"),
        ("guest", "br-guest"),
        ("other", "br-guest"),
    ] {
        service
            .create(name, &config(name, bridge), false)
            .await
            .unwrap();
    }
    // The same once more leaves nothing behind.
    service
        .create("web", &config("web", "br-web"), true)
        .await
        .unwrap();
    assert!(setup.removed.lock().unwrap().is_empty());
    let other = String::from_utf8(config("web", "br-web")).unwrap();
    let other = other.replace("1.0.0", "1.1.0");
    service.create("web", other.as_bytes(), true).await.unwrap();
    assert_eq!(*setup.removed.lock().unwrap(), ["br-web"]);
    for name in ["web", "lan", "guest", "other"] {
        service.delete(name, false).await.unwrap();
    }
    // br0 may be the host's, and another network was on br-guest.
    assert_eq!(*setup.removed.lock().unwrap(), ["br-web", "br-web"]);
}
