//! The native drivers against the stock plugins: each configuration runs
//! through the stock executables, 1.1.1, 1.9.1 or 1.10.0, and through ours, in worlds
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
//! - [`collect`]: GC, of which stock plugins have next to nothing;
//! - [`conformance`]: the protocol, asked of stock and native executables.
//!
//! `CIRCUIT_DIFFERENTIAL_CASES` says how many configurations are generated,
//! `CIRCUIT_DIFFERENTIAL_SEED` from which seed; `CIRCUIT_DIFFERENTIAL_SHOW`
//! prints what was seen. `CIRCUIT_DIFFERENTIAL_OLD` has all cases that the stock plugins
//! 1.1.1 know run by these too, `CIRCUIT_DIFFERENTIAL_NEWEST` all by 1.10.0 instead of
//! 1.9.1.

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
