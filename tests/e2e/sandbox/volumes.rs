//! What outlives a sandbox, and what it shares with the host.

use std::fs;

use super::{Home, IMAGE};

#[test]
fn a_named_volume_survives_the_end_of_everything() {
    let home = Home::new();
    let script = "n=0; while :; do n=$((n + 1)); echo $n >> /srv/rows; sync; \
                  echo $n; sleep 0.05; done";
    home.detached("writer", "-v data:/srv", script);
    let rows = || home.ok(&["logs", "writer"]).lines().count();
    home.until("some rows", || rows() > 5);
    home.refused(
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "data:/x",
            IMAGE,
            "true",
        ],
        125,
        "volume data is in use",
    );
    home.refused(&["volume", "rm", "data"], 1, "in use");
    home.crash("writer");
    let committed = rows();
    home.ok(&["rm", "writer"]);
    let kept = home.run("-v data:/srv", "cat /srv/from-image; wc -l < /srv/rows");
    let (image, count) = kept.split_once('\n').unwrap();
    // A new volume began with what the image has there.
    assert_eq!(image, "image");
    assert!(
        count.trim().parse::<usize>().unwrap() >= committed,
        "{count} of {committed}"
    );
    home.ok(&["volume", "rm", "data"]);
}

#[test]
fn a_directory_is_shared_and_a_file_too() {
    let home = Home::new();
    let shared = home.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("a"), "host\n").unwrap();
    fs::write(home.path().join("single"), "alone\n").unwrap();
    let text = home.run(
        "-v ./shared:/rw -v ./shared:/ro:ro --mount type=bind,source=./single,target=/etc/single,readonly",
        "cat /rw/a /etc/single; echo guest > /rw/b; echo x > /ro/c 2>/dev/null || echo refused; \
         ls /rw; cat /rw/../../../etc/os-release",
    );
    assert_eq!(text, "host\nalone\nrefused\na\nb\nID=busybox");
    assert_eq!(fs::read_to_string(shared.join("b")).unwrap(), "guest\n");
    home.refused(
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "/no/such:/x",
            IMAGE,
            "true",
        ],
        125,
        "/no/such",
    );
    assert_eq!(home.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_volume_without_a_name_goes_with_its_sandbox() {
    let home = Home::new();
    home.run("-v /srv", "cat /srv/from-image; echo x > /srv/x");
    assert_eq!(home.ok(&["volume", "ls", "-q"]), "");
    home.ok(&[
        "create",
        "--name",
        "keeps",
        "-v",
        "/srv",
        "--network",
        "none",
        IMAGE,
        "true",
    ]);
    assert_eq!(home.ok(&["volume", "ls", "-q"]).len(), 64);
    home.ok(&["rm", "-v", "keeps"]);
    assert_eq!(home.ok(&["volume", "ls", "-q"]), "");
}
