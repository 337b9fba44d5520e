use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::testing::{TarBuilder, TestImage, config};

fn store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(&directory.path().join("images")).unwrap();
    (directory, store)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn load_bytes(store: &Store, bytes: &[u8]) -> Result<Vec<Loaded>, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    store.load(&Input::Path(file.path().to_owned()), None, &|_| {})
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.names.iter().map(Reference::familiar).collect()
}

/// Writes blobs and an index into a directory.
fn layout(directory: &Path, index: &serde_json::Value, blobs: &[Vec<u8>]) {
    let blob_directory = directory.join("blobs/sha256");
    fs::create_dir_all(&blob_directory).unwrap();
    for blob in blobs {
        fs::write(blob_directory.join(Digest::of(blob).hex()), blob).unwrap();
    }
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

fn index_of(image: &TestImage, name: &str) -> serde_json::Value {
    let (manifest, digest) = image.manifest();
    serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "size": manifest.len(),
        "annotations": { "org.opencontainers.image.ref.name": name },
    }]})
}

/// A directory as a tar, with names as `tar -C DIR .` writes them.
fn packed(directory: &Path) -> Vec<u8> {
    let mut tar = TarBuilder::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(path) = queue.pop() {
        let name = path.strip_prefix(directory).unwrap();
        let name = format!("./{}", name.display());
        if path.is_dir() {
            tar.directory(&name, 0o755);
            queue.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            tar.file(&name, &fs::read(&path).unwrap());
        }
    }
    tar.finish()
}

#[test]
fn archives_of_docker_save() {
    let (_guard, store) = store();
    let image = TestImage::small();
    let archive = image.docker_archive(&["app:1", "quay.io/x/app:2"]);
    for form in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let loaded = load_bytes(&store, &form).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].id, image.id());
        assert_eq!(names(&loaded[0]), ["app:1", "quay.io/x/app:2"]);
    }
    let image = store.resolve("app:1").unwrap();
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers.iter().all(|layer| layer.is_file()));
    assert_eq!(image.config.config.cmd.unwrap(), ["/bin/true"]);
}

#[test]
fn layers_that_are_links_or_compressed() {
    let (_guard, store) = store();
    let small = TestImage::small();
    let mut tar = TarBuilder::new();
    tar.file("blobs/a.tar", &gzip(&small.layers[0]))
        .file("b.tar", &zstd(&small.layers[1]));
    tar.symlink("x/layer.tar", "../blobs/a.tar")
        .hard_link("y.tar", "b.tar");
    tar.file("c.json", &small.config);
    tar.file(
        "manifest.json",
        br#"[{"Config":"c.json","RepoTags":null,"Layers":["x/layer.tar","y.tar"]}]"#,
    );
    let loaded = load_bytes(&store, &tar.finish()).unwrap();
    assert_eq!((loaded[0].id, loaded[0].names.len()), (small.id(), 0));
}

#[test]
fn oci_layouts() {
    let (guard, store) = store();
    for (i, stored) in [<[u8]>::to_vec, gzip, zstd].into_iter().enumerate() {
        let tar = TarBuilder::new().file(&format!("f{i}"), b"x").finish();
        let image = TestImage::new(&[tar], stored);
        let directory = guard.path().join(format!("layout{i}"));
        let name = ["localhost/app:1", "app:2", "latest"][i];
        layout(&directory, &index_of(&image, name), &image.blobs());
        let loaded = store
            .load(&Input::Path(directory.clone()), None, &|_| {})
            .unwrap();
        assert_eq!(loaded[0].id, image.id());
        // A tag alone is no name.
        let expected: &[&str] = [&["localhost/app:1"][..], &["app:2"], &[]][i];
        assert_eq!(names(&loaded[0]), expected);
        assert_eq!(load_bytes(&store, &packed(&directory)).unwrap(), loaded);
    }
}

