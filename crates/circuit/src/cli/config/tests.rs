//! Precedence, and that the documents are as the flags are.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;

use super::print::written;
use super::settings::Kind;
use super::*;

/// A configuration file, environment variables and a command line.
fn tried(file: &str, variables: &[(&str, &str)], line: &str) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let mut all: HashMap<_, OsString> = HashMap::from([("CIRCUIT_CONFIG", path.into())]);
    all.extend(variables.iter().map(|(name, value)| (*name, value.into())));
    let loaded = load(line.split(' ').map(OsString::from), |name| {
        all.get(name).cloned()
    });
    let dir = dir.path().display().to_string() + "/";
    loaded.map_err(|stop| match stop {
        Stop::Usage(error) => error.to_string(),
        Stop::Message(message) => message.replace(&dir, ""),
    })
}

fn loaded(file: &str, variables: &[(&str, &str)], line: &str) -> Loaded {
    tried(file, variables, line).unwrap()
}

/// The values of a setting, and the kind of place they are from.
fn of(loaded: &Loaded, key: &str) -> (String, &'static str) {
    let values = &loaded.settings.0;
    let value = values.iter().find(|one| one.setting.key == key).unwrap();
    let origin = match value.origin {
        Origin::Flag => "flag",
        Origin::Variable(_) => "variable",
        Origin::File(..) => "file",
        Origin::Default => "default",
    };
    (value.values.join("|"), origin)
}

#[test]
fn nearer_counts_more() {
    let file = "heartbeat = \"1s\"\naddress = [\":1\", \":2\"]\ndebug = true";
    let flags = "circuit -a :8 server --heartbeat 3s --address :9";
    let variables = [
        ("CIRCUIT_HEARTBEAT", "2s"),
        ("CIRCUIT_ADDRESS", ":3, :4"),
        ("CIRCUIT_DEBUG", "false"),
    ];
    let seen = |variables, line| {
        let loaded = loaded(file, variables, line);
        let keys = ["heartbeat", "address", "debug"];
        keys.map(|key| of(&loaded, key))
            .map(|(value, origin)| format!("{value} {origin}"))
    };
    assert_eq!(
        seen(&variables, flags),
        ["3s flag", ":9 flag", "false variable"]
    );
    assert_eq!(
        seen(&variables, "circuit server"),
        ["2s variable", ":3|:4 variable", "false variable"]
    );
    assert_eq!(
        seen(&[("CIRCUIT_HEARTBEAT", "")], "circuit server"),
        ["1s file", ":1|:2 file", "true file"]
    );
    let none = loaded("", &[], "circuit server");
    assert_eq!(of(&none, "heartbeat"), ("10s".into(), "default"));
    assert!(loaded(file, &[], "circuit server").cli.global.debug);
}

#[test]
fn of_two_that_exclude_each_other_the_nearer_counts() {
    let file = "redis-url-file = \"/f\"";
    let variable = [("CIRCUIT_REDIS_URL", "redis://a")];
    let both = loaded(file, &variable, "circuit server");
    assert_eq!(of(&both, "redis-url"), ("redis://a".into(), "variable"));
    assert_eq!(of(&both, "redis-url-file"), (String::new(), "default"));
    let flag = loaded(file, &variable, "circuit server --redis-url-file /g");
    assert_eq!(of(&flag, "redis-url"), (String::new(), "default"));
    assert_eq!(of(&flag, "redis-url-file"), ("/g".into(), "flag"));
    let none = loaded(file, &variable, "circuit server --redis-url=");
    assert_eq!(of(&none, "redis-url"), (String::new(), "flag"));
    assert_eq!(of(&none, "redis-url-file"), (String::new(), "default"));
    let file = "redis-url = \"redis://a\"\nredis-url-file = \"/f\"";
    let error = tried(file, &[], "circuit server").unwrap_err();
    assert_eq!(
        error
            .replace(|c: char| c.is_ascii_digit(), "N")
            .matches("config.toml line N")
            .count(),
        2,
        "{error}"
    );
}

