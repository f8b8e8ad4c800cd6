//! The `circuit` binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use circuit::{
    cli::{
        self, ClientCommand, Command, Failure, Global,
        config::{self, Loaded, Settings, Stop},
        generate,
        server::{ServerArgs, ServerOptions},
    },
    memory::Memory,
    names, plugin,
    traces::Collector,
};

#[global_allocator]
static MEMORY: Memory = Memory::new();

/// What the process does, for the example that runs it by another clock too.
pub(crate) fn main() -> ExitCode {
    let calls = std::env::var_os("CNI_COMMAND").is_some();
    if let Some(kind) = plugin::called(std::env::args_os(), calls) {
        return plugin::serve(&kind);
    }
    names::only_files_and_dns();
    let loaded = match config::load(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(loaded) => loaded,
        Err(Stop::Usage(e)) => {
            // Help, the version and wrong usage; with nobody to read it, the code is enough.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
        Err(Stop::Message(message)) => {
            cli::print_error(&message);
            return ExitCode::FAILURE;
        }
    };
    match run(loaded) {
        Ok(code) => code,
        Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            cli::print_error(&message);
            ExitCode::FAILURE
        }
    }
}

fn run(loaded: Loaded) -> Result<ExitCode, Failure> {
    let Loaded { cli, settings } = loaded;
    let global = &cli.global;
    match cli.command {
        Command::Server(args) => server(global, *args, &settings),
        Command::Network(command) => client(global, ClientCommand::Network(command)),
        Command::Cluster(command) => client(global, ClientCommand::Cluster(command)),
        Command::Container(command) => client(global, ClientCommand::Container(command)),
        Command::Ipam(command) => client(global, ClientCommand::Ipam(command)),
        Command::Dns(command) => client(global, ClientCommand::Dns(command)),
        Command::Ps(command) => client(global, ClientCommand::Ps(command)),
        Command::Doctor(command) => client(global, ClientCommand::Doctor(command)),
        Command::Top(command) => client(global, ClientCommand::Top(command)),
        Command::Events(command) => client(global, ClientCommand::Events(command)),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        // Complete calls do not come here.
        Command::Cni(args) => return Ok(plugin::serve(&args.kind)),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn client(global: &Global, command: ClientCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    runtime.block_on(cli::run(global, command))
}

fn server(global: &Global, args: ServerArgs, settings: &Settings) -> Result<(), Failure> {
    let prints = args.prints_config();
    let options = args.options(global).map_err(|e| settings.located(e))?;
    if prints {
        return settings.print();
    }
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
