//! The documents of the OCI image specification and Docker's, as far as an image
//! needs them: index, manifest, config.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Error};

/// The largest document, in bytes; the specification asks registries to take
/// manifests of 4 MiB.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The most layers of an image: Docker has 127, and guests see a partition each.
pub const MAX_LAYERS: usize = 127;

/// What a registry is asked for.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// What points at a document or a layer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A layer of a kind that is not told by its bytes.
    pub fn is_layer(&self) -> bool {
        self.media_type.contains(".layer.")
            || self.media_type.contains(".rootfs.")
            || self.media_type.is_empty()
    }
}

/// An index, or Docker's manifest list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub manifests: Vec<Descriptor>,
}

/// A manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
}

/// An operating system on an architecture, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As `linux`.
    pub os: String,
    /// As `amd64`.
    pub architecture: String,
    /// As `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// What this machine runs.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    /// Whether an image of `self` is what is asked for. A variant that is not
    /// asked for may be any.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        let default = (self.architecture == "arm64").then(|| "v8".to_owned());
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none()
                || wanted.variant == self.variant
                || (self.variant.is_none() && wanted.variant == default))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl std::str::FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/').map(str::to_lowercase);
        let mut next = || parts.next().filter(|part| !part.is_empty());
        match (next(), next(), next(), next()) {
            (Some(os), Some(architecture), variant, None)
                if !text.ends_with('/') && text.matches('/').count() < 3 =>
            {
                let architecture = match &*architecture {
                    "x86_64" | "x86-64" => "amd64".into(),
                    "aarch64" => "arm64".into(),
                    _ => architecture,
                };
                Ok(Platform {
                    os,
                    architecture,
                    variant,
                })
            }
            _ => Err(format!(
                "'{text}' is not a platform: give OS/ARCH, as linux/amd64"
            )),
        }
    }
}

/// Whether a document is an index. Old ones do not say so themselves.
pub fn is_index(document: &[u8]) -> Result<bool, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        #[serde(default)]
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let any: Any =
        serde_json::from_slice(document).map_err(|e| Error::document("the manifest", e))?;
    match any {
        Any {
            schema_version: 1, ..
        } => Err(Error::document(
            "the manifest",
            "of Docker's first format, which is out of use: build the image anew",
        )),
        // Both at once would be read in one way here and another elsewhere.
        Any {
            manifests: Some(_),
            layers: Some(_),
            ..
        } => Err(Error::document(
            "the manifest",
            "a manifest and an index at once",
        )),
        any => Ok(any.manifests.is_some()),
    }
}

/// Reads a manifest whose layers are those of an image.
pub fn parse_manifest(document: &[u8]) -> Result<Manifest, Error> {
    let manifest: Manifest =
        serde_json::from_slice(document).map_err(|e| Error::document("the manifest", e))?;
    match manifest.layers.iter().find(|layer| !layer.is_layer()) {
        Some(other) => Err(Error::document(
            "the manifest",
            format!("'{}' is not an image's layer", other.media_type),
        )),
        None => Ok(manifest),
    }
}

/// The manifest for a platform, the first of several that fit.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| p.satisfies(wanted));
    let mut manifests = index.manifests.iter();
    match index.manifests.as_slice() {
        // Some indexes of one image do not say what for.
        [only] if only.platform.is_none() => Some(only),
        _ => manifests.find(fits),
    }
}

/// The platforms of an index, without what is no image.
pub fn platforms(index: &Index) -> Vec<String> {
    let platforms = index.manifests.iter().filter_map(|d| d.platform.as_ref());
    let images = platforms.filter(|p| p.os != "unknown");
    let mut names: Vec<_> = images.map(Platform::to_string).collect();
    names.dedup();
    names
}

/// An image's config (OCI image specification, "Image Configuration").
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The architecture, in Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The architecture's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system, in Go's names.
    #[serde(default)]
    pub os: String,
    /// How a container runs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// Its layers.
    pub rootfs: RootFs,
    /// How it came about.
    #[serde(default, deserialize_with = "null_is_default")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().filter(|v| !v.is_empty()),
        }
    }
}

/// How a container of an image runs. A health check is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `USER[:GROUP]`, by name or number.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `PORT/PROTOCOL` each.
    #[serde(
        deserialize_with = "keys",
        serialize_with = "as_keys",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub exposed_ports: Vec<String>,
    /// `NAME=VALUE` each.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// What is run, before the arguments.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments, or what is run when there is no entry point.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Directories that keep their content.
    #[serde(
        deserialize_with = "keys",
        serialize_with = "as_keys",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub volumes: Vec<String>,
    /// Where it is run.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Free text by name.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The digests of their tars, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// A step in an image's making.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Anything about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Go writes `null` for what is empty.
fn null_is_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Old images have a string in the place of a list of one.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::deserialize(from)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// Go's sets are maps to empty objects.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, serde_json::Value>> = Option::deserialize(from)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn as_keys<S: serde::Serializer>(keys: &[String], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(keys.iter().map(|key| (key, BTreeMap::<&str, &str>::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_as_docker_writes_it() {
        let text = r#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z",
            "config":{"Hostname":"","User":"","Env":["PATH=/bin"],"Cmd":["bash"],"Entrypoint":null,
            "Volumes":{"/data":{}},"Labels":null,"ExposedPorts":{"80/tcp":{}},"OnBuild":null,
            "Healthcheck":{"Test":["NONE"]}},"history":null,
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["bash".to_owned()][..]));
        assert_eq!(config.config.entrypoint, None);
        assert_eq!(config.config.volumes, ["/data"]);
        assert_eq!(config.config.exposed_ports, ["80/tcp"]);
        assert_eq!(config.platform().to_string(), "linux/amd64");
        let again: ImageConfig =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        let null = r#"{"config":null,"rootfs":{}}"#;
        assert!(serde_json::from_str::<ImageConfig>(null).is_ok());
    }

    #[test]
    fn platforms_match() {
        let p = |text: &str| text.parse::<Platform>().unwrap();
        assert!(p("linux/amd64").satisfies(&p("linux/x86_64")));
        assert!(p("linux/arm64").satisfies(&p("linux/arm64/v8")));
        assert!(p("linux/arm/v7").satisfies(&p("linux/arm")));
        assert!(!p("linux/arm/v6").satisfies(&p("linux/arm/v7")));
        assert!(!p("windows/amd64").satisfies(&p("linux/amd64")));
        for bad in ["linux", "linux/", "/amd64", "a/b/c/d", "", "a/b/"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
