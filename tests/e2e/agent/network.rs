//! Interfaces, by fixed addresses and by DHCP.

use std::fs;

use protocol::Interface;

use super::sandbox::{Plan, process};
use crate::guest::host;

#[test]
fn an_interface_has_its_name_and_its_addresses() {
    host("ip", &["tuntap", "add", "agent0", "mode", "tap"]);
    host("ip", &["address", "add", "10.77.0.1/24", "dev", "agent0"]);
    host(
        "ip",
        &[
            "-6",
            "address",
            "add",
            "fd77::1/64",
            "dev",
            "agent0",
            "nodad",
        ],
    );
    host("ip", &["link", "set", "agent0", "up"]);
    let mac = "02:00:00:00:77:02";
    let sandbox = Plan::new()
        .args(&format!("--net tap=agent0,mac={mac}"))
        .told(|setup| {
            setup.network.interfaces = vec![Interface {
                mac: mac.into(),
                name: "net7".into(),
                addresses: vec!["10.77.0.2/24".into(), "fd77::2/64".into()],
                gateways: vec!["10.77.0.1".into(), "fd77::1".into()],
                dhcp: false,
                mtu: Some(1400),
            }];
        })
        .start();
    let mut main = process(&[
        "sh",
        "-c",
        "ip -o address show dev net7; ip route; ip -6 route show default; ip link show net7; \
         ping -c 1 -W 60 10.77.0.1; ping -6 -c 1 -W 60 fd77::1; grep box /etc/hosts",
    ]);
    main.main = true;
    let out = sandbox.run(main);
    println!("{}", out.text());
    for wanted in [
        "inet 10.77.0.2/24 brd 10.77.0.255",
        "inet6 fd77::2/64",
        "default via 10.77.0.1 dev net7",
        "default via fd77::1 dev net7",
        "mtu 1400",
        "10.77.0.2\tbox",
    ] {
        assert!(out.text().contains(wanted), "{wanted}");
    }
    assert_eq!(out.text().matches("1 packets received").count(), 2);
    sandbox.power_off();
    host("ip", &["link", "delete", "agent0"]);
}

#[test]
fn an_interface_gets_its_address_by_dhcp() {
    host("ip", &["tuntap", "add", "agent1", "mode", "tap"]);
    host("ip", &["address", "add", "10.78.0.1/24", "dev", "agent1"]);
    host("ip", &["link", "set", "agent1", "up"]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("udhcpd.conf");
    let leases = dir.path().join("leases");
    fs::write(&leases, "").unwrap();
    let text = format!(
        "start 10.78.0.50\nend 10.78.0.50\ninterface agent1\nlease_file {}\n\
         option subnet 255.255.255.0\noption router 10.78.0.1\noption dns 10.78.0.7\n\
         option domain lan.example\noption lease 20\n",
        leases.display()
    );
    fs::write(&config, text).unwrap();
    let mut server = std::process::Command::new("/bin/busybox")
        .args(["udhcpd", "-f"])
        .arg(&config)
        .spawn()
        .unwrap();
    let mac = "02:00:00:00:78:02";
    let sandbox = Plan::new()
        .args(&format!("--net tap=agent1,mac={mac}"))
        .told(|setup| {
            setup.network.interfaces = vec![Interface {
                mac: mac.into(),
                name: "eth0".into(),
                addresses: vec![],
                gateways: vec![],
                dhcp: true,
                mtu: None,
            }];
        })
        .start();
    // Longer than the lease, which is renewed.
    let mut main = process(&[
        "sh",
        "-c",
        "cat /etc/resolv.conf; grep box /etc/hosts; ip route; sleep 25; ip -o -4 address show eth0; \
         ping -c 1 -W 60 10.78.0.1",
    ]);
    main.main = true;
    let out = sandbox.run(main);
    server.kill().unwrap();
    server.wait().unwrap();
    println!("{}", out.text());
    for wanted in [
        "nameserver 10.78.0.7\nsearch lan.example",
        "10.78.0.50\tbox",
        "default via 10.78.0.1 dev eth0",
        "inet 10.78.0.50/24",
        "1 packets received",
    ] {
        assert!(out.text().contains(wanted), "{wanted}");
    }
    sandbox.power_off();
    host("ip", &["link", "delete", "agent1"]);
}
