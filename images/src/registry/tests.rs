use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::testing::{TarBuilder, TestImage, config};

/// A registry of one repository, with what may go wrong.
#[derive(Default)]
struct Registry {
    manifests: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Wants a token, which it hands out to anybody.
    token: bool,
    /// Gives out that many bytes of a blob at a time, then hangs up.
    cut: Option<usize>,
    /// Does not know ranges.
    no_ranges: bool,
    /// Answers this many requests for blobs with 503.
    busy: AtomicUsize,
    /// What was asked for.
    log: Mutex<Vec<String>>,
}

impl Registry {
    fn of(image: &TestImage) -> Self {
        let (manifest, digest) = image.manifest();
        let mut registry = Registry::default();
        registry.add(image);
        registry.manifests.insert("1".into(), manifest.clone());
        registry.manifests.insert(digest.to_string(), manifest);
        registry
    }

    fn add(&mut self, image: &TestImage) {
        let blobs = image.blobs().into_iter();
        self.blobs
            .extend(blobs.map(|blob| (Digest::of(&blob), blob)));
        let (manifest, digest) = image.manifest();
        self.manifests.insert(digest.to_string(), manifest);
    }

    /// Serves from now on, and gives the address.
    fn start(self) -> (Arc<Registry>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Arc::new(self);
        let shared = Arc::clone(&registry);
        let host = address.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (registry, host) = (Arc::clone(&shared), host.clone());
                thread::spawn(move || registry.serve(stream, &host));
            }
        });
        (registry, address)
    }

    fn serve(&self, stream: TcpStream, host: &str) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            let target = lines.first()?.split(' ').nth(1)?.to_owned();
            let header = |name: &str| {
                let mut lines = lines.iter().filter_map(|line| line.split_once(": "));
                lines
                    .find(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.to_owned())
            };
            let range = header("range");
            let noted = match &range {
                Some(range) => format!("{target} {range}"),
                None => target.clone(),
            };
            self.log.lock().unwrap().push(noted);
            let authorized = header("authorization").as_deref() == Some("Bearer secret");
            let (status, headers, body) = self.answer(&target, range, authorized, host);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n{headers}\r\n");
            let mut out = &stream;
            out.write_all(head.as_bytes()).ok()?;
            match self
                .cut
                .filter(|cut| target.contains("/blobs/") && *cut < length)
            {
                Some(cut) => return out.write_all(&body[..cut]).ok().and(None),
                None => out.write_all(&body).ok()?,
            }
        }
    }

    fn answer(
        &self,
        target: &str,
        range: Option<String>,
        authorized: bool,
        host: &str,
    ) -> (u16, String, Vec<u8>) {
        let none = String::new;
        if target.starts_with("/token?") {
            let good = target.contains("scope=repository%3Aapp%3Apull")
                || target.contains("scope=repository:app:pull");
            let status = if good && target.contains("service=reg") {
                200
            } else {
                400
            };
            return (status, none(), br#"{"token":"secret"}"#.to_vec());
        }
        if self.token && !authorized {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"reg\",\
                 scope=\"repository:app:pull\"\r\n"
            );
            return (401, challenge, Vec::new());
        }
        if target == "/v2/" {
            return (200, none(), Vec::new());
        }
        if let Some(tag) = target.strip_prefix("/v2/app/manifests/") {
            return match self.manifests.get(tag) {
                Some(manifest) => (200, none(), manifest.clone()),
                None => (404, none(), b"{}".to_vec()),
            };
        }
        let digest = target
            .strip_prefix("/v2/app/blobs/")
            .and_then(|d| d.parse().ok());
        let Some(blob) = digest.and_then(|digest: Digest| self.blobs.get(&digest)) else {
            return (404, none(), Vec::new());
        };
        let busy = |n: usize| n.checked_sub(1);
        if self
            .busy
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, busy)
            .is_ok()
        {
            return (503, none(), Vec::new());
        }
        let from = range.filter(|_| !self.no_ranges).and_then(|range| {
            let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            from.parse::<usize>().ok()
        });
        match from {
            None => (200, none(), blob.clone()),
            Some(from) if from >= blob.len() => (416, none(), Vec::new()),
            Some(from) => {
                let all = blob.len();
                let header = format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1);
                (206, header, blob[from..].to_vec())
            }
        }
    }

    fn requests(&self, part: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(part)).count()
    }
}

