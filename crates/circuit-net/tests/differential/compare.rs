//! What differs between two worlds.

use std::fmt;

use serde_json::Value;

/// What was seen of a world, step by step.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Each step with what was seen.
    pub(crate) steps: Vec<(String, Value)>,
}

/// One place in which two worlds differ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    /// What was done.
    pub(crate) step: String,
    /// Where it shows, such as `host.links.cni0.mtu`.
    pub(crate) path: String,
    pub(crate) left: Value,
    pub(crate) right: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            path,
            left,
            right,
        } = self;
        write!(f, "[{step}] {path}: {left} became {right}")
    }
}

impl Record {
    pub(crate) fn push(&mut self, step: impl Into<String>, seen: Value) {
        self.steps.push((step.into(), seen));
    }
}

/// All places in which two records differ.
pub(crate) fn differences(left: &Record, right: &Record) -> Vec<Difference> {
    let mut found = Vec::new();
    let seen = |record: &Record, name: &str| {
        let step = record.steps.iter().find(|(step, _)| step == name);
        step.map_or(Value::Null, |(_, seen)| seen.clone())
    };
    let only_right = right.steps.iter().map(|(step, _)| step).filter(|step| {
        let mut steps = left.steps.iter();
        !steps.any(|(left, _)| left == *step)
    });
    for step in left.steps.iter().map(|(step, _)| step).chain(only_right) {
        let (left, right) = (seen(left, step), seen(right, step));
        compare(step, "", &left, &right, &mut found);
    }
    found
}

fn compare(step: &str, path: &str, left: &Value, right: &Value, found: &mut Vec<Difference>) {
    let inner = |key: &dyn fmt::Display| match path {
        "" => key.to_string(),
        path => format!("{path}.{key}"),
    };
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                let value = |side: &serde_json::Map<String, Value>| {
                    side.get(key).cloned().unwrap_or_default()
                };
                compare(step, &inner(key), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(step, &inner(&at), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let only = |one: &[Value], other: &[Value]| {
                let missing = one.iter().filter(|value| !other.contains(value));
                Value::Array(missing.cloned().collect())
            };
            found.push(Difference {
                step: step.to_owned(),
                path: path.to_owned(),
                left: only(a, b),
                right: only(b, a),
            });
        }
        (a, b) if a != b => found.push(Difference {
            step: step.to_owned(),
            path: path.to_owned(),
            left: a.clone(),
            right: b.clone(),
        }),
        _ => {}
    }
}

/// Whether a text is as a pattern says, in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len())
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| matches(rest, &text[at..]))
        }),
    }
}

#[test]
fn patterns_match() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a*", "ab", true),
        ("*b", "ab", true),
        ("a*c*e", "abcde", true),
        ("a*c*e", "abde", false),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}
