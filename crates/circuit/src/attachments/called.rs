//! Containers by what people call them who do not see their ids: nerdctl's.

use circuit_core::{Error, ErrorKind, Result, labels::NERDCTL_NAME_LABEL, runtime::Container};
use futures::future::BoxFuture;

use super::Attachments;

/// The digits of nerdctl's ids, and as many as it shows at least.
const ID_DIGITS: usize = 64;
const SHOWN_DIGITS: usize = 12;

impl Attachments {
    /// Does something with a container, by its id; where that finds none, with the one
    /// that is meant by the name that nerdctl gave it, or by the beginning of its id.
    ///
    /// # Errors
    /// Those of what is done; when several are called so, and when the runtime cannot be
    /// asked.
    pub(crate) async fn with_meant<'a, T>(
        &self,
        called: &str,
        act: impl Fn(String) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        let done = act(called.to_owned()).await;
        if !matches!(&done, Err(error) if error.kind() == ErrorKind::NotFound) {
            return done;
        }
        match choose(called, &self.runtime().containers().await?)? {
            Some(id) => act(id).await,
            None => done,
        }
    }
}

fn choose(called: &str, containers: &[Container]) -> Result<Option<String>> {
    // Something else is not there: the network.
    if containers.iter().any(|it| it.id == called) {
        return Ok(None);
    }
    let meant = containers.iter().filter(|it| is_called(it, called));
    let ids: Vec<&str> = meant.map(|it| it.id.as_str()).collect();
    match ids[..] {
        [] => Ok(None),
        [id] => Ok(Some(id.to_owned())),
        _ => Err(Error::precondition(format!(
            "{called} is what several containers are called: write the id of one, {}",
            ids.join(" or ")
        ))),
    }
}

fn is_called(container: &Container, called: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = container.labels.get(NERDCTL_NAME_LABEL);
    let is_beginning = called.len() >= SHOWN_DIGITS
        && container.id.len() == ID_DIGITS
        && is_hex(&container.id)
        && container.id.starts_with(called);
    name.is_some_and(|name| name == called) || is_beginning
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, name: &str) -> Container {
        Container {
            id: id.to_owned(),
            labels: [(NERDCTL_NAME_LABEL.to_owned(), name.to_owned())].into(),
            extension: None,
            created_at: None,
            changed_at: None,
            resolv_conf: None,
        }
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn one_is_meant_by_its_name_or_the_beginning_of_its_id() {
        let (one, two) = ("0f4c3c2b9d0a".to_owned(), "0f4c3c2b9d0b".to_owned());
        let (one, two) = (one + &"1".repeat(52), two + &"2".repeat(52));
        let all = [
            container(&one, "shop"),
            container(&two, "till"),
            container("0f4c3c2b9d0c-web", "till"),
        ];
        let meant = |called: &str| choose(called, &all);
        assert_eq!(meant("shop").unwrap().as_deref(), Some(&*one));
        assert_eq!(meant("0f4c3c2b9d0b").unwrap().as_deref(), Some(&*two));
        // Too short, no id of nerdctl's, and its very id: another thing is missing then.
        for called in ["0f4c3c2b9d0", "0f4c3c2b9d0c", "", "sho", &one] {
            assert_eq!(meant(called).unwrap(), None, "{called}");
        }
        let error = meant("till").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.message().contains("0f4c3c2b9d0c-web"), "{error}");
    }
}
