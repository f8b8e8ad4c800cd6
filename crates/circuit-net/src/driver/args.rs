//! The keys of `CNI_ARGS`, which a plugin shares with all others of its list.

use circuit_core::cni::{ErrorReport, code};

use super::{Answer, Call};

/// Refuses a key of `CNI_ARGS` that `plugin` does not know, unless
/// `IgnoreUnknown` says that others may be there.
///
/// # Errors
/// Code 4, with the key.
pub(super) fn only(call: &Call<'_>, plugin: &str, known: &[&str]) -> Answer<()> {
    let ignore = match call.arg("IgnoreUnknown").map(str::to_ascii_lowercase) {
        None => false,
        Some(text) if text == "1" || text == "true" => true,
        Some(text) if text == "0" || text == "false" => false,
        Some(text) => {
            let text = format!("CNI_ARGS: IgnoreUnknown={text} is neither 1 nor 0");
            return Err(ErrorReport::new(code::INVALID_ENVIRONMENT, text));
        }
    };
    let unknown =
        |(key, _): &&(String, String)| key != "IgnoreUnknown" && !known.contains(&key.as_str());
    match call.args.iter().find(unknown) {
        Some((key, _)) if !ignore => Err(ErrorReport::new(
            code::INVALID_ENVIRONMENT,
            format!(
                "CNI_ARGS: {key} is not known to {plugin}: \
                 add IgnoreUnknown=1 if it is for another plugin"
            ),
        )),
        _ => Ok(()),
    }
}