fn store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(&directory.path().join("images")).unwrap();
    (directory, store)
}

fn pull(store: &Store, address: &str, rest: &str) -> Result<Pulled, Error> {
    store.pull(&format!("{address}/{rest}").parse().unwrap(), None, &|_| {})
}

/// An image whose layers take some requests when they are cut.
fn large() -> TestImage {
    let layer = |seed: u32| {
        let noise = (0..150_000).scan(seed, |state, _| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        });
        TarBuilder::new()
            .file(&format!("f{seed}"), &noise.collect::<Vec<u8>>())
            .finish()
    };
    let stored = |tar: &[u8]| zstd::encode_all(tar, 1).unwrap();
    TestImage::new(
        &[layer(1), layer(2), layer(1), TarBuilder::new().finish()],
        stored,
    )
}

#[test]
fn an_image_comes_with_its_names() {
    let (guard, store) = store();
    let image = large();
    let (registry, address) = Registry::of(&image).start();
    let pulled = pull(&store, &address, "app:1").unwrap();
    assert_eq!((pulled.id, pulled.digest), (image.id(), image.manifest().1));
    assert!(!pulled.up_to_date);
    let found = store.resolve(&format!("{address}/app:1")).unwrap();
    assert_eq!(
        (found.layers.len(), found.names.len(), found.digests.len()),
        (4, 1, 1)
    );
    // Every blob once, also the one of two layers.
    assert_eq!(registry.requests("/blobs/"), 4);
    assert!(pull(&store, &address, "app:1").unwrap().up_to_date);
    let by_digest = format!("app@{}", image.manifest().1);
    assert!(pull(&store, &address, &by_digest).unwrap().up_to_date);
    assert_eq!(registry.requests("/blobs/"), 4);
    for directory in ["tmp", "partial"] {
        let left = fs::read_dir(guard.path().join("images").join(directory)).unwrap();
        assert_eq!(left.count(), 0, "{directory}");
    }
}

#[test]
fn tokens_are_fetched() {
    let (_guard, store) = store();
    let (registry, address) = Registry {
        token: true,
        ..Registry::of(&TestImage::small())
    }
    .start();
    pull(&store, &address, "app:1").unwrap();
    assert_eq!(registry.requests("/token?"), 1);
}

#[test]
fn broken_connections_are_continued() {
    for no_ranges in [false, true] {
        let (_guard, store) = store();
        let image = large();
        let cut = if no_ranges { 120_000 } else { 40_000 };
        let (registry, address) = Registry {
            cut: Some(cut),
            no_ranges,
            busy: AtomicUsize::new(2),
            ..Registry::of(&image)
        }
        .start();
        match pull(&store, &address, "app:1") {
            // Without ranges nothing comes behind the cut.
            Err(e) if no_ranges => assert!(e.to_string().contains("ended"), "{e}"),
            result => {
                assert_eq!(result.unwrap().id, image.id());
                assert!(registry.requests("bytes=40000-") > 0);
                assert!(registry.requests("bytes=80000-") > 0);
            }
        }
    }
}

