//! The services of names: ours, and the one that CoreDNS calls.

use circuit_api::coredns::{DnsPacket, dns_service_server::DnsService};
use circuit_api::v1;
use circuit_core::Error;
use circuit_core::service::NameRecord;
use tonic::{Request, Response};

use super::services::{Answer, Services, ask};
use super::status::status;

#[tonic::async_trait]
impl v1::dns_server::Dns for Services {
    async fn query_name(
        &self,
        request: Request<v1::QueryNameRequest>,
    ) -> Answer<v1::QueryNameResponse> {
        let v1::QueryNameRequest { name, r#type } = request.into_inner();
        ask("QueryName", async {
            let answer = self.to.names.query(&name, &r#type).await?;
            Ok(v1::QueryNameResponse {
                code: answer.code,
                records: answer.records.into_iter().map(told).collect(),
                source: answer.source,
                nodes: answer.nodes,
                micros: u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX),
            })
        })
        .await
    }

    async fn list_names(
        &self,
        request: Request<v1::ListNamesRequest>,
    ) -> Answer<v1::ListNamesResponse> {
        let suffix = request.into_inner().suffix;
        let suffix = suffix.trim_matches('.').to_ascii_lowercase();
        let within = |name: &str| {
            let rest = name.strip_suffix(&suffix);
            rest.is_some_and(|rest| suffix.is_empty() || rest.is_empty() || rest.ends_with('.'))
        };
        ask("ListNames", async {
            let mut records = self.to.names.list();
            records.retain(|record| within(&record.name));
            let records = records.into_iter().map(told).collect();
            Ok(v1::ListNamesResponse { records })
        })
        .await
    }
}

#[tonic::async_trait]
impl DnsService for Services {
    async fn query(&self, request: Request<DnsPacket>) -> Answer<DnsPacket> {
        let answer = self.to.names.message(&request.into_inner().msg);
        let msg = answer.ok_or_else(|| status(&Error::invalid("that is no question of dns")))?;
        Ok(Response::new(DnsPacket { msg }))
    }
}

fn told(record: NameRecord) -> v1::NameRecord {
    v1::NameRecord {
        name: record.name,
        r#type: record.kind,
        data: record.data,
        ttl: record.ttl,
        node: record.node,
    }
}
