//! How far a long operation has come, on a terminal, and its orderly end when the
//! user wants it to stop.

use std::io::{self, IsTerminal as _, Write as _};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A line on standard error that is overwritten; nothing where that is no terminal.
pub(super) struct Progress {
    what: &'static str,
    total: Option<usize>,
    done: usize,
    shown: bool,
}

impl Progress {
    /// Of so many things; of a number that is not known.
    pub(super) fn new(what: &'static str, total: Option<usize>) -> Self {
        Self {
            what,
            total,
            done: 0,
            shown: io::stderr().is_terminal() && total.is_none_or(|total| total > 1),
        }
    }

    /// One more is done.
    pub(super) fn step(&mut self, name: &str) {
        self.done += 1;
        self.write(&line(self.what, self.done, self.total, name));
    }

    /// Makes room for another line.
    pub(super) fn clear(&self) {
        self.write("");
    }

    fn write(&self, line: &str) {
        if self.shown {
            // To the start of the line, and what was there before goes.
            let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(what: &str, done: usize, total: Option<usize>, name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
    match total {
        Some(total) => format!("{what} {done}/{total} {name}"),
        None => format!("{what} {done} {name}"),
    }
}

/// Counts how often the user has asked for an end, by Ctrl-C or SIGTERM: the first
/// time, what runs comes to its end; the second, the command ends at once.
pub(super) fn interruption() -> watch::Receiver<u32> {
    let (tell, told) = watch::channel(0);
    // From here on, and not from when the task has its turn.
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(mut pressed), Ok(mut ended)] = signals else {
        return told;
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = pressed.recv() => {}
                _ = ended.recv() => {}
            }
            let before = *tell.borrow();
            if before == 0 {
                output_note();
            }
            if tell.send(before + 1).is_err() {
                return;
            }
        }
    });
    told
}

fn output_note() {
    let note = "ending after what runs now; again to end at once, the server goes on with it";
    let _ = writeln!(io::stderr().lock(), "\r\x1b[K{note}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_tame() {
        assert_eq!(line("connected", 3, Some(10), "web"), "connected 3/10 web");
        let long = "x".repeat(100);
        let shown = line("pruned", 3, None, &format!("\x1b{long}"));
        assert_eq!(shown, format!("pruned 3 {}", "x".repeat(40)));
    }
}
