use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::Input;
use crate::testing::{TarBuilder, TestImage};

fn open() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(&directory.path().join("images")).unwrap();
    (directory, store)
}

fn load(store: &Store, image: &TestImage, names: &[&str]) -> Digest {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), image.docker_archive(names)).unwrap();
    let input = Input::Path(file.path().to_owned());
    store.load(&input, None, &|_| {}).unwrap()[0].id
}

/// An image of one layer with this file, and the small one's base below it.
fn other(name: &str) -> TestImage {
    let base = TestImage::small().layers[0].clone();
    let upper = TarBuilder::new()
        .directory("d", 0o755)
        .file(&format!("d/{name}"), b"x")
        .finish();
    TestImage::new(&[base, upper], <[u8]>::to_vec)
}

fn files(store: &Store, directory: &str) -> usize {
    fs::read_dir(store.root.join(directory)).unwrap().count()
}

fn tag(store: &Store, image: &str, name: &str) {
    store.tag(image, &name.parse().unwrap()).unwrap();
}

fn familiar(image: &Image) -> Vec<String> {
    image.names.iter().map(Reference::familiar).collect()
}

#[test]
fn images_are_found_by_name_and_id() {
    let (_guard, store) = open();
    let id = load(&store, &TestImage::small(), &["localhost/app:1"]);
    for text in [
        "app:1",
        "localhost/app:1",
        &id.to_string(),
        &id.hex(),
        &id.hex()[..6],
        &format!("sha256:{}", &id.hex()[..8]),
    ] {
        assert_eq!(store.resolve(text).unwrap().id, id, "{text}");
    }
    for text in ["app", "app:2", "docker.io/app:1", "", "zz", "a/../b"] {
        assert!(
            matches!(store.resolve(text), Err(Error::Unknown(_))),
            "{text}"
        );
    }
    load(&store, &other("a"), &[]);
    let all = store.list().unwrap();
    assert_eq!(all.len(), 2);
    // A name that looks like an ID comes first.
    let prefix = id.hex()[..4].to_owned();
    tag(
        &store,
        &all.iter().find(|i| i.id != id).unwrap().id.to_string(),
        &prefix,
    );
    assert_ne!(store.resolve(&prefix).unwrap().id, id);
}

#[test]
fn names_move_and_images_stay() {
    let (_guard, store) = open();
    let first = load(&store, &TestImage::small(), &["app"]);
    let second = load(&store, &other("a"), &["app"]);
    assert_eq!(store.resolve("app").unwrap().id, second);
    assert!(store.resolve(&first.to_string()).unwrap().names.is_empty());
    tag(&store, "app", "other:2");
    assert_eq!(
        familiar(&store.resolve("app").unwrap()),
        ["app:latest", "other:2"]
    );
    let digest = format!("app@{first}").parse().unwrap();
    assert!(matches!(
        store.tag("app", &digest),
        Err(Error::DigestAsName(_))
    ));
}

#[test]
fn layers_exist_once_and_go_with_their_last_image() {
    let (_guard, store) = open();
    load(&store, &TestImage::small(), &["one", "two"]);
    load(&store, &other("a"), &["three"]);
    assert_eq!(files(&store, "layers"), 3);
    assert_eq!(
        store.remove("two", false).unwrap(),
        [Removed::Name("two:latest".into())]
    );
    let removed = store.remove("one", false).unwrap();
    assert!(matches!(
        &removed[..],
        [Removed::Name(_), Removed::Image(_)]
    ));
    assert_eq!(files(&store, "layers"), 2);
    store.remove("three", false).unwrap();
    for directory in ["layers", "images", "configs", "tmp"] {
        assert_eq!(files(&store, directory), 0, "{directory}");
    }
    assert!(matches!(
        store.remove("three", true),
        Err(Error::Unknown(_))
    ));
}

