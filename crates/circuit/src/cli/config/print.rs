//! Settings written as a configuration file.

use std::fmt::Write as _;

use super::settings::Kind;
use super::{Origin, Value};

/// The configuration file that says what is in force now.
pub(super) fn in_force(values: &[Value]) -> String {
    let mut text = String::from(
        "# What `circuit server` runs with: each setting, and where it comes from. A flag\n\
         # counts more than an environment variable, that more than the configuration\n\
         # file, and that more than the default.\n\n",
    );
    for value in values {
        let setting = &value.setting;
        let given: Vec<_> = value.values.iter().map(String::as_str).collect();
        let (shown, secret) = shown(&given);
        let (comment, origin) = match &value.origin {
            Origin::Default if given.is_empty() => ("# ", "not set".to_owned()),
            // A masked password must not be taken for the password.
            origin if secret => ("# ", format!("{origin}; the password is left out")),
            origin => ("", origin.to_string()),
        };
        let written = written(setting.kind, &shown);
        let _ = writeln!(text, "{comment}{} = {written} # {origin}", setting.key);
    }
    text
}

/// The values of a setting as TOML.
pub(super) fn written(kind: Kind, values: &[String]) -> String {
    let first = values.first().map(String::as_str);
    match kind {
        Kind::Switch => first.unwrap_or("false").to_owned(),
        Kind::Number => first.unwrap_or("0").to_owned(),
        Kind::Text => quoted(first.unwrap_or_default()),
        Kind::List => {
            let texts: Vec<_> = values.iter().map(|one| quoted(one)).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// The values without passwords, and whether there was one.
fn shown(values: &[&str]) -> (Vec<String>, bool) {
    let shown: Vec<_> = values.iter().map(|one| without_password(one)).collect();
    let secret = shown
        .iter()
        .zip(values)
        .any(|(shown, value)| shown != value);
    (shown, secret)
}

fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let rest = match rest.rsplit_once('@') {
        Some((login, host)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("***@{host}"),
        },
        None => rest.to_owned(),
    };
    let query = query.map(|query| {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) if key.contains("password") => format!("{key}=***"),
            _ => pair.to_owned(),
        });
        format!("?{}", pairs.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}://{rest}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out() {
        for (url, want) in [
            ("redis://a:6379/1", "redis://a:6379/1"),
            ("redis://u:p@a", "redis://u:***@a"),
            ("rediss://:p@ss@a/0?ca=/c", "rediss://:***@a/0?ca=/c"),
            ("redis://token@a", "redis://***@a"),
            (
                "unix:///s?user=u&password=p",
                "unix:///s?user=u&password=***",
            ),
            (
                "redis+sentinel://u:p@a,b/m?sentinel-password=q",
                "redis+sentinel://u:***@a,b/m?sentinel-password=***",
            ),
            ("local:///var/lib/circuit", "local:///var/lib/circuit"),
            ("node1", "node1"),
        ] {
            assert_eq!(without_password(url), want);
        }
    }

    #[test]
    fn text_is_quoted_as_toml_has_it() {
        assert_eq!(quoted("a\"\\\n\u{e9}"), "\"a\\\"\\\\\\u000A\u{e9}\"");
    }
}
