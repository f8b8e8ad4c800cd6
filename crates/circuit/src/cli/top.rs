//! `circuit top`: containers and their traffic, live on a terminal.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::{Duration, Instant};

use circuit_api::v1;
use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::sync::{mpsc, watch};

use super::Global;
use super::client::{Client, answer, question};
use super::human::bytes;
use super::output::Failure;
use super::progress::interruption;
use super::ps::{concerns, row};
use super::server::duration;
use crate::table;

/// What `top` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: n sorts by name, t by traffic, p shows problems only, q ends.")]
pub struct Top {
    /// The time between two looks.
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,

    /// Also containers of other nodes; their traffic is not known here.
    #[arg(short, long)]
    cluster: bool,

    /// Look so often and end; 0 goes on for ever.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t,
        hide_default_value = true
    )]
    count: u64,
}

/// The order of containers, and which are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct View {
    by_traffic: bool,
    problems_only: bool,
}

/// Bytes in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rate {
    received: f64,
    sent: f64,
}

impl Top {
    /// Shows until the user ends it.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = Client::open(global).await?;
        let interrupted = interruption();
        let screen = Screen::open();
        let mut shown = Shown {
            cluster: self.cluster,
            keys: keys(screen.is_some()),
            screen,
            interrupted,
            containers: None,
            rates: Rates::default(),
            view: View::default(),
        };
        let every = self.interval.max(Duration::from_millis(100));
        for look in 1.. {
            let request = question(v1::ListContainersRequest {
                here: !self.cluster,
                traffic: true,
            });
            let mut containers = client.containers();
            let asked = shown.during(containers.list(request)).await?;
            let Some(told) = asked else {
                break;
            };
            shown.look(answer(told)?.containers)?;
            if look == self.count || shown.during(tokio::time::sleep(every)).await?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// What is on the screen, and who may end it.
struct Shown {
    cluster: bool,
    screen: Option<Screen>,
    keys: mpsc::Receiver<u8>,
    interrupted: watch::Receiver<u32>,
    /// Nothing before the first look.
    containers: Option<Vec<v1::Container>>,
    rates: Rates,
    view: View,
}

impl Shown {
    fn look(&mut self, containers: Vec<v1::Container>) -> Result<(), Failure> {
        self.rates.look(&containers, Instant::now());
        self.containers = Some(containers);
        self.draw()
    }

    fn draw(&self) -> Result<(), Failure> {
        let Some(containers) = &self.containers else {
            return Ok(());
        };
        let frame = frame(containers, &self.rates, self.view, self.cluster);
        draw(&frame, self.screen.is_some())
    }

    /// Does what keys say until `work` is done; nothing when the user ends it before,
    /// as with a daemon that does not answer.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<Option<T>, Failure> {
        tokio::pin!(work);
        loop {
            let key = tokio::select! {
                done = &mut work => return Ok(Some(done)),
                Ok(_) = self.interrupted.wait_for(|times| *times > 0) => return Ok(None),
                Some(key) = self.keys.recv() => key,
            };
            let Some(changed) = self.view.press(key) else {
                return Ok(None);
            };
            self.view = changed;
            self.draw()?;
        }
    }
}

impl View {
    /// What a key makes of it; nothing when it ends.
    fn press(self, key: u8) -> Option<Self> {
        match key {
            b'q' | b'Q' => None,
            b'n' => Some(Self {
                by_traffic: false,
                ..self
            }),
            b't' => Some(Self {
                by_traffic: true,
                ..self
            }),
            b'p' => Some(Self {
                problems_only: !self.problems_only,
                ..self
            }),
            _ => Some(self),
        }
    }
}

/// An interface of a container: node, container, network.
type Key = (String, String, String);

/// What passed each interface when it was last looked at, and how fast.
#[derive(Default)]
struct Rates {
    at: Option<Instant>,
    passed: HashMap<Key, (u64, u64)>,
    now: HashMap<(String, String), Rate>,
}

impl Rates {
    fn look(&mut self, containers: &[v1::Container], at: Instant) {
        let elapsed = self
            .at
            .map(|before| at.duration_since(before).as_secs_f64());
        let mut passed = HashMap::new();
        self.now.clear();
        for container in containers {
            for on in &container.networks {
                let (Some(received), Some(sent)) = (on.received_bytes, on.sent_bytes) else {
                    continue;
                };
                let key = (
                    container.node.clone(),
                    container.id.clone(),
                    on.network.clone(),
                );
                // Counters begin anew with a new task.
                if let Some(elapsed) = elapsed.filter(|elapsed| *elapsed > 0.0)
                    && let Some((r, s)) = self.passed.get(&key)
                    && let (Some(r), Some(s)) = (received.checked_sub(*r), sent.checked_sub(*s))
                {
                    let name = (container.node.clone(), container.id.clone());
                    let rate = self.now.entry(name).or_default();
                    rate.received += per_second(r, elapsed);
                    rate.sent += per_second(s, elapsed);
                }
                passed.insert(key, (received, sent));
            }
        }
        self.passed = passed;
        self.at = Some(at);
    }