#[test]
fn the_platform_decides() {
    let (guard, store) = store();
    let tar = TarBuilder::new().file("f", b"x").finish();
    let of = |architecture: &str| TestImage {
        config: config(std::slice::from_ref(&tar), architecture),
        layers: vec![tar.clone()],
    };
    let (amd, arm) = (of("amd64"), of("arm64"));
    let entry = |image: &TestImage, architecture: &str| {
        let (manifest, digest) = image.manifest();
        serde_json::json!({ "digest": digest, "size": manifest.len(),
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let manifests = serde_json::json!([
        { "digest": Digest::of(b"attestation"), "size": 1,
          "platform": { "os": "unknown", "architecture": "unknown" } },
        entry(&arm, "arm64"), entry(&amd, "amd64"),
    ]);
    let inner = serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    let mut blobs = [amd.blobs(), arm.blobs()].concat();
    blobs.push(inner.clone().into_bytes());
    let nested = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "digest": Digest::of(inner.as_bytes()), "size": inner.len() }
    ]});
    let flat = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    for (i, index) in [nested, flat].iter().enumerate() {
        let directory = guard.path().join(format!("layout{i}"));
        layout(&directory, index, &blobs);
        let load = |platform: &str| {
            let platform = platform.parse().unwrap();
            store.load(&Input::Path(directory.clone()), Some(&platform), &|_| {})
        };
        assert_eq!(load("linux/amd64").unwrap()[0].id, amd.id());
        assert_eq!(load("linux/arm64").unwrap()[0].id, arm.id());
        let missing = load("linux/s390x").unwrap_err().to_string();
        assert!(
            missing.contains("linux/s390x") && missing.contains("linux/arm64"),
            "{missing}"
        );
    }
}

#[test]
fn what_is_wrong_is_told_and_nothing_stays() {
    let (guard, store) = store();
    let image = TestImage::small();
    let archive = image.docker_archive(&["app"]);
    let fails = |bytes: &[u8], expected: &str| {
        let error = load_bytes(&store, bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    fails(b"", "neither");
    fails(&TarBuilder::new().file("a", b"").finish(), "drupe import");
    fails(&[b'x'; 4096], "not a tar archive");
    fails(&archive[..archive.len() / 2], "truncated");
    let compressed = gzip(&archive);
    fails(&compressed[..compressed.len() / 2], "");
    // The wrong layer, a layer that is missing, a config of other layers.
    let swapped = TestImage {
        layers: image.layers.iter().rev().cloned().collect(),
        ..TestImage::small()
    };
    fails(&swapped.docker_archive(&["app"]), "in place of");
    let mut tar = TarBuilder::new();
    tar.file("c.json", &image.config);
    tar.file(
        "manifest.json",
        br#"[{"Config":"c.json","Layers":["a","../b"]}]"#,
    );
    fails(&tar.finish(), "'a' is missing");
    let fewer = TestImage {
        layers: image.layers[..1].to_vec(),
        ..TestImage::small()
    };
    fails(&fewer.docker_archive(&["app"]), "2 layers in the config");
    fails(&image.docker_archive(&["Not A Name"]), "not an image name");
    let truncated = TestImage {
        layers: image
            .layers
            .iter()
            .map(|l| l[..l.len() - 1600].to_vec())
            .collect(),
        ..TestImage::small()
    };
    fails(&truncated.docker_archive(&["app"]), "");
    // A blob that is not what its name says.
    let directory = guard.path().join("layout");
    layout(&directory, &index_of(&image, "app:1"), &image.blobs());
    let blob = directory
        .join("blobs/sha256")
        .join(Digest::of(&image.layers[1]).hex());
    let mut bytes = image.layers[1].clone();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let load = || store.load(&Input::Path(directory.clone()), None, &|_| {});
    assert!(load().unwrap_err().to_string().contains("in place of"));
    fs::remove_file(blob).unwrap();
    assert!(load().unwrap_err().to_string().contains("missing"));
    assert!(store.list().unwrap().is_empty());
    let missing = store.load(&Input::Path("/nonexistent".into()), None, &|_| {});
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .starts_with("/nonexistent: ")
    );
    assert_eq!(
        fs::read_dir(guard.path().join("images/tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_root_becomes_an_image() {
    let (guard, store) = store();
    let tar = TarBuilder::new().file("bin/sh", b"x").finish();
    let path = guard.path().join("root.tar.gz");
    fs::write(&path, gzip(&tar)).unwrap();
    let name = "mine".parse().unwrap();
    let mut import = crate::Import {
        from: &Input::Path(path),
        name: Some(&name),
        config: Default::default(),
        message: None,
        platform: None,
    };
    import.config.change("CMD [\"/bin/sh\"]").unwrap();
    let id = store.import(&import, &|_| {}).unwrap();
    let image = store.resolve("mine:latest").unwrap();
    assert_eq!((image.id, image.layers.len()), (id, 1));
    assert_eq!(image.config.rootfs.diff_ids, [Digest::of(&tar)]);
    assert_eq!(image.config.config.cmd.unwrap(), ["/bin/sh"]);
    assert_eq!(image.config.os, "linux");
}
