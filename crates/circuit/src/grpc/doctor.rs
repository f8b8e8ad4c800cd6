//! The service that examines a node.

use std::sync::Arc;

use circuit_api::v1;
use circuit_core::doctor::Finding;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::services::{Answer, Services};

fn told(finding: Finding) -> v1::Finding {
    v1::Finding {
        check: finding.check.to_owned(),
        level: finding.level.name().to_owned(),
        message: finding.message,
        remedy: finding.remedy,
        fixable: finding.fixable,
    }
}

#[tonic::async_trait]
impl v1::doctor_server::Doctor for Services {
    type ExamineStream = BoxStream<'static, Result<v1::Finding, Status>>;

    async fn examine(&self, request: Request<v1::ExamineRequest>) -> Answer<Self::ExamineStream> {
        let fix = request.into_inner().fix;
        let doctor = Arc::clone(&self.to.doctor);
        let (tell, found) = mpsc::unbounded_channel();
        let failed = tell.clone();
        let work = async move {
            let tell = |finding| tell.send(Ok(told(finding))).is_ok();
            doctor.examine(fix, &tell).await
        };
        self.change_telling("Examine", work, move |status| {
            drop(failed.send(Err(status)))
        });
        let found = stream::unfold(found, |mut found| async move {
            let one = found.recv().await?;
            Some((one, found))
        });
        Ok(Response::new(found.boxed()))
    }
}
