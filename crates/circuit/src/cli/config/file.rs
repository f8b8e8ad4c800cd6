//! The configuration file: TOML of which each key is a flag's long name.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{Kind, Setting};

/// What the file says of one setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) values: Vec<String>,
}

/// Reads the file's text; the error begins with the number of its line.
pub(super) fn read(text: &str, settings: &[Setting]) -> Result<Vec<Entry>, String> {
    let line = |at: usize| {
        text.get(..at)
            .map_or(1, |before| before.matches('\n').count() + 1)
    };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!("line {}: {}", line(at), first_line(error.message()))
    })?;
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    // What is wrong is told from the top.
    pairs.sort_by_key(|(key, _)| key.span().start);
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let line = line(key.span().start);
        let entry = one(key.get_ref(), value, settings);
        let values = entry.map_err(|error| format!("line {line}: {error}"))?;
        let key = key.get_ref().to_string();
        entries.push(Entry { key, line, values });
    }
    Ok(entries)
}

fn one(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    settings: &[Setting],
) -> Result<Vec<String>, String> {
    let Some(setting) = settings.iter().find(|one| one.key == key) else {
        return Err(unknown(key, value.get_ref(), settings));
    };
    let values = values(setting, value.get_ref())?;
    for value in &values {
        let checked = setting.check(value);
        checked.map_err(|error| format!("{key}: {error}"))?;
    }
    Ok(values)
}

fn values(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let key = &setting.key;
    let wrong =
        |wanted: &str, value| Err(format!("{key} must be {wanted}, not {}", described(value)));
    match (setting.kind, value) {
        (Kind::Switch, DeValue::Boolean(on)) => Ok(vec![on.to_string()]),
        (Kind::Switch, other) => wrong("true or false", other),
        (Kind::Number, DeValue::Integer(number)) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            let number = read.map_err(|_| format!("{key}: {} is too large", number.as_str()))?;
            Ok(vec![number.to_string()])
        }
        (Kind::Number, other) => wrong("a whole number", other),
        (Kind::Text | Kind::List, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Text, other) => wrong("text in quotes", other),
        (Kind::List, DeValue::Array(list)) => {
            let texts = list.iter().map(|one| match one.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(format!(
                    "{key} must be a list of texts in quotes; there is {} in it",
                    described(other)
                )),
            });
            texts.collect()
        }
        (Kind::List, other) => wrong("a list of texts in quotes", other),
    }
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// What is said of a key that nothing knows.
fn unknown(key: &str, value: &DeValue<'_>, settings: &[Setting]) -> String {
    if let DeValue::Table(table) = value {
        // `[dns]` with `ttl` in it, where dns-ttl was meant.
        for inner in table.keys() {
            let (inner, joined) = (inner.get_ref(), format!("{key}-{}", inner.get_ref()));
            if settings.iter().any(|one| one.key == joined) {
                return format!("unknown key \"{key}.{inner}\"; did you mean {joined:?}?");
            }
        }
        return format!(
            "unknown section [{key}]: the file has no sections; write its keys without one"
        );
    }
    match nearest(key, settings) {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; `circuit server --print-config` shows all keys"),
    }
}

/// The key that was probably meant.
fn nearest<'a>(key: &str, settings: &'a [Setting]) -> Option<&'a str> {
    let key = key.to_lowercase().replace('_', "-");
    let distance = |near: &str| strsim::damerau_levenshtein(&key, near);
    let keys = || settings.iter().map(|one| one.key.as_str());
    let near = keys().min_by_key(|near| distance(near))?;
    if distance(near) <= (key.len() / 3).min(3) {
        return Some(near);
    }
    // A part of a name, such as upstream for dns-upstream.
    keys().find(|near| key.len() > 3 && near.contains(&key))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::settings::settings;
    use super::*;

    #[test]
    fn each_kind_of_value_is_read() {
        let text = "# mine\nheartbeat = \"5s\"\ndebug = true\n\ndns-limit = 1_000\n\
                    address = [\":1\", \":2\"]\ncni-path = \"/a:/b\"\nleave-on-stop = false\n";
        let read = read(text, &settings()).unwrap();
        let shown: Vec<_> = read
            .iter()
            .map(|one| format!("{} {} {}", one.line, one.key, one.values.join("|")))
            .collect();
        assert_eq!(
            shown,
            [
                "2 heartbeat 5s",
                "3 debug true",
                "5 dns-limit 1000",
                "6 address :1|:2",
                "7 cni-path /a:/b",
                "8 leave-on-stop false",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, want) in [
            (
                "\nheartbeet = 1",
                "line 2: unknown key \"heartbeet\"; did you mean \"heartbeat\"?",
            ),
            (
                "dns_ttl = 1",
                "line 1: unknown key \"dns_ttl\"; did you mean \"dns-ttl\"?",
            ),
            (
                "upstream = 1",
                "line 1: unknown key \"upstream\"; did you mean \"dns-upstream\"?",
            ),
            (
                "whatever = 1",
                "line 1: unknown key \"whatever\"; `circuit server --print-config` shows all keys",
            ),
            (
                "config = 1",
                "line 1: unknown key \"config\"; `circuit server",
            ),
            (
                "[dns]\nttl = \"1s\"",
                "line 1: unknown key \"dns.ttl\"; did you mean \"dns-ttl\"?",
            ),
            (
                "\n[server]\nlease = \"1s\"",
                "line 2: unknown section [server]: the file has no sections; write its keys \
                 without one",
            ),
            (
                "debug = \"yes\"",
                "line 1: debug must be true or false, not text",
            ),
            (
                "heartbeat = 10",
                "line 1: heartbeat must be text in quotes, not an integer",
            ),
            (
                "dns-limit = \"9\"",
                "line 1: dns-limit must be a whole number, not text",
            ),
            ("dns-limit = 0", "line 1: dns-limit: bad value \"0\": "),
            ("dns-limit = -1", "line 1: dns-limit: bad value \"-1\": "),
            (
                "address = [1]",
                "line 1: address must be a list of texts in quotes; there is an integer in it",
            ),
            (
                "lease = \"5d\"",
                "line 1: lease: bad value \"5d\": \"d\" is no unit; give a number with ms, s, m \
                 or h",
            ),
            (
                "data-path = \"fast\"",
                "line 1: data-path: bad value \"fast\": give one of auto, native, exec",
            ),
            ("debug = true\ndebug = true", "line 2: duplicate key"),
            ("lease = 10s", "line 1: "),
            ("lease", "line 1: "),
        ] {
            let error = read(text, &settings()).unwrap_err();
            assert!(error.starts_with(want), "{text:?}: {error}");
        }
    }
}
