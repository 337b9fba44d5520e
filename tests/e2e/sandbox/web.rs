//! A web server: a sandbox that runs by itself and serves a port of the host.

use std::net::TcpListener;
use std::process::Command;

use super::Home;
use crate::guest::host;

/// nginx as Debian has it, its access log among the sandbox's own.
const CHANGES: [&str; 3] = [
    r#"CMD ["sh", "-c", "ln -sf /dev/stdout /var/log/nginx/access.log; exec nginx -g 'daemon off;'"]"#,
    "EXPOSE 80",
    "STOPSIGNAL QUIT",
];

fn curl(url: &str) -> String {
    host("curl", &["--silent", "--show-error", "--fail", "-g", url])
}

#[test]
fn a_web_server_is_published_and_its_port_is_free_afterwards() {
    let home = Home::with("web", &CHANGES);
    let run = "run -d --name web -p 127.0.0.1::80 -p [::1]::80 web";
    home.ok(&run.split(' ').collect::<Vec<_>>());
    let ports = home.ok(&["port", "web", "80"]);
    let ports: Vec<&str> = ports.lines().collect();
    let [four, six] = ports[..] else {
        panic!("{ports:?}")
    };
    assert!(four.starts_with("127.0.0.1:") && six.starts_with("[::1]:"));
    let settings = home.inspect("web")["NetworkSettings"].clone();
    let open = settings["Ports"]["80/tcp"].as_array().unwrap();
    let open: Vec<_> = open.iter().map(|port| port["HostIp"].as_str()).collect();
    assert_eq!(open, [Some("127.0.0.1"), Some("::1")]);
    assert_eq!(settings["IPAddress"], "10.0.2.15");
    let (url, url6) = (format!("http://{four}/"), format!("http://{six}/"));
    home.until("a page", || {
        let mut get = Command::new("curl");
        let status = get.args(["-sfo", "/dev/null", &url]).status();
        status.expect("curl: tools/deps installs it").success()
    });
    assert!(curl(&url).contains("Welcome to nginx"));
    assert!(curl(&url6).contains("Welcome to nginx"));

    // A page of one's own, and one of some size.
    let script = "cd /var/www/html; echo mine > mine; seq 300000 > long; cksum < long; whoami";
    let text = home.ok(&["exec", "web", "sh", "-c", script]);
    let (sum, user) = text.split_once('\n').unwrap();
    assert_eq!(user, "root");
    assert_eq!(curl(&format!("{url}mine")), "mine\n");
    let long = home.path().join("long");
    let long = long.to_str().unwrap();
    host("curl", &["-sfo", long, &format!("{url}long")]);
    let seen = host("sh", &["-c", &format!("cksum < {long}")]);
    assert_eq!(seen.trim(), sum);

    home.until("its log", || {
        let log = home.ok(&["logs", "web"]);
        log.contains("\"GET / HTTP/1.1\" 200") && log.contains("\"GET /mine HTTP/1.1\" 200")
    });
    let stats = home.ok(&["stats", "--no-stream", "--format", "json", "web"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let number = |key: &str| stats[0][key].as_u64().unwrap();
    // All that was fetched has gone out, and less of it has come in.
    assert!(number("NetSent") > 1_900_000, "{stats}");
    assert!(
        (1..number("NetSent")).contains(&number("NetReceived")),
        "{stats}"
    );
    assert!(number("PIDs") >= 2, "{stats}");

    // Who comes second gets one line, and leaves nothing.
    let publish = format!("{four}:80");
    let second = ["run", "--rm", "-p", &publish, "web", "true"];
    home.refused(&second, 125, "in use");
    assert_eq!(home.ok(&["ps", "-aq"]).lines().count(), 1);

    assert_eq!(home.ok(&["stop", "web"]), "web");
    // nginx has ended by itself.
    assert_eq!(home.ok(&["wait", "web"]), "0");
    assert_eq!(home.inspect("web")["State"]["Status"], "exited");
    for address in [four, six] {
        TcpListener::bind(address).unwrap();
    }
    home.ok(&["rm", "web"]);
}
