//! A container's `/etc/resolv.conf`: what is written there, what was there
//! before, and when the one or the other is put in place.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::zone::checksum;

/// How a file begins that Circuit has written. A checksum of the rest follows, so that
/// what is written beside our lines is not taken for ours; of old there was none.
const MARK: &str = "# circuit: names of networks; taken back when they are left";
/// As many servers are asked by resolvers (resolv.conf(5)).
const SERVERS: usize = 3;
/// As many domains and characters of them fit into old resolvers' searches.
const DOMAINS: (usize, usize) = (6, 255);
/// As many options are taken over from a container's own file.
const OPTIONS: usize = 16;

/// Where a task's `/etc/resolv.conf` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The first process.
    pub pid: u32,
    /// The host's file that is mounted there and is the container's own: whoever made
    /// the container keeps it for this one.
    pub own_file: Option<PathBuf>,
}

/// What is, or was, at `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Present {
    /// Nothing.
    Missing,
    /// A regular file. Times and extended attributes are not kept.
    File {
        /// All of it.
        content: Bytes,
        /// The permissions, without the type.
        mode: u32,
        /// The owner, as the host sees it.
        uid: u32,
        /// The group, as the host sees it.
        gid: u32,
    },
    /// A symbolic link, wherever it leads. Its owner is not kept.
    Link {
        /// Where to.
        target: Bytes,
    },
}

impl Present {
    /// Whether it is a file with exactly this text.
    pub fn is(&self, text: &str) -> bool {
        matches!(self, Self::File { content, .. } if content.0 == text.as_bytes())
    }

    /// The text of a file, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::File { content, .. } => std::str::from_utf8(&content.0).ok(),
            _ => None,
        }
    }

    /// Whether it is a file that Circuit has written, and nobody has changed since.
    pub fn is_ours(&self) -> bool {
        let Some((first, rest)) = self.text().and_then(|text| text.split_once('\n')) else {
            return false;
        };
        let told = first.strip_prefix(MARK);
        told.is_some_and(|told| told.is_empty() || told == sum(rest))
    }
}

/// Bytes that are a text in JSON when they are one, or else a list of numbers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Written> for Bytes {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => Self(text.into_bytes()),
            Written::Bytes(bytes) => Self(bytes),
        }
    }
}

impl From<Bytes> for Written {
    fn from(bytes: Bytes) -> Self {
        String::from_utf8(bytes.0).map_or_else(|e| Self::Bytes(e.into_bytes()), Self::Text)
    }
}

/// What is remembered of a container whose file was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The task that it was done for.
    pub pid: u32,
    /// The text that was written last.
    pub text: String,
    /// What was there before.
    pub original: Present,
}

impl Kept {
    /// The servers in the text that was written.
    pub fn servers(&self) -> impl Iterator<Item = IpAddr> {
        let lines = self.text.lines();
        lines.filter_map(|line| line.strip_prefix("nameserver ")?.parse().ok())
    }
}

/// What is to be done about a container's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// To be remembered; then the text is to be written, if it is not there.
    Write(Kept),
    /// The original is to be put back in the place of what is there; then it is
    /// to be forgotten.
    Restore(Present),
    /// To be forgotten: nothing of ours is there.
    Forget,
}

/// What a container's file is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Who is asked.
    pub servers: Vec<IpAddr>,
    /// Where names without a dot are looked for first.
    pub domains: Vec<String>,
}

/// Decides what is to be done for a task, by what is at the file now. Whatever
/// somebody else has written there since is left alone.
pub fn step(kept: Option<&Kept>, pid: u32, now: &Present, wanted: Option<&Wanted>) -> Step {
    let Some(wanted) = wanted else {
        return match kept {
            Some(kept) if now.is_ours() => Step::Restore(kept.original.clone()),
            Some(_) => Step::Forget,
            None => Step::Rest,
        };
    };
    let write = |original: &Present| {
        Step::Write(Kept {
            pid,
            text: wanted.text(original),
            original: original.clone(),
        })
    };
    let is_done = |kept: &Kept| kept.text == wanted.text(&kept.original) && now.is(&kept.text);
    match kept {
        Some(kept) if kept.pid == pid && is_done(kept) => Step::Rest,
        Some(kept) if now.is_ours() || *now == kept.original => write(&kept.original),
        // A task of before has another root, or had another file.
        Some(kept) if kept.pid != pid => write(now),
        Some(_) => Step::Rest,
        // What there was is lost with the record that knew it.
        None if now.is_ours() => write(&Present::Missing),
        None => write(now),
    }
}

