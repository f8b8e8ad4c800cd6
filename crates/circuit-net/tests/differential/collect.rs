//! GC, of which the stock plugins have that of leases at most, since 1.10.0: ours take
//! away what belongs to nobody, and nothing else.

use serde_json::{Value, json};

use crate::cases::{plugin, usual_bridge};
use crate::runtime::{Answers, Attachment, Runtime};
use crate::script::mapping;
use crate::sides::Side;
use crate::snapshot::files;
use crate::world::{CONTAINERS, World};

fn all_fine(answers: &Answers) {
    assert!(answers.iter().all(|(_, ran)| ran.is_ok()), "{answers:?}");
}

/// What is left of the attachments that are named: leases and rules.
fn traces(world: &World) -> String {
    let files = files();
    let leases: Vec<&str> = files
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_str)
        .filter(|text| text.contains("container-"))
        .collect();
    format!("{leases:?} {}", world.shell("nft -s list ruleset"))
}

fn attachments() -> [Attachment; 2] {
    CONTAINERS.map(|netns| Attachment {
        capabilities: json!({"portMappings":
            [mapping(if netns == "one" { 18080 } else { 18090 }, "tcp")]}),
        ..Attachment::of(netns, "eth0")
    })
}

/// Two containers are attached, one is forgotten: GC frees what it had, and
/// the other's stays.
fn frees(plugins: &Value) {
    World::with(|world| {
        let list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": plugins});
        let runtime = Runtime::new(Side::Ours.folder(), &list);
        let [one, two] = attachments();
        all_fine(&runtime.add(&one));
        all_fine(&runtime.add(&two));
        let before = traces(world);
        all_fine(&runtime.gc(&[&one, &two]));
        assert_eq!(traces(world), before, "what is in use was taken away");
        world.remove_netns(CONTAINERS[1]);
        all_fine(&runtime.gc(&[&one]));
        let after = traces(world);
        for trace in ["container-two", "10.88.0.3", "fd00:88::3", "18090"] {
            assert!(!after.contains(trace), "{trace} is left in {after}");
        }
        assert!(after.contains("container-one"), "{after}");
        all_fine(&runtime.gc(&[]));
        let end = traces(world);
        for trace in ["container-one", "10.88.0.2", "fd00:88::2", "18080"] {
            assert!(!end.contains(trace), "{trace} is left in {end}");
        }
    });
}

#[test]
fn gc_frees_what_a_bridge_had() {
    frees(&json!([usual_bridge()]));
}

#[test]
fn gc_frees_what_a_point_to_point_link_had() {
    frees(&json!([plugin("ptp", json!({"ipMasq": true}))]));
}

#[test]
fn gc_frees_ports_and_rules_of_the_firewall() {
    frees(&json!([
        usual_bridge(),
        {"type": "firewall"},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]));
}

/// Leases of old plugins have no interface, and what is no lease stays.
#[test]
fn gc_frees_the_leases_that_cni_plugins_1_10_free() {
    let [newest, ours] = [Side::Newest, Side::Ours].map(|side| {
        World::with(|world| {
            let plugin = json!({"type": "host-local",
                "ipam": {"type": "host-local", "subnet": "10.88.0.0/24"}});
            let list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [plugin]});
            let runtime = Runtime::new(side.folder(), &list);
            let [one, two] = attachments();
            all_fine(&runtime.add(&one));
            all_fine(&runtime.add(&two));
            world.shell(
                "cd /var/lib/cni/networks/net; printf container-one > 10.88.0.77; \
                 printf container-old > 10.88.0.78; printf 'container-one\\r\\neth7' > 10.88.0.79; \
                 mkdir folder; printf container-old > folder/10.88.0.80",
            );
            let mut seen = Vec::new();
            for valid in [&[&one, &two][..], &[&one], &[]] {
                all_fine(&runtime.gc(valid));
                seen.push(files());
            }
            seen
        })
    });
    assert_eq!(ours, newest);
    assert!(
        newest[1].to_string().contains("container-one"),
        "{newest:?}"
    );
    assert!(
        !newest[1].to_string().contains("container-two"),
        "{newest:?}"
    );
}

/// The stock plugins say yes to GC, and do nothing: that is why a daemon must
/// not believe them.
#[test]
fn gc_of_the_stock_plugins_frees_nothing() {
    World::with(|world| {
        let list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [usual_bridge()]});
        let runtime = Runtime::new(Side::New.folder(), &list);
        all_fine(&runtime.add(&Attachment::of(CONTAINERS[0], "eth0")));
        all_fine(&runtime.gc(&[]));
        assert!(traces(world).contains("container-one"));
    });
}
