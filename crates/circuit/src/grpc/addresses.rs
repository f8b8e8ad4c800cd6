//! The service of address pools.

use circuit_api::v1;
use circuit_core::Error;
use circuit_core::service::{Address, AddressState, Release};
use tonic::{Request, Status};

use super::services::{Answer, Services, ask};
use super::status::status;

#[tonic::async_trait]
impl v1::ipam_server::Ipam for Services {
    async fn list_addresses(
        &self,
        request: Request<v1::ListAddressesRequest>,
    ) -> Answer<v1::ListAddressesResponse> {
        let v1::ListAddressesRequest { pool, network } = request.into_inner();
        ask("ListAddresses", async {
            let pool = Some(pool.as_str()).filter(|pool| !pool.is_empty());
            let mut addresses = self.to.addressing.list(pool).await?;
            addresses.retain(|address| network.is_empty() || address.network == network);
            let addresses = addresses.into_iter().map(told).collect();
            Ok(v1::ListAddressesResponse { addresses })
        })
        .await
    }

    async fn release_addresses(
        &self,
        request: Request<v1::ReleaseAddressesRequest>,
    ) -> Answer<v1::ReleaseAddressesResponse> {
        let request = request.into_inner();
        let (what, force) = (release(&request)?, request.force);
        let addressing = self.to.addressing.clone();
        self.change("ReleaseAddresses", async move {
            let freed = addressing.release(what, force).await?;
            let addresses = freed.into_iter().map(told).collect();
            Ok(v1::ReleaseAddressesResponse { addresses })
        })
        .await
    }
}

fn release(request: &v1::ReleaseAddressesRequest) -> Result<Release, Status> {
    let wrong = |text: &str| status(&Error::invalid(text));
    match (request.address.as_str(), request.node.as_str()) {
        ("", "") => Err(wrong("neither an address nor a node is named; name one")),
        ("", node) => Ok(Release::Node(node.to_owned())),
        (text, "") => Ok(Release::Address {
            pool: Some(request.pool.clone()).filter(|pool| !pool.is_empty()),
            address: text.parse().map_err(|_| {
                let text = format!("{text:?} is no address; write one like 10.88.0.7");
                status(&Error::invalid(text))
            })?,
        }),
        _ => Err(wrong("an address and a node are named; name one of them")),
    }
}

fn told(address: Address) -> v1::PoolAddress {
    let state = match address.state {
        AddressState::Used => "used",
        AddressState::Spare => "spare",
        AddressState::Abandoned => "abandoned",
        AddressState::Conflict => "conflict",
    };
    v1::PoolAddress {
        pool: address.pool,
        address: address.address.to_string(),
        state: state.to_owned(),
        node: address.node,
        container: address.container,
        network: address.network,
        interface: address.interface,
        claim_seconds: address.claim_ms / 1000,
    }
}