    fn of(&self, container: &v1::Container) -> Option<Rate> {
        let key = (container.node.clone(), container.id.clone());
        self.now.get(&key).copied()
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
fn per_second(bytes: u64, elapsed: f64) -> f64 {
    bytes as f64 / elapsed
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and far below the limit"
)]
fn shown(rate: f64) -> String {
    format!("{}/s", bytes(rate as u64))
}

/// Everything on the screen.
fn frame(containers: &[v1::Container], rates: &Rates, view: View, cluster: bool) -> String {
    let mut list: Vec<&v1::Container> = containers.iter().filter(|one| concerns(one)).collect();
    let running = list.iter().filter(|one| one.state == "running").count();
    let problems = list.iter().filter(|one| !one.problems.is_empty()).count();
    let sum = list.iter().filter_map(|one| rates.of(one));
    let all = sum.fold(Rate::default(), |a, b| Rate {
        received: a.received + b.received,
        sent: a.sent + b.sent,
    });
    let head = format!(
        "{} containers, {running} running, {problems} with problems   in {}   out {}\n\n",
        list.len(),
        shown(all.received),
        shown(all.sent)
    );
    list.retain(|one| !view.problems_only || !one.problems.is_empty());
    if view.by_traffic {
        let total = |one: &v1::Container| rates.of(one).map_or(0.0, |r| r.received + r.sent);
        list.sort_by(|a, b| total(b).total_cmp(&total(a)));
    }
    let rows: Vec<[String; 7]> = list
        .into_iter()
        .map(|one| {
            let [id, state, networks, ports, restart] = row(one);
            let rate = rates.of(one);
            let of = |part: fn(Rate) -> f64| rate.map_or("-".to_owned(), |r| shown(part(r)));
            let id = match cluster {
                true => format!("{} on {}", id, one.node),
                false => id,
            };
            let (r, s) = (of(|r| r.received), of(|r| r.sent));
            [id, state, r, s, networks, ports, restart]
        })
        .collect();
    let header = [
        "CONTAINER",
        "STATE",
        "IN",
        "OUT",
        "NETWORKS",
        "PORTS",
        "RESTART",
    ];
    head + &table::render(header, &rows)
}

/// Puts it in the place of what was there before.
fn draw(frame: &str, screen: bool) -> Result<(), Failure> {
    if !screen {
        return super::output::print(frame.as_bytes());
    }
    let (rows, columns) = size();
    let mut out = String::from("\x1b[H");
    for line in frame.lines().take(rows) {
        out.extend(line.chars().take(columns));
        out.push_str("\x1b[K\r\n");
    }
    // Without the last line's end, which would scroll.
    let out = out.trim_end_matches("\r\n");
    super::output::print(format!("{out}\x1b[J").as_bytes())
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((columns, rows)) => (rows.0.max(1).into(), columns.0.max(1).into()),
        None => (24, 80),
    }
}

/// The terminal while it is ours: another page, without a cursor, keys at once.
struct Screen(Option<Termios>);

impl Screen {
    fn open() -> Option<Self> {
        if !io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut ours = before.clone();
            ours.local_flags &= !(LocalFlags::ICANON | LocalFlags::ECHO);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &ours);
        }
        let _ = write!(io::stdout().lock(), "\x1b[?1049h\x1b[?25l");
        Some(Self(before))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// The keys that are pressed; none when there is no terminal.
fn keys(screen: bool) -> mpsc::Receiver<u8> {
    let (tell, told) = mpsc::channel(16);
    if screen && io::stdin().is_terminal() {
        // Ends with the program: nothing wakes a reader of a terminal.
        std::thread::spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if tell.blocking_send(key).is_err() {
                    return;
                }
            }
        });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, passed: Option<(u64, u64)>) -> v1::Container {
        v1::Container {
            id: id.into(),
            node: "n1".into(),
            state: "running".into(),
            networks: vec![v1::ContainerNetwork {
                network: "web".into(),
                ips: vec!["10.88.0.2".into()],
                received_bytes: passed.map(|(received, _)| received),
                sent_bytes: passed.map(|(_, sent)| sent),
                ..v1::ContainerNetwork::default()
            }],
            ..v1::Container::default()
        }
    }

    #[test]
    fn rates_are_differences() {
        let mut rates = Rates::default();
        let begun = Instant::now();
        rates.look(&[container("a", Some((1000, 10)))], begun);
        assert_eq!(rates.of(&container("a", None)), None);
        let later = begun + Duration::from_secs(2);
        rates.look(&[container("a", Some((5000, 30)))], later);
        let rate = rates.of(&container("a", None));
        assert_eq!(
            rate,
            Some(Rate {
                received: 2000.0,
                sent: 10.0
            })
        );
        // A new task counts from zero.
        rates.look(
            &[container("a", Some((10, 0)))],
            later + Duration::from_secs(1),
        );
        assert_eq!(rates.of(&container("a", None)), None);
    }

    #[test]
    fn frames_are_sorted_and_filtered() {
        let mut rates = Rates::default();
        let begun = Instant::now();
        let all = |passed| {
            [
                container("a", Some((0, 0))),
                container("b", Some((passed, 0))),
            ]
        };
        rates.look(&all(0), begun);
        rates.look(&all(5_000_000), begun + Duration::from_secs(1));
        let mut now = all(5_000_000);
        now[0].problems.push(v1::Problem::default());
        let lines = |view| -> Vec<String> {
            let frame = frame(&now, &rates, view, false);
            frame.lines().map(str::to_owned).collect()
        };
        let plain = View::default();
        let by_name = lines(plain);
        assert!(by_name[0].starts_with("2 containers, 2 running, 1 with problems   in 5.0 MB/s"));
        assert!(by_name[3].starts_with("a "), "{by_name:?}");
        let by_traffic = lines(View {
            by_traffic: true,
            ..plain
        });
        assert!(by_traffic[3].starts_with("b "), "{by_traffic:?}");
        let bad = lines(View {
            problems_only: true,
            ..plain
        });
        assert_eq!(bad.len(), 4);
        assert_eq!(plain.press(b'q'), None);
        assert!(plain.press(b't').is_some_and(|view| view.by_traffic));
        assert_eq!(plain.press(b'x'), Some(plain));
    }
}