#[test]
fn clients_take_what_is_theirs() {
    let file = "address = [\"10.0.0.5:8080\", \"unix:///s\"]\nheartbeat = \"1s\"\n\
                tls-server-cert = \"/cert\"\ntls-ca = \"/ca\"";
    let client = loaded(file, &[], "circuit network ls").cli.global;
    assert_eq!(client.address, ["unix:///s"]);
    assert_eq!(client.tls_server_cert, None);
    assert_eq!(client.tls_ca, Some("/ca".into()));
    let client = loaded("address = [\"a:1\", \"b:2\"]", &[], "circuit network ls");
    assert_eq!(client.cli.global.address, ["a:1"]);
    let variable = [("CIRCUIT_ADDRESS", "c:3")];
    let client = loaded(file, &variable, "circuit network ls");
    assert_eq!(client.cli.global.address, ["c:3"]);
    // What needs no settings works with a file that is broken.
    assert!(tried("?", &[], "circuit completions bash").is_ok());
    assert!(tried("?", &[], "circuit network ls").is_err());
}

#[test]
fn every_list_is_read_from_the_environment() {
    for setting in settings() {
        let default = default(&setting);
        if setting.kind != Kind::List || default.is_empty() {
            continue;
        }
        let variable = setting.variable();
        for comma in [",", ", "] {
            let text = default.join(comma);
            let loaded = loaded("", &[(&variable, &text)], "circuit server");
            let read = (default.join("|"), "variable");
            assert_eq!(of(&loaded, &setting.key), read, "{variable}={text}");
        }
    }
    let pools = [(
        "CIRCUIT_DEFAULT_POOLS",
        "size=24,base=10.0.0.0/8, size=25,base=10.0.0.0/9",
    )];
    assert_eq!(
        of(&loaded("", &pools, "circuit server"), "default-pools").0,
        "size=24,base=10.0.0.0/8|size=25,base=10.0.0.0/9"
    );
    let half = [("CIRCUIT_DEFAULT_POOLS", "base=10.0.0.0/8,base=10.0.0.0/9")];
    let error = tried("", &half, "circuit server").unwrap_err();
    assert!(error.contains("is not whole"), "{error}");
}

#[test]
fn a_token_file_may_stand_elsewhere_than_the_picture() {
    let line = "circuit server --web-token-file /t";
    let seen = loaded("web = \"127.0.0.1:1\"", &[], line);
    assert_eq!(of(&seen, "web-token-file"), ("/t".into(), "flag"));
    let seen = loaded("", &[("CIRCUIT_WEB", "127.0.0.1:1")], line);
    assert_eq!(of(&seen, "web"), ("127.0.0.1:1".into(), "variable"));
}

#[test]
fn wrong_values_name_where_they_are() {
    for (file, variables, want) in [
        (
            "\nlease = \"x\"",
            &[][..],
            "config.toml line 2: lease: bad value \"x\": give a number",
        ),
        (
            "",
            &[("CIRCUIT_LEASE", "x")],
            "CIRCUIT_LEASE: bad value \"x\": give a number",
        ),
        (
            "",
            &[("CIRCUIT_DEBUG", "on")],
            "CIRCUIT_DEBUG: \"on\" is not true or false",
        ),
        (
            "",
            &[("CIRCUIT_CONFIG", "/none")],
            "cannot read the configuration /none: no such file",
        ),
    ] {
        let error = tried(file, variables, "circuit server").unwrap_err();
        assert!(error.starts_with(want), "{error}");
    }
    let loaded = loaded("lease = \"1s\"", &[], "circuit server");
    let told = loaded.settings.located("--lease is too short".into());
    assert!(told.ends_with("config.toml line 1)"), "{told}");
    assert_eq!(loaded.settings.located("--heartbeat".into()), "--heartbeat");
}

#[test]
fn the_printed_file_says_the_same() {
    let file = "address = [\":1\"]\ndns-limit = 7\nleave-on-stop = false\n\
                profile = \"a\\\"\\\\b\\tc\"";
    let first = loaded(
        file,
        &[("CIRCUIT_LEASE", "1h")],
        "circuit -D server --insecure",
    );
    let printed = print::in_force(&first.settings.0);
    let second = loaded(&printed, &[], "circuit server");
    assert_eq!(first.settings.0.len(), second.settings.0.len());
    for (one, two) in first.settings.0.iter().zip(&second.settings.0) {
        assert_eq!(one.values, two.values, "{}", one.setting.key);
    }
    assert!(
        printed.contains("\nlease = \"1h\" # CIRCUIT_LEASE\n"),
        "{printed}"
    );
    assert!(printed.contains("\ndebug = true # flag\n"), "{printed}");
    assert!(printed.contains("config.toml line 2\n"), "{printed}");
    assert!(
        printed.contains("\n# node-name = \"\" # not set\n"),
        "{printed}"
    );
    let secret = loaded("redis-url = \"redis://u:hunter2@a\"", &[], "circuit server");
    let printed = print::in_force(&secret.settings.0);
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(
        printed.contains("\n# redis-url = \"redis://u:***@a\" #"),
        "{printed}"
    );
}

