//! What a plugin asks of the address management that its configuration names.

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};

use crate::driver::{Answer, Call, Command};

/// The type of address management that a configuration names, if any.
pub(in crate::driver) fn kind(config: &JsonObject) -> Option<&str> {
    let kind = config.get("ipam")?.get("type")?.as_str()?;
    (!kind.is_empty()).then_some(kind)
}

/// Asks for addresses: at least one.
///
/// # Errors
/// Those of the address management. Nothing is held then.
pub(in crate::driver) fn add(call: &Call<'_>, kind: &str) -> Answer<CniResult> {
    let result = call.delegate.run(kind, Command::Add, call.config, call)?;
    match result {
        Some(result) if !result.ips.is_empty() => Ok(result),
        _ => {
            give_back(call, kind);
            Err(ErrorReport::new(
                code::OTHER,
                format!("{kind} gave no address: configure some in ipam"),
            ))
        }
    }
}

/// Gives back what a failed ADD was given: its own failure is the one to tell,
/// and the DEL that it is owed tries again.
pub(in crate::driver) fn give_back(call: &Call<'_>, kind: &str) {
    let call = Call {
        command: Command::Del,
        ..*call
    };
    let _ = call.delegate.run(kind, Command::Del, call.config, &call);
}

/// Has the address management, if there is one, do its part of a DEL, CHECK,
/// STATUS or GC.
///
/// # Errors
/// Those of the address management.
pub(in crate::driver) fn forward(call: &Call<'_>) -> Answer<()> {
    match kind(call.config) {
        None => Ok(()),
        Some(kind) => call
            .delegate
            .run(kind, call.command, call.config, call)
            .map(drop),
    }
}