impl Wanted {
    /// The text, behind which comes what the container's own file has besides servers:
    /// where it looks for names, and its options, of which the last ones count.
    pub fn text(&self, original: &Present) -> String {
        let own = Own::read(original.text().unwrap_or_default());
        let mut text = String::new();
        for server in self.servers.iter().take(SERVERS) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let mut search = String::from("search");
        let mut domains: Vec<&str> = Vec::new();
        for domain in self.domains.iter().map(String::as_str).chain(own.domains) {
            let fits = search.len() + 1 + domain.len() <= DOMAINS.1;
            if fits && domains.len() < DOMAINS.0 && !domains.contains(&domain) {
                domains.push(domain);
                search.push(' ');
                search.push_str(domain);
            }
        }
        if !domains.is_empty() {
            text.push_str(&search);
            text.push('\n');
        }
        text.push_str("options timeout:2 attempts:3");
        for option in own.options.iter().take(OPTIONS) {
            text.push(' ');
            text.push_str(option);
        }
        text.push('\n');
        format!("{MARK}{}\n{text}", sum(&text))
    }
}

/// What follows the mark before this text.
fn sum(text: &str) -> String {
    format!(" ({:08x})", checksum(text.as_bytes()))
}

/// What a container's own file says (resolv.conf(5)).
#[derive(Default)]
struct Own<'a> {
    domains: Vec<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> Own<'a> {
    fn read(text: &'a str) -> Self {
        let mut own = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            // Only what begins the line is a keyword.
            match words.next().filter(|word| line.starts_with(word)) {
                // The last one counts.
                Some("search") => own.domains = words.filter(|word| is_domain(word)).collect(),
                Some("domain") => own.domains = words.take(1).filter(|it| is_domain(it)).collect(),
                Some("options") => own.options.extend(words.filter(|word| is_option(word))),
                _ => {}
            }
        }
        own
    }
}

fn is_domain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    word.chars().all(plain) && word.chars().any(|c| c != '.')
}

