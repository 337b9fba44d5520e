//! Many sandboxes of one image at once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use super::{Home, IMAGE};
use crate::guest::PATIENCE;

const MANY: usize = 20;
/// As many are started at a time: emulated, each takes a processor for long, and
/// a guest that does not come up in three minutes is given up.
const AT_A_TIME: usize = 4;

/// A page of a web server, or nothing when there is none yet.
fn page(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Bytes that the files below a directory take on its disk.
fn on_disk(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    let entries = metadata.is_dir().then(|| fs::read_dir(path).unwrap());
    let below = entries.into_iter().flatten().flatten();
    metadata.blocks() * 512 + below.map(|e| on_disk(&e.path())).sum::<u64>()
}

#[test]
fn twenty_sandboxes_share_one_image() {
    let home = Home::new();
    let layers = home.path().join("home/images/layers");
    let before = on_disk(&layers);
    let names: Vec<String> = (0..MANY).map(|n| format!("box{n}")).collect();
    let script = "trap 'exit 0' TERM; hostname > /srv/index.html; httpd -p 80 -h /srv; \
                  sleep 100000 & wait $!";
    let start = |name: &str| {
        let options = format!(
            "run -d --memory 96M --name {name} --hostname {name} -p 127.0.0.1::80 {IMAGE} sh -c"
        );
        let mut args: Vec<&str> = options.split(' ').collect();
        args.push(script);
        home.ok(&args);
    };
    thread::scope(|scope| {
        for some in names.chunks(MANY / AT_A_TIME) {
            scope.spawn(move || some.iter().for_each(|name| start(name)));
        }
    });
    assert_eq!(home.ok(&["ps", "-q"]).lines().count(), MANY);
    let mut addresses = BTreeSet::new();
    for name in &names {
        let address = home.ok(&["port", name, "80"]);
        home.until("its page", || {
            page(&address).is_ok_and(|text| text.contains(&format!("\r\n\r\n{name}\n")))
        });
        assert!(addresses.insert(address));
    }

    // The layer is there once, and each has the same file open.
    assert_eq!(on_disk(&layers), before);
    let layer: Vec<_> = fs::read_dir(&layers).unwrap().flatten().collect();
    assert_eq!(layer.len(), 1);
    let layer = fs::metadata(layer[0].path()).unwrap();
    assert!(layer.len() > 1 << 20);
    for name in &names {
        let inspect = home.inspect(name);
        let pid = &inspect["State"]["Pid"];
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let same = open
            .filter_map(|fd| fs::metadata(fd.path()).ok())
            .any(|file| (file.dev(), file.ino()) == (layer.dev(), layer.ino()));
        assert!(same, "{name} has another file");
    }
    let own = on_disk(&home.path().join("home/sandboxes"));
    assert!(own < MANY as u64 * (128 << 10), "{own} bytes of their own");

    let mut stop = vec!["stop"];
    stop.extend(names.iter().map(String::as_str));
    assert_eq!(home.ok(&stop).lines().count(), MANY);
    let mut wait = stop;
    wait[0] = "wait";
    assert_eq!(home.ok(&wait), vec!["0"; MANY].join("\n"));
    wait[0] = "rm";
    home.ok(&wait);
    assert_eq!(home.ok(&["ps", "-aq"]), "");
    let left = fs::read_dir(home.path().join("home/sandboxes")).unwrap();
    assert_eq!(left.count(), 0);
}
