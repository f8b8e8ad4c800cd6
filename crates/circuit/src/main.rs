//! The `circuit` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use circuit::{
    cli::{
        self, Cli, ClientCommand, Command, Failure, Global,
        server::{ServerArgs, ServerOptions},
    },
    names, plugin,
    traces::Collector,
};
use clap::Parser;

fn main() -> ExitCode {
    let calls = std::env::var_os("CNI_COMMAND").is_some();
    if let Some(kind) = plugin::called(std::env::args_os(), calls) {
        return plugin::serve(&kind);
    }
    names::only_files_and_dns();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help, the version and wrong usage; with nobody to read it, the code is enough.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Server(args) => server(&cli.global, *args),
        Command::Network(command) => client(&cli.global, ClientCommand::Network(command)),
        Command::Cluster(command) => client(&cli.global, ClientCommand::Cluster(command)),
        Command::Container(command) => client(&cli.global, ClientCommand::Container(command)),
        Command::Ipam(command) => client(&cli.global, ClientCommand::Ipam(command)),
        Command::Dns(command) => client(&cli.global, ClientCommand::Dns(command)),
        Command::Ps(command) => client(&cli.global, ClientCommand::Ps(command)),
        Command::Doctor(command) => client(&cli.global, ClientCommand::Doctor(command)),
        Command::Top(command) => client(&cli.global, ClientCommand::Top(command)),
        Command::Events(command) => client(&cli.global, ClientCommand::Events(command)),
        // Complete calls do not come here.
        Command::Cni(args) => return plugin::serve(&args.kind),
    };
    match result {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            cli::print_error(&message);
            ExitCode::FAILURE
        }
    }
}

fn client(global: &Global, command: ClientCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(cli::run(global, command))
}

fn server(global: &Global, args: ServerArgs) -> Result<(), Failure> {
    let options = args.options(global)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let collector = collector(&runtime, &options)?;
    let export = collector.as_ref().map(Collector::export);
    circuit::logging::init(global.log_format, global.debug, export)?;
    let done = runtime.block_on(circuit::daemon::run(options));
    if let Some(collector) = collector {
        collector.stop();
    }
    done.map_err(|e| e.message().to_owned().into())
}

/// Who is told of traces, if anybody.
fn collector(
    runtime: &tokio::runtime::Runtime,
    options: &ServerOptions,
) -> Result<Option<Collector>, String> {
    let Some(url) = &options.traces else {
        return Ok(None);
    };
    let _inside = runtime.enter();
    Collector::start(url, &options.node_name).map(Some)
}
