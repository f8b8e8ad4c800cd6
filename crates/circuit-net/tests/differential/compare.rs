//! What differs between two worlds.

use std::fmt;

use serde_json::Value;

use crate::world::CONTAINERS;

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

    /// The first ADD of each container, and whether all plugins said yes to it.
    pub(crate) fn first_adds(&self) -> impl Iterator<Item = (&'static str, bool)> {
        CONTAINERS.into_iter().filter_map(|container| {
            let (_, seen) = &self.steps[self.position(&format!("ADD {container}"))?];
            let mut answers = seen.as_array().unwrap().iter();
            Some((container, answers.all(|answer| answer["exit"] == 0)))
        })
    }

    fn position(&self, step: &str) -> Option<usize> {
        self.steps.iter().position(|(name, _)| name == step)
    }

    /// Whether what differs there may come of an ADD that was refused before: it is of
    /// that ADD's container, or of none.
    pub(crate) fn is_after_a_refusal(&self, difference: &Difference) -> bool {
        let Difference { step, path, .. } = difference;
        let of_step = step.split(' ').nth(1);
        let of_path = path.split('.').next();
        let is_of = |container: &str| {
            let peer = format!("(peer of {container} ");
            [of_step, of_path].contains(&Some(container)) || path.contains(&peer)
        };
        let of = CONTAINERS.into_iter().find(|container| is_of(container));
        let now = self.position(step);
        self.first_adds().any(|(container, worked)| {
            !worked
                && of.is_none_or(|of| of == container)
                && self.position(&format!("ADD {container}")) <= now
        })
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
fn only_what_comes_of_a_refusal_is_tolerated() {
    let mut record = Record::default();
    for (step, exit) in [
        ("ADD one", 0),
        ("CHECK one", 0),
        ("ADD two", 1),
        ("DEL two", 0),
    ] {
        record.push(step, serde_json::json!([{ "exit": exit }]));
    }
    record.push("attached", Value::Null);
    for (step, path, expected) in [
        ("CHECK one", "0.exit", false),
        ("ADD two", "0.code", true),
        ("DEL two", "0.exit", true),
        ("attached", "one.links.eth0", false),
        ("attached", "two.links.eth0", true),
        ("attached", "host.links.cni0", true),
        ("attached", "host.links.(peer of one eth0).mtu", false),
        ("ADD one", "", false),
    ] {
        let difference = Difference {
            step: step.to_owned(),
            path: path.to_owned(),
            left: Value::Null,
            right: Value::Null,
        };
        let may = record.is_after_a_refusal(&difference);
        assert_eq!(may, expected, "{step} {path}");
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