#[test]
fn an_interrupted_pull_goes_on() {
    let (guard, store) = store();
    let image = large();
    let partial = |layer: usize| store.partial_path(Digest::of(&image.layers[layer]));
    // As a pull that was killed leaves it: a part, all of it, and something else.
    fs::write(partial(0), &image.layers[0][..70_000]).unwrap();
    fs::write(partial(1), &image.layers[1]).unwrap();
    fs::write(partial(3), vec![0; image.layers[3].len() - 1]).unwrap();
    let (registry, address) = Registry::of(&image).start();
    assert_eq!(pull(&store, &address, "app:1").unwrap().id, image.id());
    assert_eq!(registry.requests("bytes=70000-"), 1);
    assert_eq!(registry.requests(&Digest::of(&image.layers[1]).hex()), 0);
    // What was damaged came again.
    assert_eq!(registry.requests(&Digest::of(&image.layers[3]).hex()), 2);
    assert_eq!(
        fs::read_dir(guard.path().join("images/partial"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_is_not_as_it_says_is_refused() {
    let image = TestImage::small();
    let fails = |change: &dyn Fn(&mut Registry), expected: &str| {
        let (_guard, store) = store();
        let mut registry = Registry::of(&image);
        change(&mut registry);
        let (_, address) = registry.start();
        let error = pull(&store, &address, "app:1").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(store.list().unwrap().is_empty());
        // A second attempt does not start from what was wrong.
        assert!(pull(&store, &address, "app:1").is_err());
    };
    let layer = Digest::of(&image.layers[1]);
    let replace = |digest: Digest, change: fn(&mut Vec<u8>)| {
        move |registry: &mut Registry| {
            registry.blobs.entry(digest).and_modify(change);
        }
    };
    fails(&replace(layer, |blob| blob[700] ^= 1), "in place of");
    fails(&replace(image.id(), |blob| blob.push(b' ')), "in place of");
    fails(
        &replace(layer, |blob| blob.push(0)),
        "longer than its manifest",
    );
    fails(
        &|registry| drop(registry.blobs.remove(&layer)),
        "does not have it",
    );
    fails(
        &|registry| drop(registry.manifests.remove("1")),
        "does not have it",
    );
    let manifest = |text: &'static str| {
        move |registry: &mut Registry| {
            registry.manifests.insert("1".into(), text.into());
        }
    };
    fails(&manifest("{"), "manifest");
    fails(&manifest("{}"), "not one of an image");
    fails(&manifest(r#"{"schemaVersion":1}"#), "first format");
    fails(&manifest(r#"{"manifests":[],"layers":[]}"#), "at once");
    fails(&manifest(r#"{"manifests":[]}"#), "no image for linux/");
    let endless = |registry: &mut Registry| {
        registry.manifests.insert("1".into(), vec![b' '; 5 << 20]);
    };
    fails(&endless, "longer than");
    let chart = serde_json::json!({
        "config": { "digest": layer, "size": 1 },
        "layers": [{ "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                     "digest": layer, "size": 1 }]
    });
    let chart = chart.to_string().into_bytes();
    fails(
        &|registry| drop(registry.manifests.insert("1".into(), chart.clone())),
        "not an image's",
    );
}

#[test]
fn a_digest_in_the_name_is_verified() {
    let (_guard, store) = store();
    let mut registry = Registry::of(&TestImage::small());
    let digest = Digest::of(b"something else");
    let manifest = TestImage::small().manifest().0;
    registry.manifests.insert(digest.to_string(), manifest);
    let (_, address) = registry.start();
    let error = pull(&store, &address, &format!("app@{digest}")).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let (_guard, store) = store();
    let tar = TarBuilder::new().file("f", b"x").finish();
    let of = |architecture: &str| TestImage {
        config: config(std::slice::from_ref(&tar), architecture),
        layers: vec![tar.clone()],
    };
    let mut registry = Registry::default();
    let mut entries = Vec::new();
    for architecture in ["s390x", "amd64", "arm64"] {
        let image = of(architecture);
        registry.add(&image);
        entries.push(serde_json::json!({
            "digest": image.manifest().1, "size": image.manifest().0.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries }).to_string();
    let digest = Digest::of(index.as_bytes());
    registry.manifests.insert("1".into(), index.into());
    let (_, address) = registry.start();
    let name: Reference = format!("{address}/app:1").parse().unwrap();
    let arm: Platform = "linux/arm64".parse().unwrap();
    let pulled = store.pull(&name, Some(&arm), &|_| {}).unwrap();
    assert_eq!((pulled.id, pulled.digest), (of("arm64").id(), digest));
    let host = pull(&store, &address, "app:1").unwrap();
    assert_eq!(host.id, of(&Platform::host().architecture).id());
    let none = store.pull(&name, Some(&"linux/mips".parse().unwrap()), &|_| {});
    assert!(none.unwrap_err().to_string().contains("linux/arm64"));
}

#[test]
fn several_at_once_share_their_downloads() {
    let (_guard, store) = store();
    let image = large();
    let (_, address) = Registry::of(&image).start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(pull(&store, &address, "app:1").unwrap().id, image.id()));
        }
    });
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn nobody_there_is_one_clear_line() {
    let (_guard, store) = store();
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = pull(&store, &address.to_string(), "app")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("refused") && !error.contains('\n'),
        "{error}"
    );
}
