//! A data base on a named volume: what was committed is there, whatever happens
//! to drupe.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use super::{Background, Home};

/// The server and its cluster as Debian's package makes them, of whichever
/// version.
const CHANGES: [&str; 4] = [
    r#"CMD ["sh", "-c", "cd /etc/postgresql/*/main; exec /usr/lib/postgresql/*/bin/postgres -c config_file=$PWD/postgresql.conf -c unix_socket_directories=/tmp"]"#,
    "ENV PGHOST=/tmp",
    "USER postgres",
    "STOPSIGNAL INT",
];
/// Rows that a client has to see committed before the end comes.
const ROWS: u64 = 100;

fn start(home: &Home) {
    let run = "run -d --name db --network none -v data:/var/lib/postgresql postgres";
    home.ok(&run.split(' ').collect::<Vec<_>>());
    home.until("a server", || {
        let ready = home.drupe(&["exec", "db", "pg_isready", "-q"]);
        ready.status.success()
    });
}

fn ask(home: &Home, sql: &str) -> String {
    home.ok(&["exec", "db", "psql", "-qAtc", sql])
}

#[test]
fn every_row_that_was_committed_survives_a_kill() {
    let home = Home::with("postgres", &CHANGES);
    start(&home);
    ask(
        &home,
        "create table rows (n bigint primary key, text text not null)",
    );
    assert_eq!(ask(&home, "show fsync"), "on");

    // One transaction after another, by a client that hears of each. As many are
    // on their way as the pipe holds: the kill comes in the midst of them.
    let mut command = home.command(&["exec", "-i", "db", "psql", "-qAt"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::null());
    let mut client = Background(command.spawn().unwrap());
    let mut input = client.0.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        for n in 1_u64.. {
            let sql =
                format!("insert into rows values ({n}, repeat('row {n} ', 20)) returning n;\n");
            if input.write_all(sql.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut committed = 0;
    let mut killed = false;
    for line in BufReader::new(client.0.stdout.take().unwrap()).lines() {
        // A last line may have been cut off.
        let Some(n) = line.ok().and_then(|line| line.parse::<u64>().ok()) else {
            break;
        };
        assert_eq!(n, committed + 1);
        committed = n;
        if n >= ROWS && !killed {
            home.crash("db");
            killed = true;
        }
    }
    assert!(committed >= ROWS, "{committed}");
    drop(client);
    writer.join().unwrap();
    home.ok(&["rm", "db"]);

    start(&home);
    let log = home.ok(&["logs", "db"]);
    let errors = home.drupe(&["logs", "db"]).stderr;
    let log = log + &String::from_utf8_lossy(&errors);
    assert!(log.contains("automatic recovery in progress"), "{log}");
    let kept = ask(
        &home,
        "select max(n), count(*), bool_and(text = repeat('row ' || n || ' ', 20)) from rows",
    );
    let [last, count, whole] = kept.split('|').collect::<Vec<_>>()[..] else {
        panic!("{kept}")
    };
    assert_eq!((count, whole), (last, "t"), "{kept}");
    // One more may have been committed before its client heard of it.
    let last: u64 = last.parse().unwrap();
    assert!(
        (committed..=committed + 1).contains(&last),
        "{last} {committed}"
    );
    // In peace, too.
    home.ok(&["stop", "db"]);
    assert_eq!(home.ok(&["wait", "db"]), "0");
    home.ok(&["rm", "db"]);
    home.ok(&["volume", "rm", "data"]);
}
