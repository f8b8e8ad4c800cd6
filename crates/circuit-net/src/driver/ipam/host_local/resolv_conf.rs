//! Name resolution out of a file as `resolv.conf` is.

use std::path::Path;

use circuit_core::cni::{Dns, ErrorReport, code};

use crate::driver::Answer;

pub(super) fn read(path: &Path) -> Answer<Dns> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        ErrorReport::new(
            code::IO_FAILURE,
            format!("cannot read ipam.resolvConf {}: {e}", path.display()),
        )
    })?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(key), Some(value)) = (words.next(), words.next()) else {
            continue;
        };
        let all = std::iter::once(value.clone()).chain(words);
        match key.as_str() {
            "nameserver" => dns.nameservers.push(value),
            "domain" => dns.domain = Some(value),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_counts_that_says_something() {
        let dns = parse(
            "# nameserver 9.9.9.9\n;x\n\n nameserver 10.0.0.1 \nnameserver\tfd00::1 x\n\
             domain a.test\ndomain b.test\nsearch a.test b.test\nsearch c.test\n\
             options ndots:2 rotate\nnameserver\nsortlist 10.0.0.0\n",
        );
        assert_eq!(dns.nameservers, ["10.0.0.1", "fd00::1"]);
        assert_eq!(dns.domain.as_deref(), Some("b.test"));
        assert_eq!(dns.search, ["a.test", "b.test", "c.test"]);
        assert_eq!(dns.options, ["ndots:2", "rotate"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/nowhere/resolv.conf")).unwrap_err();
        assert_eq!(error.code, code::IO_FAILURE);
        assert!(error.msg.contains("/nowhere/resolv.conf"), "{}", error.msg);
    }
}
