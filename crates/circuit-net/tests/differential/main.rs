//! The native drivers against the stock plugins: each configuration runs
//! through the stock executables of both versions and through ours, in worlds
//! of their own that have the same names, and everything seen must be equal.
//!
//! - [`world`]: a host, its containers and what is outside of it, as
//!   namespaces that end with their thread;
//! - [`runtime`]: a small container runtime that calls plugins;
//! - [`snapshot`], [`traffic`]: what is seen of a world;
//! - [`normal`]: what is random gets a name for what it is;
//! - [`script`]: what is done with each configuration, in which order;
//! - [`compare`]: the differences, and [`purpose`]: those that are meant;
//! - [`cases`]: the configurations, by type, and [`generated`] ones;
//! - [`planted`]: differences made on purpose, which must be found;
//! - [`collect`]: GC, which no stock plugin has;
//! - [`conformance`]: the protocol, asked of stock and native executables.
//!
//! `CIRCUIT_DIFFERENTIAL_CASES` says how many configurations are generated,
//! `CIRCUIT_DIFFERENTIAL_SEED` from which seed; `CIRCUIT_DIFFERENTIAL_SHOW`
//! prints what was seen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stderr, reason = "a failing test says what it saw")]

mod cases;
mod collect;
mod compare;
mod conformance;
mod generated;
mod normal;
mod planted;
mod purpose;
mod runtime;
mod script;
mod sides;
mod snapshot;
mod traffic;
mod world;
