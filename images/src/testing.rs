//! Tars for tests.

use crate::Digest;
use tar::{Builder, EntryType, Header};

/// A tar that grows entry by entry.
pub struct TarBuilder(Builder<Vec<u8>>);

impl TarBuilder {
    pub fn new() -> Self {
        TarBuilder(Builder::new(Vec::new()))
    }

    pub fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    pub fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.entry(path, EntryType::Regular, 0o644, "", data)
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, EntryType::Symlink, 0o777, target, b"")
    }

    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, EntryType::Link, 0o644, target, b"")
    }

    /// Any entry, with a name and a target as they stand.
    pub fn entry(
        &mut self,
        path: &str,
        kind: EntryType,
        mode: u32,
        target: &str,
        data: &[u8],
    ) -> &mut Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        self.long(b'L', path).long(b'K', target);
        let gnu = header.as_gnu_mut().unwrap();
        put(&mut gnu.name, path);
        put(&mut gnu.linkname, target);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    /// An entry with this header.
    pub fn raw(&mut self, header: &Header, data: &[u8]) -> &mut Self {
        self.0.append(header, data).unwrap();
        self
    }

    /// PAX records for the next entry.
    pub fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let records = records.iter().map(|(key, value)| (*key, *value));
        self.0.append_pax_extensions(records).unwrap();
        self
    }

    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.0, Builder::new(Vec::new()))
            .into_inner()
            .unwrap()
    }

    fn long(&mut self, kind: u8, text: &str) -> &mut Self {
        if text.len() > 100 {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::new(kind));
            header.set_size(text.len() as u64);
            put(&mut header.as_gnu_mut().unwrap().name, "././@LongLink");
            header.set_cksum();
            self.0.append(&header, text.as_bytes()).unwrap();
        }
        self
    }
}

fn put(field: &mut [u8], text: &str) {
    let n = field.len().min(text.len());
    field[..n].copy_from_slice(&text.as_bytes()[..n]);
}

/// An image with these layers, lowest first: each one's tar as it is stored.
pub struct TestImage {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl TestImage {
    /// An image of tars, stored as `stored` makes them.
    pub fn new(tars: &[Vec<u8>], stored: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        TestImage {
            config: config(tars, "amd64"),
            layers: tars.iter().map(|tar| stored(tar)).collect(),
        }
    }

    /// One of two layers, the second of which needs the first.
    pub fn small() -> Self {
        let base = TarBuilder::new()
            .directory("etc", 0o750)
            .file("etc/a", b"a")
            .finish();
        let mut upper = TarBuilder::new();
        upper.file("etc/.wh.a", b"").file("etc/b", &[7; 10_000]);
        TestImage::new(&[base, upper.finish()], <[u8]>::to_vec)
    }

    /// As `docker save` writes it.
    pub fn docker_archive(&self, names: &[&str]) -> Vec<u8> {
        let mut tar = TarBuilder::new();
        let mut files = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            files.push(format!("{i}/layer.tar"));
            tar.file(&files[i], layer);
        }
        tar.file("config.json", &self.config);
        let manifest = serde_json::json!([
            { "Config": "config.json", "RepoTags": names, "Layers": files }
        ]);
        tar.file("manifest.json", manifest.to_string().as_bytes());
        tar.finish()
    }

    /// The manifest with its digest.
    pub fn manifest(&self) -> (Vec<u8>, Digest) {
        let descriptor = |kind: &str, bytes: &[u8]| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": Digest::of(bytes),
                "size": bytes.len(),
            })
        };
        let layers = self
            .layers
            .iter()
            .map(|layer| descriptor("layer.v1.tar", layer));
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &self.config),
            "layers": layers.collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        (manifest, digest)
    }

    /// All blobs of the image with the manifest.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs = self.layers.clone();
        blobs.push(self.config.clone());
        blobs.push(self.manifest().0);
        blobs
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }
}

/// The config of an image with these layers.
pub fn config(tars: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::of(tar)).collect();
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/bin/true"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}
