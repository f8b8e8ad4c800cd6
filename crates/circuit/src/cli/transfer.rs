//! `circuit network push` and `pull`: definitions between the daemon's
//! datastore and a folder of files, such as that of another datastore.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use circuit_api::v1;

use super::client::{Client, answer, question};
use super::output::{self, Failure};
use super::{Failures, unique};
use crate::{files, text};

/// What `push` takes.
#[derive(Debug, Args)]
pub struct Push {
    /// The folder, or the datastore local:///DIRECTORY, with a file NAME.json for
    /// each network.
    #[arg(long, value_name = "DIRECTORY")]
    from: String,

    /// The networks; all in the folder when absent.
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Replace networks that are other there and that no container is connected
    /// to, and accept overlaps.
    #[arg(short, long)]
    force: bool,
}

/// What `pull` takes.
#[derive(Debug, Args)]
pub struct Pull {
    /// The folder, or the datastore local:///DIRECTORY, that gets a file
    /// NAME.json for each network.
    #[arg(long, value_name = "DIRECTORY")]
    to: String,

    /// The networks; all of the daemon's when absent.
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Replace files that are other there.
    #[arg(short, long)]
    force: bool,
}

pub(super) async fn push(client: &Client, args: Push) -> Result<(), Failure> {
    let dir = folder(&args.from)?;
    let names = match args.names.is_empty() {
        true => names_in(&dir)?,
        false => unique(args.names),
    };
    let there = stored(client).await?.networks;
    let mut failures = Failures::default();
    for name in names {
        let data = match read(&dir, &name) {
            Ok(data) => data,
            Err(failure) => {
                failures.keep(Err(failure));
                continue;
            }
        };
        let same = there.iter().any(|n| n.name == name && n.data == data);
        let result = match same {
            true => output::print_line(&format!("{name} is there already")),
            false => create(client, &name, data, args.force).await,
        };
        failures.keep(result);
    }
    failures.finish()
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let path = file(dir, name)?;
    fs::read(&path).map_err(|e| cannot("read", &path, &e))
}

async fn create(client: &Client, name: &str, data: Vec<u8>, force: bool) -> Result<(), Failure> {
    let request = v1::CreateNetworkRequest {
        name: name.to_owned(),
        data,
        force,
    };
    answer(client.circuit().create_network(request).await)?;
    output::print_line(&format!("pushed {name}"))
}

pub(super) async fn pull(client: &Client, args: Pull) -> Result<(), Failure> {
    let dir = folder(&args.to)?;
    let v1::ListNetworksResponse {
        mut networks,
        mut problems,
    } = stored(client).await?;
    let mut failures = Failures::default();
    if !args.names.is_empty() {
        let wanted = unique(args.names);
        problems.retain(|problem| wanted.contains(&problem.network));
        for name in &wanted {
            let is_there = networks.iter().any(|network| network.name == *name)
                || problems.iter().any(|problem| problem.network == *name);
            if !is_there {
                let text = format!(
                    "network {name} does not exist; `circuit network ls` shows those that do"
                );
                failures.keep(Err(text.into()));
            }
        }
        networks.retain(|network| wanted.contains(&network.name));
    }
    // Of what cannot be read there is nothing to write; the rest is only doubtful.
    let (doubts, unreadable): (Vec<v1::Problem>, Vec<v1::Problem>) = problems
        .into_iter()
        .partition(|problem| networks.iter().any(|it| it.name == problem.network));
    output::print_problems(&doubts);
    for problem in unreadable {
        failures.keep(Err(problem.message.into()));
    }
    fs::create_dir_all(&dir).map_err(|e| cannot("make", &dir, &e))?;
    for network in networks {
        failures.keep(write(&dir, &network, args.force));
    }
    failures.finish()
}

/// Writes a network's file, all of it or nothing.
fn write(dir: &Path, network: &v1::Network, force: bool) -> Result<(), Failure> {
    let name = &network.name;
    let path = file(dir, name)?;
    match fs::read(&path) {
        Ok(data) if data == network.data => {
            return output::print_line(&format!("{name} is there already"));
        }
        Ok(_) if !force => {
            let text = format!("{} is other; give --force to replace it", path.display());
            return Err(text.into());
        }
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(cannot("read", &path, &e)),
        _ => {}
    }
    files::replace(&path, &network.data).map_err(|e| cannot("write", &path, &e))?;
    output::print_line(&format!("pulled {name}"))
}

async fn stored(client: &Client) -> Result<v1::ListNetworksResponse, Failure> {
    let request = question(v1::ListNetworksRequest {});
    let mut answer = answer(client.circuit().list_networks(request).await)?;
    answer.networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(answer)
}

/// A folder, or the one of a datastore.
fn folder(text: &str) -> Result<PathBuf, Failure> {
    if !text.contains("://") {
        return Ok(text.into());
    }
    crate::store::directory(text).map_err(|error| error.to_string().into())
}

/// The file of a network; its name must not lead out of the folder.
fn file(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    crate::store::check_name(name).map_err(|error| error.to_string())?;
    Ok(dir.join(format!("{name}.json")))
}

fn names_in(dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(dir).map_err(|e| cannot("read", dir, &e))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_stem()?.to_string_lossy().into_owned();
            let is_network = path.extension() == Some(OsStr::new("json")) && !name.starts_with('.');
            is_network.then_some(name)
        })
        .collect();
    names.sort();
    match names.is_empty() {
        true => Err(format!(
            "there is no network in {}: its files are NAME.json",
            dir.display()
        )
        .into()),
        false => Ok(names),
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    format!(
        "cannot {what} {}: {}",
        path.display(),
        text::io_error(error)
    )
    .into()
}
