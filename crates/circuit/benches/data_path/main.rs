//! The data path beside the kernel's own floor, the stock plugins and netavark,
//! each row in one run: `scripts/bench data_path`. Nothing here passes or fails.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod executables;
mod flight;
mod floor;
mod netavark;
mod one;
mod ports;

use std::env;

/// A part of the benchmark: what prepares its node, and what measures inside.
struct Part {
    name: &'static str,
    outside: fn(&str),
    inside: fn(),
}

macro_rules! part {
    ($name:ident) => {
        Part {
            name: stringify!($name),
            outside: $name::outside,
            inside: $name::inside,
        }
    };
}

const PARTS: &[Part] = &[
    part!(one),
    part!(flight),
    part!(crowd),
    part!(ports),
    part!(executables),
    part!(netavark),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let part = |name: &str| PARTS.iter().find(|part| part.name == name);
    match arguments.first().map(String::as_str) {
        Some("inside") => (part(&arguments[1]).unwrap().inside)(),
        // `cargo bench` passes --bench; further words choose parts.
        _ => {
            let chosen: Vec<&Part> = arguments.iter().filter_map(|name| part(name)).collect();
            for part in PARTS {
                if chosen.is_empty() || chosen.iter().any(|one| one.name == part.name) {
                    (part.outside)(part.name);
                }
            }
        }
    }
}
