use circuit_testing::{Containerd, Plugins};
#[test]
fn zz() {
    let node = crate::node()
        .plugins(Plugins::None)
        .containerd(if std::env::var_os("ZZ_OLD").is_some() {
            Containerd::System
        } else {
            Containerd::Newer
        })
        .uplink()
        .start();
    let script = std::fs::read_to_string(std::env::var("ZZ").unwrap()).unwrap();
    let file = node.file("zz.sh", script);
    let ran = node.run_with(
        "bash",
        &[&file],
        &[
            ("CIRCUIT", &node.program()),
            ("GROUP", &format!("/circuit-test/{}", node.name())),
        ],
        &[],
    );
    println!("{}\n{}", ran.stdout, ran.stderr);
    println!("LOG {}", node.daemon_log());
}
