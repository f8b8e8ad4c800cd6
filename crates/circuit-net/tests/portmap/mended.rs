//! What other programs take away of ports, and what mending leaves alone.

use circuit_net::nft::is_intact;

use super::*;

/// The UDP connections to a port that the host follows, by where they were sent.
fn followed(port: u16) -> Vec<String> {
    // By a process, for which this thread's namespace is its own.
    let table = shell("cat /proc/net/nf_conntrack");
    let port = format!(" dport={port} ");
    let of_port = table.lines().filter_map(|line| {
        let (begun, _) = line.split_once(&port).filter(|_| line.contains("udp"))?;
        let to = begun.split("dst=").nth(1)?.split(' ').next()?;
        // Answers come to a port of that number, too, where it is a client's.
        (!begun.contains("dport=")).then(|| to.to_owned())
    });
    let mut found: Vec<String> = of_port.collect();
    found.sort();
    found
}

#[test]
fn everything_is_made_anew_after_a_flush() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        serve_tcp(Some(&lan.containers[0].path()), "[::]:80", "web");
        let [a, b] =
            [0, 1].map(|n| Container::new(&lan, n, json!([port(8080 + n as u16, 80, "tcp")])));
        a.add();
        b.add();
        let text = ruleset();
        assert!(is_intact().unwrap());
        shell("nft flush ruleset");
        assert!(a.try_run(Command::Check).unwrap_err().msg.contains("rules"));
        b.add();
        // The rules are back, but not all elements: this is said once.
        assert!(!is_intact().unwrap());
        assert!(
            a.try_run(Command::Check)
                .unwrap_err()
                .msg
                .contains("host port tcp 8080")
        );
        a.add();
        assert!(is_intact().unwrap());
        let sorted = |text: &str| {
            let mut words: Vec<String> = text
                .split_whitespace()
                .map(|w| w.replace(',', ""))
                .collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&ruleset()), sorted(&text));
        assert!(ask_tcp(Some(&lan.client.path()), &format!("{HOST}:8080")).is_ok());
        // What nft writes, nft reads; and what it read is put right.
        shell(
            "nft list ruleset > /tmp/circuit-portmap.$$ && nft flush ruleset && nft -f /tmp/circuit-portmap.$$; rm /tmp/circuit-portmap.$$",
        );
        assert!(ask_tcp(Some(&lan.client.path()), &format!("{HOST}:8080")).is_ok());
        b.add();
        a.run(Command::Check);
        b.run(Command::Check);
        a.del();
        b.del();
        assert_eq!(elements(), 0);
    });
}

#[test]
fn udp_connections_outlive_a_mending_in_vain() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let client = lan.client.path();
        serve_udp(Some(&lan.containers[0].path()), "[::]:53", "dns");
        let dns = Container::new(&lan, 0, json!([port(5353, 53, "udp")]));
        dns.add();
        let [v4, v6] = [false, true].map(|v6| udp_client(Some(&client), v6));
        let ask = || {
            ask_udp(&v4, &format!("{HOST}:5353")).unwrap();
            ask_udp(&v6, &format!("[{HOST6}]:5353")).unwrap();
        };
        ask();
        let before = followed(5353);
        assert_eq!(
            before,
            ["192.0.2.1", "2001:0db8:0001:0000:0000:0000:0000:0001"]
        );
        dns.mend();
        assert_eq!(followed(5353), before);
        // Also when all is made again: they lead where they should.
        shell("nft flush ruleset");
        dns.mend();
        assert_eq!(followed(5353), before);
        dns.run(Command::Check);
        dns.del();
        assert_eq!(followed(5353), [""; 0]);
    });
}

#[test]
fn udp_connections_to_the_host_are_forgotten_when_a_port_is_there_again() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let client = lan.client.path();
        serve_udp(Some(&lan.containers[0].path()), "0.0.0.0:53", "dns");
        serve_udp(None, &format!("{HOST}:5353"), "host");
        let at = json!({"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": HOST});
        for ports in [json!([port(5353, 53, "udp")]), json!([at])] {
            let dns = Container::new(&lan, 0, ports);
            dns.add();
            shell("nft flush ruleset");
            let socket = udp_client(Some(&client), false);
            let ask = || ask_udp(&socket, &format!("{HOST}:5353")).unwrap();
            assert_eq!(ask(), format!("host {CLIENT}"));
            dns.mend();
            assert_eq!(ask(), format!("dns {CLIENT}"));
            dns.del();
        }
    });
}

#[test]
fn udp_connections_to_the_same_port_elsewhere_are_left_alone() {
    on_private_host(|| async {
        let lan = Lan::new(2);
        // Nothing is followed before there are rules.
        Container::new(&lan, 1, json!([port(8080, 80, "tcp")])).add();
        serve_udp(Some(&lan.client.path()), "0.0.0.0:5353", "upstream");
        let socket = udp_client(Some(&lan.containers[1].path()), false);
        let upstream = format!("{CLIENT}:5353");
        ask_udp(&socket, &upstream).unwrap();
        assert_eq!(followed(5353), [CLIENT]);
        let dns = Container::new(&lan, 0, json!([port(5353, 53, "udp")]));
        dns.add();
        assert_eq!(followed(5353), [CLIENT]);
        dns.del();
        assert_eq!(followed(5353), [CLIENT]);
    });
}

#[test]
fn rules_that_are_found_are_missed_later() {
    on_private_host(|| async {
        let lan = Lan::new(1);
        let web = Container::new(&lan, 0, json!([port(8080, 80, "tcp")]));
        // As another process has made it, before this one was started.
        let made = start(&executable(), "ADD", &web.id, &web.netns, &web.config);
        assert!(made.wait_with_output().unwrap().status.success());
        web.mend();
        assert!(is_intact().unwrap());
        shell("nft flush ruleset");
        assert!(!is_intact().unwrap());
        // Nobody wants it any more: it is not missed for ever.
        shell("nft add table ip other");
        assert!(is_intact().unwrap());
    });
}