#[test]
fn an_image_with_several_names_goes_by_force() {
    let (_guard, store) = open();
    let id = load(&store, &TestImage::small(), &["one", "two"]);
    assert!(matches!(
        store.remove(&id.short(), false),
        Err(Error::SeveralNames { .. })
    ));
    assert_eq!(store.remove(&id.short(), true).unwrap().len(), 3);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_a_sandbox_uses_stays() {
    let (_guard, store) = open();
    let id = load(&store, &TestImage::small(), &["app"]);
    let held = store.hold("app", "box-1").unwrap();
    store.hold(&id.to_string(), "box-2").unwrap();
    assert_eq!(
        store.holders().unwrap(),
        [("box-1".into(), id), ("box-2".into(), id)]
    );
    let refused = store.remove("app", false).unwrap_err().to_string();
    assert!(refused.contains("box-1, box-2"), "{refused}");
    assert!(store.prune(true).unwrap().removed.is_empty());
    let usage = store.disk_usage().unwrap();
    assert_eq!((usage.images, usage.active, usage.reclaimable), (1, 1, 0));
    assert_eq!(
        store.remove("app", true).unwrap(),
        [Removed::Name("app:latest".into())]
    );
    assert!(held.layers.iter().all(|layer| layer.exists()));
    // A sandbox can be started again.
    assert_eq!(
        store.hold(&id.to_string(), "box-1").unwrap().layers,
        held.layers
    );
    store.release("box-1").unwrap();
    store.release("box-1").unwrap();
    assert!(store.prune(false).unwrap().removed.is_empty());
    store.release("box-2").unwrap();
    let pruned = store.prune(false).unwrap();
    assert_eq!(pruned.removed, [Removed::Image(id)]);
    assert!(pruned.bytes > 0 && !held.layers.iter().any(|layer| layer.exists()));
    for bad in ["", "../x", "a/b", &"x".repeat(200)] {
        assert!(
            matches!(store.hold("app", bad), Err(Error::Holder(_))),
            "{bad}"
        );
    }
}

#[test]
fn pruning_takes_what_nobody_has() {
    let (_guard, store) = open();
    load(&store, &TestImage::small(), &[]);
    load(&store, &other("a"), &["app"]);
    // What a crash may leave: a layer, a config, a file that was being written.
    fs::write(store.layer_path(Digest::of(b"x")), [1; 5000]).unwrap();
    fs::write(store.config_path(Digest::of(b"x")), "{}").unwrap();
    fs::write(store.root.join("tmp/old"), "x").unwrap();
    fs::write(store.partial_path(Digest::of(b"y")), "x").unwrap();
    let usage = store.disk_usage().unwrap();
    assert_eq!((usage.images, usage.active), (2, 0));
    assert_eq!(usage.size, usage.reclaimable);
    assert_eq!(store.prune(false).unwrap().removed.len(), 1);
    assert_eq!(files(&store, "layers"), 2);
    for directory in ["tmp", "partial"] {
        assert_eq!(files(&store, directory), 0, "{directory}");
    }
    assert_eq!(files(&store, "configs"), 1);
    // A digest alone keeps nothing, as with Docker.
    let mut names = store.names().unwrap();
    let id = store.resolve("app").unwrap().id;
    let digest: Reference = format!("app@{id}").parse().unwrap();
    names.remove("docker.io/library/app:latest");
    names.set(&digest, id);
    store.write_names(&names).unwrap();
    assert_eq!(store.resolve(&digest.to_string()).unwrap().id, id);
    assert_eq!(store.prune(false).unwrap().removed.len(), 2);
    assert_eq!(files(&store, "layers"), 0);
    assert_eq!(store.disk_usage().unwrap(), DiskUsage::default());
}

/// As a crash leaves it, or a disk that was full, after an image has gone and
/// before its names have.
#[test]
fn a_name_without_an_image_stands_for_none() {
    let (_guard, store) = open();
    let id = load(&store, &TestImage::small(), &["app", "old"]);
    fs::remove_file(store.record_path(id)).unwrap();
    for text in ["app", "old", &id.to_string()] {
        let error = store.resolve(text).unwrap_err();
        assert!(
            matches!(error, Error::Unknown(ref name) if name == text),
            "{error}"
        );
        assert!(store.remove(text, true).is_err());
    }
    assert!(store.list().unwrap().is_empty());
    // The same image again has the names that it is given now.
    assert_eq!(load(&store, &TestImage::small(), &["app"]), id);
    assert_eq!(familiar(&store.resolve("app").unwrap()), ["app:latest"]);
    assert!(store.resolve("old").is_err());
}

#[test]
fn what_someone_is_about_to_use_is_not_removed() {
    let (_guard, store) = open();
    load(&store, &TestImage::small(), &["app"]);
    let base = TestImage::small().layers[0].clone();
    let diff_id = Digest::of(&base);
    let job = Job {
        diff_id,
        blob: None,
        open: Box::new(|| panic!("it is there")),
    };
    let held = store.ensure_layers(vec![job], &|_| {}).unwrap();
    store.remove("app", false).unwrap();
    store.prune(true).unwrap();
    assert!(store.layer_path(diff_id).exists());
    drop(held);
    store.prune(true).unwrap();
    assert!(!store.layer_path(diff_id).exists());
}

#[test]
fn damage_is_told_and_can_be_removed() {
    let (_guard, store) = open();
    let id = load(&store, &TestImage::small(), &["app"]);
    load(&store, &other("a"), &["good"]);
    fs::write(store.record_path(id), "{").unwrap();
    let error = store.resolve("app").unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
    assert_eq!(store.list().unwrap().len(), 1);
    store.remove("app", false).unwrap();
    store.prune(false).unwrap();
    assert!(
        store
            .resolve("good")
            .unwrap()
            .layers
            .iter()
            .all(|layer| layer.exists())
    );
    fs::write(store.names_path(), r#"{"version":9}"#).unwrap();
    assert!(matches!(store.list(), Err(Error::Version { found: 9, .. })));
}

#[test]
fn a_layer_of_the_same_tar_may_differ_with_what_is_below() {
    let (_guard, store) = open();
    let upper = TarBuilder::new().file("d/f", b"x").finish();
    let below = |mode| TarBuilder::new().directory("d", mode).finish();
    let image = |mode| TestImage::new(&[below(mode), upper.clone()], <[u8]>::to_vec);
    load(&store, &image(0o700), &["a"]);
    load(&store, &image(0o711), &["b"]);
    let layer = |name| store.resolve(name).unwrap().layers[1].clone();
    assert_ne!(layer("a"), layer("b"));
    for (name, mode) in [("a", 0o700), ("b", 0o711)] {
        let image = crate::erofs::Image::open(&layer(name)).unwrap();
        let tree = crate::erofs::testing::everything(&image);
        assert_eq!(tree["/d"].attributes.mode, mode);
    }
}

#[test]
fn many_at_once() {
    let (_guard, store) = open();
    let root = store.root.clone();
    let names: Vec<String> = (0..4).map(|i| format!("app{i}")).collect();
    thread::scope(|scope| {
        for (i, name) in names.iter().enumerate() {
            let root = &root;
            scope.spawn(move || {
                for round in 0..6 {
                    let store = Store::open(root).unwrap();
                    let image = if (i + round) % 2 == 0 {
                        TestImage::small()
                    } else {
                        other("x")
                    };
                    load(&store, &image, &[name]);
                    // One thread removes the others' images, too.
                    let held = match store.hold(name, name) {
                        Err(Error::Unknown(_)) if i != 0 => continue,
                        held => held.unwrap(),
                    };
                    assert!(held.layers.iter().all(|layer| layer.exists()));
                    store.prune(i == 0).unwrap();
                    assert!(held.layers.iter().all(|layer| layer.exists()));
                    store.release(name).unwrap();
                    // Another thread may have pruned it.
                    let _ = store.remove(name, false);
                }
            });
        }
    });
    store.prune(true).unwrap();
    assert_eq!((files(&store, "layers"), files(&store, "tmp")), (0, 0));
}

const CHILD: &str = "DRUPE_TEST_STORE";

/// Not a test by itself: a process that loads and removes until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let store = Store::open(root.as_ref()).unwrap();
    loop {
        load(&store, &TestImage::small(), &["app"]);
        load(&store, &other("b"), &["app"]);
        store.prune(false).unwrap();
    }
}

fn child(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::child_that_is_killed"])
        .env(CHILD, root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_crash_at_any_point_loses_nothing() {
    let (_guard, store) = open();
    let kept = load(&store, &other("kept"), &["kept"]);
    for round in 0..25_u64 {
        let mut one = child(&store.root);
        let mut two = child(&store.root);
        thread::sleep(Duration::from_millis(20 + round * 7));
        one.kill().unwrap();
        one.wait().unwrap();
        two.kill().unwrap();
        two.wait().unwrap();
        for image in store.list().unwrap() {
            for layer in &image.layers {
                crate::erofs::Image::open(layer).unwrap().root().unwrap();
            }
        }
        assert_eq!(store.resolve("kept").unwrap().id, kept);
    }
    // All that was in the way is gone.
    load(&store, &TestImage::small(), &["app"]);
    store.prune(false).unwrap();
    assert_eq!((files(&store, "layers"), files(&store, "tmp")), (3, 0));
}