#[test]
fn the_documents_are_as_the_flags_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (example_path, page_path) = (
        root.join("packaging/config.toml"),
        root.join("docs/configuration.md"),
    );
    let page = std::fs::read_to_string(&page_path).unwrap();
    let (start, end) = ("<!-- keys -->\n", "<!-- end of keys -->");
    let (before, rest) = page.split_once(start).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let want = format!("{before}{start}{}{end}{after}", table());
    if std::env::var_os("WRITE_DOCUMENTS").is_some() {
        std::fs::write(&page_path, want).unwrap();
        std::fs::write(&example_path, example()).unwrap();
        return;
    }
    let say = "run this test with WRITE_DOCUMENTS=1 to bring it up to date";
    assert!(
        page == want,
        "{} is out of date: {say}",
        page_path.display()
    );
    let written = std::fs::read_to_string(&example_path).unwrap();
    assert!(
        written == example(),
        "{} is out of date: {say}",
        example_path.display()
    );
}

#[test]
fn the_example_is_a_file_of_defaults() {
    let keys: String = example()
        .lines()
        .filter(|line| line.starts_with('#') && !line.starts_with("# ") && !line.contains("= \"\""))
        .map(|line| format!("{}\n", &line[1..]))
        .collect();
    let all = loaded(&keys, &[], "circuit server");
    for value in &all.settings.0 {
        let default = default(&value.setting);
        let same = value.values == default || (default.is_empty() && value.values == ["false"]);
        assert!(same, "{}: {:?}", value.setting.key, value.values);
    }
}

/// What the documentation calls the type of a setting.
fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Switch => "boolean",
        Kind::Number => "integer",
        Kind::Text => "string",
        Kind::List => "list of strings",
    }
}

/// What a setting is when nobody gives it.
fn default(setting: &Setting) -> Vec<String> {
    let values = setting.arg.get_default_values().iter();
    let values = values.map(|one| one.to_string_lossy().into_owned());
    values.filter(|one| !one.is_empty()).collect()
}

/// What a setting does, in one line.
fn help(setting: &Setting) -> String {
    let arg = &setting.arg;
    let help = arg.get_long_help().or_else(|| arg.get_help()).unwrap();
    let help = help
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    // clap takes the full stop off where it is the only one.
    let help = format!("{}.", help.trim_end_matches('.'));
    let choice = arg.get_possible_values();
    let choice: Vec<_> = choice.iter().map(|one| one.get_name()).collect();
    if setting.kind != Kind::Text || choice.is_empty() {
        return help;
    }
    format!("{help} One of: {}.", choice.join(", "))
}

/// The file that packages install: every setting, each a comment.
fn example() -> String {
    let mut text = String::from(
        "# Settings of `circuit server`; commands take their address and certificates from\n\
         # here too. Everything is a comment, with its default where it has one. Flags and\n\
         # environment variables count more than this file: see configuration.md of the\n\
         # documentation. A changed file counts from the next start of the daemon.\n",
    );
    for setting in settings() {
        text.push('\n');
        for line in wrapped(&help(&setting), 78) {
            let _ = writeln!(text, "# {line}");
        }
        let written = written(setting.kind, &default(&setting));
        let _ = writeln!(text, "#{} = {written}", setting.key);
    }
    text
}

/// The documentation's table of all settings.
fn table() -> String {
    let mut text = String::from("| key | type | default | what it does |\n|---|---|---|---|\n");
    for setting in settings() {
        let default = match default(&setting).as_slice() {
            [] if setting.kind == Kind::Switch => "`false`".to_owned(),
            [] => String::new(),
            values => format!("`{}`", written(setting.kind, values)),
        };
        let Setting { key, kind, .. } = &setting;
        let help = help(&setting).replace('|', "\\|");
        let _ = writeln!(text, "| `{key}` | {} | {default} | {help} |", name(*kind));
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits = lines
            .last()
            .is_some_and(|last| last.len() + word.len() < width);
        match lines.last_mut() {
            Some(last) if fits || last.is_empty() => {
                if !last.is_empty() {
                    last.push(' ');
                }
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
