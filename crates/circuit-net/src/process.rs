//! Telling one process from a later one with the same number.

use std::fs::File;
use std::io::Read as _;

/// When a process was started, in clock ticks since the machine was; `None`
/// when it has ended, also when nobody has reaped it yet. Together with the
/// pid it names one process for as long as the machine runs.
pub fn started(pid: u32) -> Option<u64> {
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    // The kernel gives the line as a whole, and it is shorter than that.
    let mut line = [0; 2048];
    let length = file.read(&mut line).ok()?;
    parse(&String::from_utf8_lossy(line.get(..length)?))
}

/// The fields are counted behind the command's name, which may hold anything.
fn parse(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_the_22nd_field() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) Z (b) S {}\n", fields.join(" "));
        assert_eq!(parse(&stat), Some(22));
        assert_eq!(parse(&stat.replace(") S", ") Z")), None);
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_name_may_be_no_text() {
        use std::os::unix::ffi::OsStrExt as _;

        let folder = tempfile::tempdir().unwrap();
        let program = folder
            .path()
            .join(std::ffi::OsStr::from_bytes(b"\xff) Z\n"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .spawn()
            .unwrap();
        let found = started(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some());
    }

    #[test]
    fn an_ended_process_has_no_start() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id();
        assert!(started(pid).is_some() && started(pid) == started(pid));
        child.kill().unwrap();
        // A zombie has ended, though its number is still taken.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while started(pid).is_some() {
            assert!(std::time::Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(started(pid), None);
    }
}
