//! Two services that change networks of one store side by side.

use std::collections::BTreeSet;

use circuit_testing::RedisServer;

use super::*;
use crate::redis;
use crate::store::SharedStore;

/// As many networks are made by each.
const EACH: usize = 8;

fn service(store: Arc<dyn Store>) -> Arc<NetworkService> {
    let users = Arc::new(Users::default());
    let pools = vec!["base=10.89.0.0/16,size=24".parse().unwrap()];
    let service = NetworkService::on(store, users, Arc::new(here(false)));
    Arc::new(service.with_pools(pools))
}

/// Both make networks at once; no two get the same subnet.
async fn make_side_by_side(services: [Arc<NetworkService>; 2]) {
    let mut making = tokio::task::JoinSet::new();
    for (side, service) in services.iter().enumerate() {
        for number in 0..EACH {
            let service = Arc::clone(service);
            let description = Description {
                name: format!("n{side}-{number}"),
                ..Description::default()
            };
            making.spawn(async move {
                let made = service.make(description, false, false).await.unwrap();
                let list = ConfigList::parse(&made.data).unwrap();
                list.subnets()[0].to_string()
            });
        }
    }
    let subnets: BTreeSet<String> = making.join_all().await.into_iter().collect();
    assert_eq!(subnets.len(), 2 * EACH, "{subnets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_of_a_host_choose_different_subnets() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LocalStore::in_folder(dir.path().to_owned()).unwrap();
    let services = [open(), open()].map(|store| service(Arc::new(store)));
    make_side_by_side(services).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_a_fleet_choose_different_subnets() {
    let server = RedisServer::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = async |dir: &tempfile::TempDir| {
        let url = redis::Url::parse(&server.url()).unwrap();
        let redis = redis::Store::open(&url).unwrap();
        redis.wait_up(circuit_testing::PATIENCE).await.unwrap();
        service(Arc::new(SharedStore::open(redis, dir.path()).unwrap()))
    };
    make_side_by_side([open(&dirs[0]).await, open(&dirs[1]).await]).await;
}
