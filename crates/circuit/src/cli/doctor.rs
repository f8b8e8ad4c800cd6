//! `circuit doctor`: examines the daemon's node.

use std::io::{self, IsTerminal as _};

use circuit_api::v1;
use clap::Args;
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, answer};
use super::output::{self, Failure, Format, FormatArg};
use super::progress::{Progress, interruption};

/// What `doctor` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
It ends with code 1 when there is a problem, so that scripts can ask it.

Examples:
  circuit doctor
  circuit doctor --fix
  circuit doctor --format json | jq '.findings[] | select(.level == \"problem\")'")]
pub struct Doctor {
    /// Put right what is safe to: forwarding, firewall rules that are gone,
    /// namespaces and addresses that nobody has.
    #[arg(long)]
    fix: bool,

    #[command(flatten)]
    format: FormatArg,
}

impl Doctor {
    /// Asks the daemon.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        let request = v1::ExamineRequest { fix: self.fix };
        let mut found = answer(client.doctor().examine(request).await)?;
        let mut progress = Progress::new("examined", None);
        let mut interrupted = interruption();
        let mut all = Vec::new();
        loop {
            let next = tokio::select! {
                next = found.message() => next,
                Ok(_) = interrupted.wait_for(|times| *times > 0) => {
                    return Err("stopped: the rest was not examined".to_owned().into());
                }
            };
            let Some(finding) = answer(next.map(tonic::Response::new))? else {
                break;
            };
            progress.clear();
            if self.format.format == Format::Table {
                let text = text(&finding, io::stdout().is_terminal());
                output::though_unread(output::print(text.as_bytes()))?;
            }
            progress.step(&finding.check);
            all.push(finding);
        }
        drop(progress);
        if self.format.format == Format::Json {
            let findings: Value = all.iter().map(to_json).collect();
            output::though_unread(output::print_json(&json!({ "findings": findings })))?;
        }
        verdict(&all)
    }
}

fn verdict(all: &[v1::Finding]) -> Result<(), Failure> {
    let problems = all.iter().filter(|finding| finding.level == "problem");
    match problems.count() {
        0 => Ok(()),
        1 => Err("there is a problem".to_owned().into()),
        count => Err(format!("there are {count} problems").into()),
    }
}

/// A finding: its level, what was examined, what is so, and what to do.
fn text(finding: &v1::Finding, terminal: bool) -> String {
    let colour = match &*finding.level {
        "problem" => "1;31",
        "warning" => "1;33",
        "fixed" | "fine" => "32",
        _ => "2",
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let level = format!("{:<8}", finding.level);
    let level = match terminal && !plain {
        true => format!("\x1b[{colour}m{level}\x1b[0m"),
        false => level,
    };
    let message = crate::text::one_line(&finding.message);
    let mut text = format!("{level} {:<12} {message}\n", finding.check);
    if !finding.remedy.is_empty() {
        let remedy = crate::text::one_line(&finding.remedy);
        text.push_str(&format!("{:22}to do: {remedy}\n", ""));
    }
    text
}

fn to_json(finding: &v1::Finding) -> Value {
    json!({
        "check": finding.check, "level": finding.level, "message": finding.message,
        "remedy": finding.remedy, "fixable": finding.fixable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_in_lines() {
        let finding = |level: &str, remedy: &str| v1::Finding {
            check: "redis".into(),
            level: level.into(),
            message: "it is away".into(),
            remedy: remedy.into(),
            fixable: false,
        };
        let bad = finding("problem", "start it");
        assert_eq!(
            text(&bad, false),
            "problem  redis        it is away\n                      to do: start it\n"
        );
        assert_eq!(
            text(&finding("fine", ""), false),
            "fine     redis        it is away\n"
        );
        assert!(verdict(&[finding("warning", "x")]).is_ok());
        assert!(verdict(&[bad.clone(), bad]).is_err());
    }
}