fn is_option(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_');
    word.chars().all(plain) && word.len() <= 40
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(text: &str) -> Present {
        Present::File {
            content: Bytes(text.into()),
            mode: 0o644,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn what_was_there_is_put_back_and_what_others_wrote_is_left_alone() {
        let wanted = |server: &str, domains: &[&str]| Wanted {
            servers: vec![server.parse().unwrap()],
            domains: domains.iter().map(ToString::to_string).collect(),
        };
        let (first_wanted, newer_wanted) =
            (wanted("10.88.0.1", &["ctr0.lan"]), wanted("10.89.0.1", &[]));
        let ours = first_wanted.text(&Present::Missing);
        let newer = newer_wanted.text(&Present::Missing);
        let (own, link) = (
            file("nameserver 9.9.9.9\n"),
            Present::Link {
                target: Bytes(b"../run/\xff".to_vec()),
            },
        );
        let kept = |pid, text: &str, original: &Present| Kept {
            pid,
            text: text.into(),
            original: original.clone(),
        };
        let first = kept(7, &ours, &own);
        let edited = file(&format!("{ours}options ndots:1\n"));
        let old = ours.replace(&sum(ours.split_once('\n').unwrap().1), "");
        assert!(old.starts_with(&format!("{MARK}\nnameserver ")), "{old}");
        let write = |pid, text: &str, original: &Present| Step::Write(kept(pid, text, original));
        for (kept, pid, now, wanted, expected) in [
            (None, 7, &own, Some(&ours), write(7, &ours, &own)),
            (None, 7, &link, Some(&ours), write(7, &ours, &link)),
            (None, 7, &own, None, Step::Rest),
            (Some(&first), 7, &file(&ours), Some(&ours), Step::Rest),
            (
                Some(&first),
                7,
                &file(&ours),
                Some(&newer),
                write(7, &newer, &own),
            ),
            (
                Some(&first),
                7,
                &file(&ours),
                None,
                Step::Restore(own.clone()),
            ),
            // A crash came between the record and the file.
            (Some(&first), 7, &own, Some(&ours), write(7, &ours, &own)),
            (Some(&first), 7, &own, None, Step::Forget),
            // Somebody in the container has written another.
            (Some(&first), 7, &link, Some(&ours), Step::Rest),
            (Some(&first), 7, &link, Some(&newer), Step::Rest),
            (Some(&first), 7, &link, None, Step::Forget),
            // Or one line more into ours.
            (Some(&first), 7, &edited, Some(&ours), Step::Rest),
            (Some(&first), 7, &edited, Some(&newer), Step::Rest),
            (Some(&first), 7, &edited, None, Step::Forget),
            // A crash came between the record and the file, of a further network.
            (
                Some(&kept(7, &newer, &own)),
                7,
                &file(&ours),
                None,
                Step::Restore(own.clone()),
            ),
            // The daemon of before has written it.
            (
                Some(&kept(7, &old, &own)),
                7,
                &file(&old),
                Some(&ours),
                write(7, &ours, &own),
            ),
            (
                Some(&kept(7, &old, &own)),
                7,
                &file(&old),
                None,
                Step::Restore(own.clone()),
            ),
            // The next task, in the same root and in another.
            (
                Some(&first),
                8,
                &file(&ours),
                Some(&ours),
                write(8, &ours, &own),
            ),
            (Some(&first), 8, &link, Some(&ours), write(8, &ours, &link)),
            (
                None,
                8,
                &file(&ours),
                Some(&ours),
                write(8, &ours, &Present::Missing),
            ),
        ] {
            let wanted = wanted.map(|text| match text == &ours {
                true => &first_wanted,
                false => &newer_wanted,
            });
            assert_eq!(step(kept, pid, now, wanted), expected, "{now:?} {wanted:?}");
        }
    }

    #[test]
    fn a_text_has_no_more_than_resolvers_read() {
        let servers: Vec<IpAddr> = (1..6_u8).map(|n| [10, 0, 0, n].into()).collect();
        let domains: Vec<String> = (0..9)
            .map(|n| format!("{n}{}.lan", "x".repeat(60)))
            .collect();
        let text = Wanted { servers, domains }.text(&Present::Missing);
        assert_eq!(text.matches("nameserver").count(), 3);
        let search = text
            .lines()
            .find(|line| line.starts_with("search"))
            .unwrap();
        assert!(
            search.len() <= 255 && search.matches(".lan").count() == 3,
            "{search}"
        );
    }

    #[test]
    fn what_the_container_has_besides_servers_is_kept() {
        let wanted = Wanted {
            servers: vec!["10.88.0.1".parse().unwrap()],
            domains: vec!["ctr0.lan".into(), "lan".into()],
        };
        let own = "nameserver 9.9.9.9\nsearch old.example\ndomain one.example two.example\n\
                   ; options no\n# search no.example\n search no.example\n\
                   options ndots:2 a/b\noptions\ttimeout:1 \u{7f}\n";
        let text = wanted.text(&file(own));
        let (_, written) = text.split_once('\n').unwrap();
        let expected = "nameserver 10.88.0.1\nsearch ctr0.lan lan one.example\n\
                        options timeout:2 attempts:3 ndots:2 timeout:1\n";
        assert_eq!(written, expected);
        let text = wanted.text(&file(
            "search lan corp.example . \u{e4}.example x.example\r\n",
        ));
        assert!(
            text.contains("\nsearch ctr0.lan lan corp.example x.example\n"),
            "{text}"
        );
    }

    #[test]
    fn what_was_there_survives_the_journal() {
        for present in [
            Present::Missing,
            file("a\nb"),
            Present::Link {
                target: Bytes(vec![0xff, b'/', 0]),
            },
        ] {
            let text = serde_json::to_string(&present).unwrap();
            assert_eq!(serde_json::from_str::<Present>(&text).unwrap(), present);
        }
    }
}
